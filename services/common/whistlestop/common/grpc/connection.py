"""The top storey of a connection: frames in (RFC 9113, sections 3 to 6).

Rules of this file: it takes frames apart and tells the storeys below. Every frame is checked against the state it
meets; a fault ends the stream or the connection with the code that the RFC names, never with a traceback. What a
peer may make us keep or do is bounded in `limits.py`.

    preface -> SETTINGS -> frames ... -> GOAWAY (drain) -> GOAWAY (last stream) -> closed

A drain says GOAWAY with the largest stream number and a ping; the ping's answer shows that the peer has read it, so
the second GOAWAY, with the true last stream, cuts off no call that was under way.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from whistlestop.common import certificates
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.grpc import frames, peers, status
from whistlestop.common.grpc.calls import Calls
from whistlestop.common.grpc.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADER_SIZE,
    HEADERS,
    LEAST_MAX_FRAME,
    PADDED,
    STREAM_ID,
    WITH_PRIORITY,
    ConnectionFault,
    ErrorCode,
    StreamFault,
)
from whistlestop.common.grpc.head import MALFORMED, Head, read_head
from whistlestop.common.grpc.hpack import Decoder, HpackError
from whistlestop.common.grpc.stream import Stream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from whistlestop.common.grpc.limits import Limits, Service

logger = logging.getLogger(__name__)

_DRAIN_PING: Final = b"draining"
_MOST_KNOWN = 256
_LONGEST_KNOWN = 1_024
_MOST_CONTINUATIONS = 64
_PING_SIZE = 8


class Connection(Calls):
    """One connection of one peer."""

    def __init__(
        self, service: Service, limits: Limits, loop: asyncio.AbstractEventLoop,
        came: Callable[[Connection], None], gone: Callable[[Connection], None],
    ) -> None:
        super().__init__(service, limits, loop)
        self._came = came
        self._gone = gone
        self._watch: asyncio.TimerHandle | None = None
        """Ends a connection that takes too long to greet, or to close."""
        self._rest = b""
        self._greeted = False
        self._settled = False
        self._last = 0
        """The highest stream number of the peer."""
        self._certificate = ""
        """The names in the peer's certificate."""
        self._decoder = Decoder()
        self._known: dict[bytes, Head] = {}
        """Heads by their blocks, as long as the table that the blocks were read with stays as it is."""
        self._open_block: tuple[int, int, bytearray] | None = None
        self._continuations = 0
        self._unacknowledged = 0
        self._receive_left = limits.connection_window
        self._grant_at = limits.connection_window // 2
        self._stream_grant_at = limits.stream_window // 2
        self._struck_at = loop.time()
        self._draining = False
        self._cut_off: int | None = None
        """Streams above it are not served any more."""
        self._by_kind: tuple[Callable[[bytes, int, int], None], ...] = (
            self._on_priority, self._on_rst_stream, self._on_settings, self._on_push_promise, self._on_ping,
            self._on_goaway, self._on_window_update,
        )  # fmt: skip

    # -- the transport --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watch = self._loop.call_later(self.limits.handshake_s, self._handshake_expired)
        if peers.is_on_this_machine(transport):
            self._compress_from = None
        self._certificate = certificates.names_of(transport)
        peers.keep_alive(transport.get_extra_info("socket"))
        self._came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watch()
        self.abandon_all()
        self._rest = b""
        self._known.clear()
        self._gone(self)

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self.lost:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0
        try:
            if not self._greeted:
                if not self._greet(data):
                    return
                at = len(frames.PREFACE)
            at = self._read_frames(data, at)
        except ConnectionFault as fault:
            self._fail(fault.code, fault.reason)
            return
        except HpackError as error:
            self._fail(ErrorCode.COMPRESSION_ERROR, str(error))
            return
        except Exception:
            logger.exception("a connection failed")
            self._fail(ErrorCode.INTERNAL_ERROR, "internal error")
            return
        if at < len(data):
            self._rest = data[at:]
        if self._paused:
            self.hold_reading()

    def _read_frames(self, data: bytes, at: int) -> int:
        """Serve all whole frames from `at` on; where the rest begins."""
        unpack = FRAME_HEADER.unpack_from
        end = len(data)
        while end - at >= HEADER_SIZE:
            head, flags, number = unpack(data, at)
            start = at + HEADER_SIZE
            stop = start + (head >> 8)
            if stop - start > LEAST_MAX_FRAME:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than was agreed")
            if stop > end:
                break
            at = stop
            kind = head & 0xFF
            number &= STREAM_ID
            if self._open_block is not None and (kind != CONTINUATION or number != self._open_block[0]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
            try:
                if kind == DATA:
                    self._on_data(data, start, stop, flags, number)
                elif kind == HEADERS:
                    self._on_headers(data, start, stop, flags, number)
                elif not self._settled and kind != frames.SETTINGS:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                elif kind == CONTINUATION:
                    self._on_continuation(data[start:stop], flags)
                elif kind < CONTINUATION:
                    self._by_kind[kind - 2](data[start:stop], flags, number)
                else:
                    self._strike()  # of an extension: to be ignored
            except StreamFault as fault:
                self._on_stream_fault(fault)
            if self.lost:
                return end
        return at

    # -- the beginning --

    def _greet(self, data: bytes) -> bool:
        """Whether the preface is there; True once, and then our settings are sent."""
        if not data.startswith(frames.PREFACE):
            if frames.PREFACE.startswith(data):
                self._rest = data
            elif peers.speaks_http_1(data):
                self.write(peers.HTTP_1_ANSWER)
                self._hang_up()
            else:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
            return False
        self._greeted = True
        limits = self.limits
        self.write(
            frames.settings((
                (frames.MAX_CONCURRENT_STREAMS, limits.max_streams),
                (frames.INITIAL_WINDOW_SIZE, limits.stream_window),
                (frames.MAX_HEADER_LIST_SIZE, limits.max_header_list),
            )) + frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW)
        )  # fmt: skip
        if self._draining:
            self._say_goodbye()
        return True

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _handshake_expired(self) -> None:
        if not self._settled and not self.lost:
            self._fail(ErrorCode.SETTINGS_TIMEOUT, "no SETTINGS came")

    # -- requests --

    def _on_headers(self, data: bytes, start: int, stop: int, flags: int, number: int) -> None:
        if not self._settled:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if not number & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's streams have odd numbers")
        if flags & (PADDED | WITH_PRIORITY):
            if flags & PADDED:
                start, stop = frames.unpadded(data, start, stop)
            if flags & WITH_PRIORITY:
                start += 5
                if start > stop:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS shorter than their priority")
        if flags & END_HEADERS:
            self._on_block(data[start:stop], flags, number)
        else:
            self._open_block = (number, flags, bytearray(data[start:stop]))
            self._continuations = 0

    def _on_continuation(self, payload: bytes, flags: int) -> None:
        if self._open_block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        number, first_flags, block = self._open_block
        block += payload
        self._continuations += 1
        if len(block) > self.limits.max_header_list or self._continuations > _MOST_CONTINUATIONS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block without measure")
        if flags & END_HEADERS:
            self._open_block = None
            self._on_block(bytes(block), first_flags, number)

    def _on_block(self, block: bytes, flags: int, number: int) -> None:
        head = self._known.get(block) or self._read_head(block)
        if number <= self._last:
            self._on_trailers(flags, number)
            return
        if self._cut_off is not None:
            return
        self._last = number
        limits = self.limits
        if head is MALFORMED:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        if len(self.streams) >= limits.max_streams or self._running >= limits.max_streams:
            raise StreamFault(number, ErrorCode.REFUSED_STREAM)
        stream = Stream(number, head, limits.stream_window, self._initial_window)
        self.streams[number] = stream
        if head.refusal is not None:
            stream.ended = bool(flags & END_STREAM)
            self.refuse(stream, head.refusal, b"")
            return
        self.begin(stream)
        if flags & END_STREAM:
            self.end(stream, b"")

    def _read_head(self, block: bytes) -> Head:
        decoder = self._decoder
        before = decoder.changes
        fields = decoder.decode(block, self.limits.max_header_list)
        if fields is None:
            head = Head("", None)
            head.refusal = status.trailers_only(
                ServiceError(Code.RESOURCE_EXHAUSTED, "the request's metadata is too large"), 431
            )
            return head
        head = read_head(fields, self._service.method)
        if self._certificate and head is not MALFORMED:
            head.headers = {**head.headers, certificates.HEADER: self._certificate}
        if decoder.changes != before or len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        if decoder.changes == before and len(block) <= _LONGEST_KNOWN:
            self._known[block] = head
        return head

    def _on_trailers(self, flags: int, number: int) -> None:
        """A second header block: what it says means nothing to gRPC, but it ends the request."""
        stream = self.streams.get(number)
        if stream is None:
            self._strike()  # of a stream that is over
        elif stream.ended:
            raise StreamFault(number, ErrorCode.STREAM_CLOSED)
        elif not flags & END_STREAM:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        else:
            self.end(stream, b"")

    def _on_data(self, data: bytes, start: int, stop: int, flags: int, number: int) -> None:
        size = stop - start
        self._count_received(size)
        stream = self.streams.get(number)
        if stream is None:
            if number > self._last or not number & 1:
                if self._cut_off is not None and number & 1:
                    return
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that was not opened")
            self._strike()  # on its way while the stream ended
            return
        if stream.ended:
            raise StreamFault(number, ErrorCode.STREAM_CLOSED)
        stream.receive_left -= size
        if stream.receive_left < 0:
            raise StreamFault(number, ErrorCode.FLOW_CONTROL_ERROR)
        if flags & PADDED:
            start, stop = frames.unpadded(data, start, stop)
        if flags & END_STREAM:
            self.end(stream, data[start:stop])
            return
        if start == stop:
            self._strike()
            return
        self.take(stream, data[start:stop])
        self.grant(stream)

    def grant(self, stream: Stream) -> None:
        if stream.receive_left <= self._stream_grant_at and not (stream.closed or stream.held):
            self.write(frames.window_update(stream.number, self.limits.stream_window - stream.receive_left))
            stream.receive_left = self.limits.stream_window

    def _count_received(self, size: int) -> None:
        """The connection's receive window, granted anew in large steps: requests are bounded one by one."""
        self._receive_left -= size
        if self._receive_left <= self._grant_at:
            if self._receive_left < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window allows")
            self.write(frames.window_update(0, self.limits.connection_window - self._receive_left))
            self._receive_left = self.limits.connection_window

    # -- the other frames --

    def _on_priority(self, payload: bytes, flags: int, number: int) -> None:
        if number == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY of the connection")
        if len(payload) != 5:
            raise StreamFault(number, ErrorCode.FRAME_SIZE_ERROR)
        self._strike()

    def _on_rst_stream(self, payload: bytes, flags: int, number: int) -> None:
        frames.read_number(payload)
        if number == 0 or (number > self._last and self._cut_off is None):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM of a stream that was not opened")
        self._strike()
        stream = self.streams.get(number)
        if stream is not None:
            self.abandon(stream)

    def _on_settings(self, payload: bytes, flags: int, number: int) -> None:
        if number != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with a payload")
            if not self._settled:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is an acknowledgement")
            return
        if not self._settled:
            self._settled = True
            self._stop_watch()
        self._strike()
        self.take_settings(payload)

    def _on_push_promise(self, payload: bytes, flags: int, number: int) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client does not push")

    def _on_ping(self, payload: bytes, flags: int, number: int) -> None:
        if number != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != _PING_SIZE:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING carries eight bytes")
        if not flags & frames.ACK:
            self._strike()
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif self._draining and payload == _DRAIN_PING:
            self._cut_off_here()

    def _on_goaway(self, payload: bytes, flags: int, number: int) -> None:
        if number != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a short GOAWAY")
        self._strike()  # the peer opens no more streams, and closes when its own are done

    def _on_window_update(self, payload: bytes, flags: int, number: int) -> None:
        increment = frames.read_number(payload) & STREAM_ID
        if number > self._last and self._cut_off is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that was not opened")
        if increment == 0:
            if number == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a window opened by nothing")
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        self.open_window(number, increment)

    # -- abuse --

    def _strike(self) -> None:
        """A frame that brought nothing. Raises ConnectionFault when there are too many."""
        self.strikes += 1
        if self.strikes < self.limits.max_strikes:
            return
        now = self._loop.time()
        self.strikes = max(0.0, self.strikes - (now - self._struck_at) * self.limits.strikes_forgiven_per_s)
        self._struck_at = now
        if self.strikes >= self.limits.max_strikes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    # -- the end --

    def _on_stream_fault(self, fault: StreamFault) -> None:
        self._strike()
        stream = self.streams.get(fault.stream_id)
        if stream is None:
            self.write(frames.rst_stream(fault.stream_id, fault.code))
            return
        self.reset(stream, fault.code)
        self._cancel(stream)

    def _fail(self, code: ErrorCode, reason: str) -> None:
        if not self._greeted:
            self.write(frames.settings(()))  # a server's first frame, whatever comes next
        self.write(frames.goaway(self._last, code, reason))
        logger.debug("connection closed: %s, %s", code.name, reason)
        self._hang_up()

    def _hang_up(self) -> None:
        """Say no more, and close when the peer does: a close while it sends would cost it what it has not read yet."""
        if self.lost:
            return
        self._rest = b""
        self._open_block = None
        self.abandon_all()
        self._stop_watch()
        self._watch = self._loop.call_later(self.limits.linger_s, self.transport.abort)
        if self._reading_paused:
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            with suppress(OSError):  # the peer may have gone before its end was seen here
                self.transport.write_eof()
        elif not self._settled or self._cut_off is None:
            # TLS has no half-close; a peer that drains closes by itself, one at fault need not be waited for.
            self.transport.close()

    def idle(self) -> None:
        if self._cut_off is not None:
            self._hang_up()

    def drain(self) -> None:
        """Take no new calls soon; close when the last one is answered."""
        if self._draining or self.lost:
            return
        self._draining = True
        if self._greeted:
            self._say_goodbye()
        else:
            self._hang_up()

    def _say_goodbye(self) -> None:
        self.write(
            frames.goaway(frames.MAX_WINDOW, ErrorCode.NO_ERROR, "the server is shutting down")
            + frames.frame(frames.PING, 0, 0, _DRAIN_PING)
        )

    def _cut_off_here(self) -> None:
        if self._cut_off is None:
            self._cut_off = self._last
            self.write(frames.goaway(self._last, ErrorCode.NO_ERROR, "the server is shutting down"))
        if not self.streams:
            self._hang_up()

    def close_now(self) -> None:
        """Refuse what is still running, and close."""
        if not self.lost:
            self.refuse_all()
            self._cut_off_here()
            self._hang_up()

    def abort(self) -> None:
        """Close without a word."""
        self.transport.abort()
