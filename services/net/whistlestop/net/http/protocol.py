"""An HTTP/1.1 connection with limits: uvicorn's protocol, and bounds on what a peer may use.

- Every phase of a connection has a limit in bytes and time: before a request, headers, body, and an answer that the
  peer does not read. A request that arrives in one piece needs no timer.
- While the peer is not authenticated, it also counts towards the process's budget (`net.budget`), is read from in
  small pieces, and no more of a body is read before the application wants it.
- Headers are checked before the application sees them. Anything that a proxy in front could interpret differently is
  refused.
- Trailers are counted and dropped: they arrive after the caller was authorised, so they must not change the headers.
- The rest of an unwanted body is discarded up to a limit, so that its sender can read the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.net import certificates
from whistlestop.net.http.asgi import PEER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from whistlestop.net.budget import Account, Request
    from whistlestop.net.http.asgi import App
    from whistlestop.net.http.state import ServerState


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of a connection. Sizes are in bytes, times in seconds."""

    head: int = 64 * 1024
    """Request line and headers."""
    target: int = 32 * 1024
    """Path and query of the request line."""
    headers: int = 256
    framing: int = 16 * 1024
    """Chunk sizes, chunk extensions and trailers, beyond an allowance of 16 bytes a chunk and twice its data."""
    discarded: int = 256 * 1024
    """Body data that arrives after the request was answered."""
    pipelined: int = 16
    """Requests of a connection that wait for the answer to an earlier one."""
    head_s: float = 10.0
    """From the first byte (of a new connection: from its start) to the end of the headers."""
    body_s: float = 60.0
    linger_s: float = 2.0
    """For a peer to read an error while it is still sending."""
    stalled_s: float = 20.0
    """For the next 64 KiB of an answer to be read."""
    keep_alive_s: float = 5.0


