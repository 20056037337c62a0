"""The top layer of a connection: incoming frames (RFC 9113, sections 3 to 6).

This layer parses frames and passes them to the layers below. Every frame is checked against the current state; a
protocol error ends the stream or the connection with the code that the RFC names, never with a traceback. What a peer
can make us buffer or compute is bounded in `limits.py`, and by the process's budget.

    preface -> SETTINGS -> frames ... -> GOAWAY (drain) -> GOAWAY (last stream) -> closed

Connections take turns: after a few milliseconds, or some number of calls, a connection yields to the event loop and
reads nothing meanwhile. An unauthenticated connection is read from in small pieces, and its CPU time is counted.

To drain, the server sends GOAWAY with the largest stream number, and a PING. The answer to the PING shows that the
peer has read the GOAWAY, so the second GOAWAY, with the true last stream, rejects no call that was on its way.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from whistlestop.net import certificates
from whistlestop.net.grpc import frames, peers, strikes
from whistlestop.net.grpc.frames import (
    CONTINUATION,
    DATA,
    FRAME_HEADER,
    HEADER_SIZE,
    HEADERS,
    MIN_FRAME_LIMIT,
    STREAM_ID,
    ConnectionFault,
    ErrorCode,
    StreamFault,
)
from whistlestop.net.grpc.hpack import HpackError
from whistlestop.net.grpc.outbound import TURN, UNREAD
from whistlestop.net.grpc.requests import Requests

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from whistlestop.net.budget import Account
    from whistlestop.net.grpc.limits import Limits, Service

logger = logging.getLogger(__name__)

READ_SIZE: Final = 256 * 1024
READ_SIZE_UNAUTHENTICATED: Final = 16 * 1024
_DRAIN_PING: Final = b"draining"
_PING_SIZE = 8
_SETTINGS_BYTES_PER_STRIKE = 128
_WORK_UNTIL_A_CHECK = 16
"""Frames, or KiB of header blocks, after which the clock is read."""


class Connection(Requests):
    """One connection of a peer. `buffer` receives what is read; all connections of an event loop share it."""

    def __init__(
        self, service: Service, limits: Limits, loop: asyncio.AbstractEventLoop, account: Account, buffer: memoryview,
        on_open: Callable[[Connection], None], on_close: Callable[[Connection], None],
    ) -> None:  # fmt: skip
        super().__init__(service, limits, loop, account)
        self._buffer = buffer
        self._on_open = on_open
        self._on_close = on_close
        self._watch: asyncio.TimerHandle | None = None
        """Closes a connection that takes too long for its handshake, or to close."""
        self._rest = b""
        self._next_turn: asyncio.Handle | None = None
        self._preface_read = False
        self._settled = False
        self._unauthenticated_buffer = buffer[:READ_SIZE_UNAUTHENTICATED]
        self._draining = False
        self._turn_s = limits.turn_unauthenticated_s
        self._calls_per_turn = limits.calls_per_turn_unauthenticated
        self._by_kind: tuple[Callable[[bytes, int, int], None], ...] = (
            self._on_priority, self._on_rst_stream, self._on_settings, self._on_push_promise, self._on_ping,
            self._on_goaway, self._on_window_update,
        )  # fmt: skip

    # -- the transport --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve a connection (asyncio's callback)."""
        super().connection_made(transport)
        self.account.set_peer(self)
        self._watch = self._loop.call_later(self.limits.handshake_s, self._handshake_expired)
        if peers.is_on_this_machine(transport):
            self._compress_from = None
        self._certificate = certificates.names_of(transport)
        peers.keep_alive(transport.get_extra_info("socket"))
        self._on_open(self)
        if not self.account.is_open:
            self.abort()  # the budget has already dropped it to make room

    def connection_lost(self, exc: Exception | None) -> None:
        """End all calls of a connection that closed; `exc` is None when it closed in order (asyncio's callback)."""
        self._stop_watch()
        self.abandon_all()
        self._drop_block()
        self._rest = b""
        self._heads.clear()
        if self._next_turn is not None:
            self._next_turn.cancel()
        self.account.close()
        self._on_close(self)

    def eof_received(self) -> bool:
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next received bytes (asyncio's callback)."""
        return self._buffer if self.account.authenticated else self._unauthenticated_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle `nbytes` received bytes in the buffer (asyncio's callback)."""
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Handle received bytes. Nothing happens after the connection was lost. Never raises."""
        if self.lost:
            return
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if self._reading_paused_by:
            self._rest = data  # a paused transport may still deliver what it had read
            return
        self._take_turn(data)

    def go_on(self) -> None:
        data, self._rest = self._rest, b""
        if data and not self.lost:
            self._take_turn(data)

    def _take_turn(self, data: bytes) -> None:
        """Handle frames until there are none left, or it is the turn of other connections."""
        counted = not self.account.authenticated
        began = time.thread_time() if counted else 0.0
        self.begin_turn()
        self._in_turn = True
        try:
            at = self._read(data)
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
        finally:
            self._in_turn = False
            self.flush()
        if self.lost:
            return
        if at < len(data):
            self._rest = data[at:]
        rest_s = self.account.spend_cpu(time.thread_time() - began) if counted else 0.0
        if rest_s > 0.0 or self._turn_is_over:
            self.read_no_more(TURN)
            self._next_turn = (
                self._loop.call_later(rest_s, self._turn_comes) if rest_s else self._loop.call_soon(self._turn_comes)
            )
        if self._paused:
            self.read_no_more(UNREAD)

    def _turn_comes(self) -> None:
        self._next_turn = None
        self.read_again(TURN)

    def _read(self, data: bytes) -> int:
        self._turn_is_over = False
        if self._preface_read:
            return self._read_frames(data, 0)
        if not self._read_preface(data):
            return len(data)
        return self._read_frames(data, len(frames.PREFACE))

    def _read_frames(self, data: bytes, at: int) -> int:
        """Handle the complete frames from `at` on; return where the incomplete rest begins."""
        unpack = FRAME_HEADER.unpack_from
        end = len(data)
        until = 0.0
        work = 0
        while end - at >= HEADER_SIZE:
            head, flags, number = unpack(data, at)
            start = at + HEADER_SIZE
            stop = start + (head >> 8)
            if stop - start > MIN_FRAME_LIMIT:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a frame larger than SETTINGS_MAX_FRAME_SIZE")
            if stop > end:
                break
            if work >= _WORK_UNTIL_A_CHECK:
                work = 0
                until = self._check_clock(until)
                if self._turn_is_over:
                    break
            if self._reading_paused_by:
                break
            at = stop
            kind = head & 0xFF
            number &= STREAM_ID
            if self._open_block is not None and (kind != CONTINUATION or number != self._open_block[0]):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted by another frame")
            try:
                work += 1
                if kind == DATA:
                    self._on_data(data, start, stop, flags, number)
                elif kind == HEADERS and self._settled:
                    work += stop - start >> 10
                    self._on_headers(data, start, stop, flags, number)
                else:
                    work += stop - start >> 10
                    self._on_frame(kind, data[start:stop], flags, number)
            except StreamFault as fault:
                self._on_stream_fault(fault)
            if self.lost:
                return end
        return at

    def _check_clock(self, until: float) -> float:
        """Check whether the turn is over; return when it ends. `until` is 0 at the first check of a turn."""
        now = time.perf_counter()
        if not until:
            until = now + self._turn_s
        self._turn_is_over = now > until or self._begun >= self._calls_per_turn
        return until

    def widen_limits(self) -> None:
        super().widen_limits()
        self._turn_s = self.limits.turn_s
        self._calls_per_turn = self.limits.calls_per_turn

    def _on_frame(self, kind: int, payload: bytes, flags: int, number: int) -> None:
        if not self._settled and kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == CONTINUATION:
            self._on_continuation(payload, flags)
        elif kind < CONTINUATION:
            self._by_kind[kind - 2](payload, flags, number)
        else:
            self.strikes.add()  # a frame of an extension, which is to be ignored

    # -- the budget's Peer --

    def activity(self) -> int:
        return self._last

    def is_busy(self) -> bool:
        return bool(self.streams)

    def close_idle(self) -> None:
        """Drain the connection, so that no call of the peer is lost, and close it soon."""
        if self._draining:
            self._hang_up()
            return
        self.drain()
        if not self.lost:
            self._stop_watch()
            self._watch = self._loop.call_later(self.limits.linger_s, self._hang_up_if_idle)

    def _hang_up_if_idle(self) -> None:
        if not self.streams and not self.lost:
            self._hang_up()

    def give_up_reader(self) -> None:
        """Close the connection: the peer does not read its answers, or does not finish a header block."""
        self._fail(ErrorCode.ENHANCE_YOUR_CALM, "no progress in reading answers or sending headers")
        self.abort()

    def strike(self, cost: float) -> None:
        """Count a cost that no frame at hand causes, and end the connection when there are too many strikes."""
        try:
            self.strikes.add(cost)
        except ConnectionFault as fault:
            if not self.lost:
                self._fail(fault.code, fault.reason)

    # -- the beginning --

    def _read_preface(self, data: bytes) -> bool:
        """Read the preface and send our settings; return False while the preface is incomplete."""
        if not data.startswith(frames.PREFACE):
            if frames.PREFACE.startswith(data):
                self._rest = data
            elif peers.speaks_http_1(data):
                self.write(peers.HTTP_1_ANSWER)
                self._hang_up()
            else:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the connection does not begin with the HTTP/2 preface")
            return False
        self._preface_read = True
        limits = self.limits
        self.write(
            frames.settings((
                (frames.MAX_CONCURRENT_STREAMS, limits.max_streams),
                (frames.INITIAL_WINDOW_SIZE, limits.stream_window),
                (frames.MAX_HEADER_LIST_SIZE, limits.max_header_list),
            )) + frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW)
        )  # fmt: skip
        if self._draining:
            self._send_last_goaway()
        return True

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _handshake_expired(self) -> None:
        if not self._settled and not self.lost:
            self._fail(ErrorCode.SETTINGS_TIMEOUT, "no SETTINGS received in time")

    # -- control frames --

    def _on_priority(self, payload: bytes, flags: int, number: int) -> None:
        if number == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise StreamFault(number, ErrorCode.FRAME_SIZE_ERROR)
        self.strikes.add()

    def _on_rst_stream(self, payload: bytes, flags: int, number: int) -> None:
        frames.read_number(payload)
        if number == 0 or (number > self._last and self._last_accepted is None):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on a stream that was not opened")
        stream = self.streams.get(number)
        if stream is None:
            self.over.ended(number)
            self.strikes.add()
        else:
            self.abandon(stream)
            self.strikes.add(strikes.OF_A_CALL)

    def _on_settings(self, payload: bytes, flags: int, number: int) -> None:
        if number != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream other than 0")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS acknowledgement with a payload")
            if not self._settled:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is a SETTINGS acknowledgement")
            return
        if not self._settled:
            self._settled = True
            self._stop_watch()
        self.strikes.add(strikes.ONE + len(payload) / _SETTINGS_BYTES_PER_STRIKE)
        self.take_settings(payload)

    def _on_push_promise(self, payload: bytes, flags: int, number: int) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _on_ping(self, payload: bytes, flags: int, number: int) -> None:
        if number != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream other than 0")
        if len(payload) != _PING_SIZE:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING with a payload of other than eight bytes")
        if not flags & frames.ACK:
            self.strikes.add()
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif self._draining and payload == _DRAIN_PING:
            self._accept_no_more()

    def _on_goaway(self, payload: bytes, flags: int, number: int) -> None:
        if number != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream other than 0")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY with a payload of less than eight bytes")
        self.strikes.add()  # the peer opens no more streams, and closes when its own are done

    def _on_window_update(self, payload: bytes, flags: int, number: int) -> None:
        increment = frames.read_number(payload) & STREAM_ID
        if number > self._last and self._last_accepted is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was not opened")
        if increment == 0:
            if number == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE with an increment of 0")
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        self.open_window(number, increment)

    # -- the end --

    def _on_stream_fault(self, fault: StreamFault) -> None:
        stream = self.streams.get(fault.stream_id)
        if stream is None:
            self.write(frames.rst_stream(fault.stream_id, fault.code))
            self.over.reset(fault.stream_id)
            self.strikes.add()
            return
        self.reset(stream, fault.code)
        self._cancel(stream)
        self.strikes.add(strikes.OF_A_CALL)

    def _fail(self, code: ErrorCode, reason: str) -> None:
        if not self._preface_read:
            self.write(frames.settings(()))  # a server's first frame must be SETTINGS, even before GOAWAY
        self.write(frames.goaway(self._last, code, reason))
        logger.debug("connection closed: %s, %s", code.name, reason)
        self._hang_up()

    def _hang_up(self) -> None:
        """Stop sending, and close when the peer does.

        Closing while the peer sends could make it lose answers that it has not read yet.
        """
        if self.lost:
            return
        self.flush()
        self._rest = b""
        self._drop_block()
        if self._reading_paused_by and not self.transport.is_closing():
            self.transport.resume_reading()
        self._reading_paused_by = 0
        self.abandon_all()
        self._stop_watch()
        self._watch = self._loop.call_later(self.limits.linger_s, self.transport.abort)
        if self.transport.can_write_eof():
            with suppress(OSError):  # the peer may have gone before its end was seen here
                self.transport.write_eof()
        elif not self._settled or self._last_accepted is None:
            # TLS has no half-close. A draining peer closes by itself; one that broke the protocol is not waited for.
            self.transport.close()

    def idle(self) -> None:
        if self._last_accepted is not None:
            self._hang_up()

    def drain(self) -> None:
        """Stop taking new calls, and close when the last one is answered."""
        if self._draining or self.lost:
            return
        self._draining = True
        if self._preface_read:
            self._send_last_goaway()
        else:
            self._hang_up()

    def _send_last_goaway(self) -> None:
        self.write(
            frames.goaway(frames.MAX_WINDOW, ErrorCode.NO_ERROR, "the server is shutting down")
            + frames.frame(frames.PING, 0, 0, _DRAIN_PING)
        )

    def _accept_no_more(self) -> None:
        if self._last_accepted is None:
            self._last_accepted = self._last
            self.write(frames.goaway(self._last, ErrorCode.NO_ERROR, "the server is shutting down"))
        if not self.streams:
            self._hang_up()

    def close_now(self) -> None:
        """End running calls with an error, and close."""
        if not self.lost:
            self.refuse_all()
            self._accept_no_more()
            self._hang_up()

    def abort(self) -> None:
        """Close the transport at once."""
        self.transport.abort()