_PIECE_UNAUTHENTICATED = 8 * 1024
_PIECE = 256 * 1024
_buffer = memoryview(bytearray(_PIECE))
"""Receives what is read, which is copied at once, so that all connections can share it."""
_PROGRESS = 64 * 1024
_REQUEST_LINE = len("  HTTP/1.1\r\n")
_HEADER_LINE = len(": \r\n")
_PER_CHUNK = 16
_TARGETS = frozenset({b"/", b"*"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


_IDLE, _HEAD, _BODY = range(3)
"""What is being read: nothing, headers, a body. Plain integers, because they are compared often."""


class _RefusedRequest(Exception):
    """Stops the parser; the protocol keeps the error to send."""


class _Flow(FlowControl):
    """Uvicorn's flow control, with one more reason to pause reading."""

    rests = False
    """The peer has used up its CPU time."""

    def resume_reading(self) -> None:
        if not self.rests:
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """The protocol of a connection; see the module's docstring. ASGI's state contains it as PEER."""

    flow: _Flow

    def __init__(self, config: uvicorn.Config, state: ServerState, limits: HttpLimits, account: Account) -> None:
        super().__init__(config, state, {PEER: self})  # type: ignore[arg-type]  # it has the attributes that are used
        self._state = state
        self._limits = limits
        self._account = account
        self._received = 0
        self.url = b""
        self.timeout_keep_alive = limits.keep_alive_s  # type: ignore[assignment]  # a float will do
        self._phase = _IDLE
        self._framing = 0
        """Bytes of the current message outside its body; once the headers are complete, only those after the
        headers."""
        self._allowed = 0
        """Limit of `_framing` while a body is received."""
        self._discarded = 0
        self._head: list[tuple[bytes, bytes]] = []
        """The headers of the request whose body is being received."""
        self._refusal: tuple[HTTPStatus, str] | None = None
        self._counted: deque[Request] = deque()
        """The budget's records of requests that are not answered yet."""
        self._ending = False
        """Nothing more is read."""
        self._running: RequestResponseCycle
        """The request that the application is serving, or served last."""
        self._timed: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    # -- the connection --

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        """Begin to serve a connection (asyncio's callback)."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._account.set_peer(self)
        self._state.connection_opened()
        self._watch(_HEAD)
        if not self._account.is_open:  # the budget dropped it during its TLS handshake
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release what a closed connection held; `exc` is None when it closed in order (asyncio's callback)."""
        self._unset_keepalive_if_required()
        for timer in (self._timer, self._stall_timer, self._rest_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall_timer = self._rest_timer = None
        self._ending = True
        self._account.close()
        super().connection_lost(exc)
        self._state.connection_closed()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next received bytes (asyncio's callback)."""
        return _buffer if self._account.authenticated else _buffer[:_PIECE_UNAUTHENTICATED]

    def buffer_updated(self, nbytes: int) -> None:
        """Handle `nbytes` received bytes in the buffer (asyncio's callback)."""
        if self._ending:
            return
        self._received += 1
        data = bytes(_buffer[:nbytes])
        if self._account.authenticated:
            self.data_received(data)
            return
        began_s = time.thread_time()
        self.data_received(data)
        if self._phase == _BODY and not self._account.authenticated:
            self.flow.pause_reading()  # until the application wants the body
        self.spend_cpu(time.thread_time() - began_s)

    def data_received(self, data: bytes) -> None:
        """Handle received bytes; answer with an error and close when a limit is exceeded."""
        self._unset_keepalive_if_required()
        self._framing += len(data)
        if not self._fed(data):
            return
        if self._phase == _BODY:
            if self._framing > self._allowed:
                self._refuse(HTTPStatus.BAD_REQUEST, "The chunks of the body have too much around them.")
                return
            self._watch(_BODY)
        elif self._phase == _HEAD or self._framing:
            if len(self.url) > self._limits.target:
                self._refuse(*_TARGET_TOO_LONG)
                return
            if self._framing > self._limits.head or len(self.headers or ()) > self._limits.headers:
                self._refuse(*_HEAD_TOO_LARGE)
                return
            self._watch(_HEAD)
        else:
            if self._timed is not None:
                self._watch(None)
            if self._is_answered(none_is=False) and self.timeout_keep_alive_task is None:
                # The answer went out before the request was complete.
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _fed(self, data: bytes) -> bool:
        """Parse received data. Return False if the connection ends here."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            # Nothing is logged, so that a peer cannot fill our log.
            self._refuse(*(self._refusal or (HTTPStatus.BAD_REQUEST, "Invalid HTTP request received.")))
            return False
        return not self._ending

    def _without_upgrade(self, rest: bytes) -> bool:
        """Go on with HTTP/1.1, ignoring an `Upgrade` as a server may. The parser took the body for another protocol."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        for name, value in self._head:
            if name in _FRAMING:
                self._fed(b"POST / HTTP/1.1\r\n%b: %b\r\n\r\n" % (name, value))
        return self._fed(rest) if rest else not self._ending

    # -- the parser's callbacks --

    def on_message_begin(self) -> None:
        if self._phase == _BODY:
            return  # a second parser reads the body of a request whose head a first one has read
        super().on_message_begin()
        self._phase = _HEAD
        if not self._account.authenticated:
            counted = self._account.open_request(self._make_room)
            if counted is None:
                self._stop(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests at once.")
            else:
                self._counted.append(counted)

    def on_headers_complete(self) -> None:
        if self._phase == _BODY:
            return  # as above
        limits = self._limits
        if len(self.url) > limits.target:
            self._stop(*_TARGET_TOO_LONG)
        if len(self.headers) > limits.headers:
            self._stop(*_HEAD_TOO_LARGE)
        head, wrong = _checked(self.headers, self.url, self.parser)
        if wrong is not None:
            self._stop(HTTPStatus.BAD_REQUEST, wrong)
        if head > limits.head:
            self._stop(*_HEAD_TOO_LARGE)
        if self.pipeline and len(self.pipeline) >= limits.pipelined:
            self._stop(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests at once on one connection.")
        if self._counted:
            self._count_bytes(head)
        earlier: Any = self.cycle
        super().on_headers_complete()
        if earlier is None or earlier.response_complete:
            self._running = self.cycle
        self._head = self.headers
        self.headers = []  # what comes from now on are trailers
        self._phase = _BODY
        self._framing = self._framing - head if self._framing > head else 0
        self._allowed = limits.framing
        self._discarded = 0

    def on_chunk_header(self) -> None:
        """Allow for the framing of another chunk. Called by httptools."""
        self._allowed += _PER_CHUNK

    def on_body(self, body: bytes) -> None:
        """Take a piece of a request's body (the parser's callback)."""
        size = len(body)
        self._framing = self._framing - size if self._framing > size else 0
        self._allowed += 2 * size
        if self.cycle.response_complete:
            self._discarded += size
            if self._discarded > self._limits.discarded:
                self._end()
            return
        if self._counted:
            self._count_bytes(size)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and any(name in _FRAMING for name, _ in self._head):
            return  # the body follows, see `_without_upgrade`
        super().on_message_complete()
        self._phase = _IDLE
        self._framing = 0
        if self._counted:
            self._counted[-1].finish()

    def _count_bytes(self, size: int) -> None:
        if not self._counted[-1].count_bytes(size):
            self._stop(HTTPStatus.TOO_MANY_REQUESTS, "Too many unfinished requests of unauthenticated callers.")

    def _stop(self, status: HTTPStatus, message: str) -> None:
        self._refusal = status, message
        raise _RefusedRequest

    # -- the application's view of the peer --

    @property
    def is_authenticated(self) -> bool:
        """Whether an authenticated caller has used this connection."""
        return self._account.authenticated

    def authenticate(self) -> None:
        """Record that an authenticated caller uses this connection."""
        self._account.authenticate()
        while self._counted:
            self._counted.popleft().close()

    def spend_cpu(self, seconds: float) -> None:
        """Count CPU time, and pause reading if it was too much."""
        rest_s = self._account.spend_cpu(seconds)
        if rest_s > 0 and not self._ending and not self.flow.rests:
            self.flow.pause_reading()
            self.flow.rests = True
            self._rest_timer = self.loop.call_later(rest_s, self._rested)

    def _rested(self) -> None:
        self._rest_timer = None
        self.flow.rests = False
        if not self._ending and not self.pipeline:
            self.flow.resume_reading()

    # -- the budget's Peer --

    def activity(self) -> int:
        """Return a number that grows whenever data arrives."""
        return self._received

    def is_busy(self) -> bool:
        """Return whether a request is in progress."""
        return self._phase != _IDLE or not self._is_answered(none_is=True)

    def close_idle(self) -> None:
        """Close the connection, because it is idle."""
        self._close()

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    # -- answers --

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()
        if self._counted:
            self._counted.popleft().close()
        if self.transport.get_write_buffer_size():
            self._watch_writing()
        if self.transport.is_closing() or self._phase == _IDLE:
            return
        if self.cycle.response_complete and self._phase == _BODY:
            self._set_timer(self._limits.linger_s, self._expire)  # the rest of an unwanted body
        else:
            self._timed = None
            self._watch(self._phase)

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def _watch_writing(self) -> None:
        if self._stall_timer is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._stall_timer = self.loop.call_later(self._limits.stalled_s, self._check_writing)

    def _check_writing(self) -> None:
        """Drop a peer that does not read its answers."""
        self._stall_timer = None
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            return
        if self._unsent - unsent < min(_PROGRESS, self._unsent):
            self.transport.abort()
        else:
            self._watch_writing()

    # -- the end --

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Send an error and end the connection; if earlier requests are unanswered, end it after their answers."""
        if self._is_answering_another():
            if self._phase == _BODY:
                self.pipeline.popleft()  # the refused request, which gets no answer
            self._stop_reading()
            (self.pipeline[0][0] if self.pipeline else self._running).keep_alive = False
            return
        if self._phase != _BODY or not self.cycle.response_started:
            body = message.encode()
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
                + body
            )
        self._end()

    def _end(self) -> None:
        """Stop reading and serving, and close after giving the peer a moment to read the answer."""
        self._stop_reading()
        self.pipeline.clear()
        if not self._is_answered(none_is=True):
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
        self._set_timer(self._limits.linger_s, self._close)

    def _stop_reading(self) -> None:
        self._ending = True
        self._unset_keepalive_if_required()
        self.flow.pause_reading()
        self.flow.rests = True

    def _close(self) -> None:
        if self.transport.get_write_buffer_size():
            self._watch_writing()
        self.transport.close()

    def _watch(self, phase: int | None) -> None:
        """Start the timer of a phase, unless it is running."""
        if phase == self._timed:
            return
        self._timed = phase
        if phase is not None:
            self._set_timer(self._limits.head_s if phase == _HEAD else self._limits.body_s, self._expire)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, after_s: float, action: Callable[[], Any]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(after_s, action)

    def _expire(self) -> None:
        """End a request that takes too long or has to make room."""
        if self._ending or self.transport.is_closing():
            return
        if self._is_answering_another():
            self._timed = None  # timed anew when that answer is complete
        elif self._framing or self._phase != _IDLE:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request did not come in time.")
        else:
            self._close()

    def _make_room(self) -> None:
        """End a request for which the budget has no room any more."""
        if self._phase == _IDLE:
            self._end()
        else:
            self._expire()

    def _is_answering_another(self) -> bool:
        """Return whether a request before the one being received is not answered completely yet."""
        if self._phase == _BODY:
            return bool(self.pipeline)
        return not self._is_answered(none_is=True)

    def _is_answered(self, *, none_is: bool) -> bool:
        """Return whether the last request is answered; `none_is` if there was no request yet."""
        cycle: Any = self.cycle
        return cycle.response_complete if cycle is not None else none_is


_TARGET_TOO_LONG = (HTTPStatus.REQUEST_URI_TOO_LONG, "The path and query of the request are too long.")
_HEAD_TOO_LARGE = (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The head of the request is too large.")


def _checked(
    headers: Iterable[tuple[bytes, bytes]], url: bytes, parser: httptools.HttpRequestParser
) -> tuple[int, str | None]:
    """Return the size of the headers, and an error that the parser ignores (ambiguous length or host), or None."""
    method, version = parser.get_method(), parser.get_http_version()
    size = len(method) + len(url) + _REQUEST_LINE
    host = wrong = None
    for name, value in headers:
        size += len(name) + len(value) + _HEADER_LINE
        if name == b"host":
            if host is not None:
                wrong = "There are several Host headers."
            host = value
        elif name == b"transfer-encoding" and (value.lower() != b"chunked" or version != "1.1"):
            wrong = "Transfer-Encoding has to be chunked, in HTTP/1.1."
    if host is None and version == "1.1":
        wrong = "The Host header is missing."
    elif method == b"CONNECT":
        wrong = "CONNECT is not served here."
    elif url[:1] not in _TARGETS:
        authority = url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        if host is not None and authority != host:
            wrong = "The Host header is not that of the address."
    return size, wrong


class _WithCertificates(BoundedProtocol):
    """Also passes the names of the client's certificate to the application, in ASGI's state."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the base class
        super().connection_made(transport)
        self.app_state = {**self.app_state, certificates.HEADER: certificates.names_of(transport)}


def protocols(
    app: App, state: ServerState, limits: HttpLimits | None, keep_alive_s: float, *, requests_certificates: bool
) -> Callable[[Account], BoundedProtocol]:
    """Return a function that makes the protocol of a connection, given its account.

    Without `limits`, the default ones apply.
    """
    bounds = replace(limits or HttpLimits(), keep_alive_s=keep_alive_s)
    kind = _WithCertificates if requests_certificates else BoundedProtocol
    config = uvicorn.Config(
        app, interface="asgi3", http=kind, loop="none", lifespan="off", log_config=None, access_log=False, ws="none",
        proxy_headers=False,
    )  # fmt: skip
    config.load()
    return lambda account: kind(config, state, bounds, account)
