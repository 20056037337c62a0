"""The bottom layer of a connection: writing, within the peer's flow control windows.

This layer knows streams and bytes, but no handlers. The usual reply (it fits into the windows and one frame, and
nothing waits before it) is sent in one write. Everything else waits in its stream's `outgoing` and is sent in turns,
a quantum per stream, as far as the stream's window, the connection's window and the transport's buffer allow.

    _queue      streams with something to send whose own window is open
    _blocked_streams  streams whose own window is closed: WINDOW_UPDATE or SETTINGS move them back

Frames written while incoming frames are handled are sent in one piece at the end of the turn. The amount of waiting
data is bounded, and a peer that accepts nothing for long loses the stream, or the connection.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from struct import Struct
from typing import TYPE_CHECKING, Final, cast

from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.grpc import frames, strikes
from whistlestop.net.grpc.closed import ClosedStreams
from whistlestop.net.grpc.frames import DATA, END_HEADERS, END_STREAM, FRAME_HEADER, HEADERS
from whistlestop.net.grpc.hpack import NO_DYNAMIC_TABLE
from whistlestop.net.grpc.messages import PREFIX, PREFIX_SIZE, compressed
from whistlestop.net.grpc.status import ANSWER, GZIP_ANSWER, OK, trailers_only
from whistlestop.net.grpc.strikes import Strikes

if TYPE_CHECKING:
    from whistlestop.net.grpc.limits import Limits
    from whistlestop.net.grpc.stream import Stream

_QUANTUM = 64 * 1024
_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024
_MAX_IN_A_TURN = 64 * 1024
_STREAMS_PER_STRIKE = 50
_MIN_UPDATE = 256
_OF_A_SMALL_UPDATE = 0.25
"""Strikes for a WINDOW_UPDATE of less than _MIN_UPDATE, when something waits for it."""
_TOO_MUCH_UNSENT: Final = trailers_only(
    ServiceError(Code.RESOURCE_EXHAUSTED, "grpc: too many answers that the client has not read yet")
)
# Reasons to pause reading, as bits.
UNREAD: Final = 1
"""The peer does not read what was written."""
TURN: Final = 2
"""Other connections have their turn."""
AUTHENTICATING: Final = 4
"""The caller is being authenticated."""

# Headers, then the DATA frame's header and the message prefix: one pack for all that precedes the message.
_BEFORE: Final = Struct(f">IBI{len(ANSWER)}sIBIBI")
_HEADERS_HEAD: Final = len(ANSWER) << 8 | HEADERS
_AFTER: Final = Struct(f">IBI{len(OK)}s")
_TRAILERS_HEAD: Final = len(OK) << 8 | HEADERS
_END: Final = END_HEADERS | END_STREAM


class Outbound(asyncio.BufferedProtocol):
    """Flow control windows, the queue of what waits for them, and the frames of answers."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = limits
        self._loop = loop
        self.streams: dict[int, Stream] = {}
        self.over = ClosedStreams()
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.lost = False
        """Nothing is read or written any more."""
        self.strikes = Strikes(
            limits.max_strikes_unauthenticated, limits.strikes_forgiven_unauthenticated_per_s, loop.time
        )
        self._compress_from = limits.compress_from
        self._send_left = frames.DEFAULT_WINDOW
        self._initial_window = frames.DEFAULT_WINDOW
        self._most_credit = 0
        """An upper bound of all streams' credit."""
        self._max_frame = frames.MIN_FRAME_LIMIT
        self._queue: OrderedDict[int, Stream] = OrderedDict()
        self._blocked_streams: dict[int, Stream] = {}
        self._unsent = 0
        self._most_unsent = limits.max_unsent_unauthenticated
        self._stalled_s = limits.stalled_unauthenticated_s
        self._stall_timer: asyncio.TimerHandle | None = None
        self._sent = 0
        """Bytes of answers sent, plus the times that the transport resumed writing: it grows as long as the peer
        reads."""
        self._seen_sent = -1
        self._paused = False
        self._reading_paused_by = 0
        """Why reading is paused, as bits."""
        self._in_turn = False
        self._turn_out: list[bytes] = []
        self._turn_size = 0
        self._table_size_sent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to write to (asyncio's callback)."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)

    def widen_limits(self) -> None:
        """Apply the wider limits of authenticated peers."""
        limits = self.limits
        self.strikes.allow(limits.max_strikes, limits.strikes_forgiven_per_s)
        self._most_unsent = limits.max_unsent
        self._stalled_s = limits.stalled_s

    # -- the transport --

    def pause_writing(self) -> None:
        self._paused = True
        self._watch_unsent()

    def resume_writing(self) -> None:
        self._paused = False
        self._sent += 1
        self.read_again(UNREAD)
        self._pump()

    def read_no_more(self, reason: int) -> None:
        """Pause reading for this reason (a bit); it goes on when every reason is gone."""
        if not self._reading_paused_by and not self.lost and not self.transport.is_closing():
            self.transport.pause_reading()
        self._reading_paused_by |= reason

    def read_again(self, reason: int) -> None:
        """Remove a reason to pause reading, and resume if it was the last."""
        if not self._reading_paused_by & reason:
            return
        self._reading_paused_by &= ~reason
        if not self._reading_paused_by and not self.lost and not self.transport.is_closing():
            self.transport.resume_reading()
            self.go_on()

    def go_on(self) -> None:
        """Handle what was read before reading was paused."""

    def write(self, data: bytes) -> None:
        """Write frames that are not subject to flow control."""
        if self.lost or self.transport.is_closing():  # asyncio would log each attempt otherwise
            return
        if self._in_turn:
            self._turn_out.append(data)
            self._turn_size += len(data)
            if self._turn_size >= _MAX_IN_A_TURN:
                self.flush()
        else:
            self.transport.write(data)

    def flush(self) -> None:
        """Send what was written in this turn."""
        if self._turn_out:
            data = b"".join(self._turn_out)
            self._turn_out.clear()
            self._turn_size = 0
            if not self.lost and not self.transport.is_closing():
                self.transport.write(data)

    # -- answers --

    def reply(self, stream: Stream, message: bytes) -> None:
        """Send the whole answer of a unary call, and end its stream."""
        size = len(message) + PREFIX_SIZE
        if (
            size > self._max_frame or size > self._send_left or size > stream.credit + self._initial_window
            or self._paused or self._queue or not self._table_size_sent
            or (self._compress_from is not None and size > self._compress_from and stream.head.accepts_gzip)
        ):  # fmt: skip
            self._reply_in_pieces(stream, message)
            return
        number = stream.number
        self._send_left -= size
        self.write(
            b"".join((
                _BEFORE.pack(
                    _HEADERS_HEAD, END_HEADERS, number, ANSWER,
                    size << 8, 0, number, 0, size - PREFIX_SIZE,
                ),
                message,
                _AFTER.pack(_TRAILERS_HEAD, _END, number, OK),
            ))
        )  # fmt: skip
        if self.strikes.count:
            self.strikes.earn()
        self._close(stream)

    def _reply_in_pieces(self, stream: Stream, message: bytes) -> None:
        flag = 0
        if self._compress_from is not None and len(message) >= self._compress_from and stream.head.accepts_gzip:
            message, flag = compressed(message), 1
        if self._unsent + len(message) > self._most_unsent:
            self.refuse(stream, _TOO_MUCH_UNSENT, b"")
            return
        self._open_answer(stream, GZIP_ANSWER if flag else ANSWER)
        self._send(stream, PREFIX.pack(flag, len(message)) + message)
        self.finish(stream, OK)

    def refuse(self, stream: Stream, trailers_only: bytes, trailers: bytes) -> None:
        """End a call with an error: `trailers_only` if nothing of an answer was sent yet, else `trailers`."""
        if stream.headers_sent:
            self.finish(stream, trailers)
            return
        self.write(frames.header_frames(stream.number, self._block(trailers_only), self._max_frame, end_stream=True))
        self._close(stream)

    def _open_answer(self, stream: Stream, block: bytes = ANSWER) -> None:
        if not stream.headers_sent:
            stream.headers_sent = True
            self.write(frames.header_frames(stream.number, self._block(block), self._max_frame, end_stream=False))

    def _block(self, block: bytes) -> bytes:
        if self._table_size_sent:
            return block
        self._table_size_sent = True
        return NO_DYNAMIC_TABLE + block

    def send_message(self, stream: Stream, message: bytes) -> None:
        """Send one message of a streaming answer, after the headers if they were not sent yet."""
        self._open_answer(stream)
        self._send(stream, PREFIX.pack(0, len(message)) + message)

    def finish(self, stream: Stream, trailers: bytes) -> None:
        """Send the trailers as soon as everything before them has been sent."""
        self._open_answer(stream)
        stream.trailers = trailers
        if stream.outgoing is None:
            self._write_trailers(stream, trailers)

    def _write_trailers(self, stream: Stream, trailers: bytes) -> None:
        self.write(frames.header_frames(stream.number, trailers, self._max_frame, end_stream=True))
        if trailers is OK:
            self.strikes.earn()
        self._close(stream)

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream without an answer, with an HTTP/2 error code."""
        self.write(frames.rst_stream(stream.number, code))
        if not stream.ended:
            self.over.reset(stream.number)
        self.forget(stream)

    def _close(self, stream: Stream) -> None:
        """End a stream that was answered, and tell a peer that has not finished its request that it need not.

        If the call was refused by its headers alone, the rest may be on its way, and short: it is checked and
        discarded.
        """
        number: int | None = stream.number
        if not stream.ended:
            if stream.begun:
                self.over.reset(stream.number)
            else:
                number = self.over.answered(stream.number, stream.content_left, stream.credit + self._initial_window)
            if number is not None:
                self.write(frames.rst_stream(number, frames.ErrorCode.NO_ERROR))
        self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Forget a stream, whichever side ended it; nothing happens when it is forgotten already."""
        stream.closed = stream.ended = True
        self.streams.pop(stream.number, None)
        stream.body = b""
        stream.call = None  # it refers to the stream
        if stream.request is not None:
            stream.request.close()
        if stream.outgoing is not None:
            self._unsent -= len(stream.outgoing)
            stream.outgoing = None
            self._queue.pop(stream.number, None)
            self._blocked_streams.pop(stream.number, None)
        if stream.drained is not None and not stream.drained.done():
            stream.drained.set_result(None)
        if not self.streams:
            self.idle()

    def idle(self) -> None:
        """React to the end of the last stream."""

    def grant(self, stream: Stream) -> None:
        """Let the peer send more of a request, unless it may send enough already."""

    # -- data that waits for flow control --

    def _send(self, stream: Stream, data: bytes) -> None:
        waiting = stream.outgoing
        stream.outgoing = memoryview(data if waiting is None else b"".join((waiting, data)))
        stream.seen_unsent = -1
        self._unsent += len(data)
        self._line_up(stream)
        self._pump()
        if stream.outgoing is not None:
            self._watch_unsent()

    def _line_up(self, stream: Stream) -> None:
        if stream.credit + self._initial_window > 0:
            self._blocked_streams.pop(stream.number, None)
            self._queue[stream.number] = stream
        else:
            self._blocked_streams[stream.number] = stream

    def _pump(self) -> None:
        """Send what may be sent, stream by stream."""
        queue = self._queue
        closing = self.transport.is_closing
        while queue and self._send_left > 0 and not (self._paused or self.lost or closing()):
            _, stream = queue.popitem(last=False)
            self._send_some(stream)
            if stream.outgoing is not None:
                self._line_up(stream)
                continue
            if stream.drained is not None and not stream.drained.done():
                stream.drained.set_result(None)
            if stream.trailers is not None:
                self._write_trailers(stream, stream.trailers)

    def _send_some(self, stream: Stream) -> None:
        data = stream.outgoing
        assert data is not None
        allowed = min(len(data), stream.credit + self._initial_window, self._send_left, _QUANTUM)
        if allowed <= 0:
            return  # SETTINGS have shrunk its window
        parts: list[bytes | memoryview] = []
        for at in range(0, allowed, self._max_frame):
            piece = data[at : min(at + self._max_frame, allowed)]
            parts += (FRAME_HEADER.pack(len(piece) << 8 | DATA, 0, stream.number), piece)
        self._send_left -= allowed
        self._unsent -= allowed
        self._sent += allowed
        stream.credit -= allowed
        stream.outgoing = data[allowed:] if allowed < len(data) else None
        self.write(b"".join(parts))

    # -- a peer that does not read --

    def _watch_unsent(self) -> None:
        if self._stall_timer is None and not self.lost:
            self._seen_sent = self._sent
            self._stall_timer = self._loop.call_later(self._stalled_s, self.check_unsent)

    def check_unsent(self) -> None:
        """Give up streams, or the connection, that have made no progress since the last check."""
        self._stall_timer = None
        if self.lost or not (self._paused or self._queue or self._blocked_streams):
            return
        if self._sent == self._seen_sent and (self._paused or self._queue):
            self.give_up_reader()
            return
        for stream in list(self._blocked_streams.values()):
            left = len(stream.outgoing or b"")
            if left == stream.seen_unsent:
                self.give_up_stream(stream)
            stream.seen_unsent = left
        self._seen_sent = self._sent
        self._stall_timer = self._loop.call_later(self._stalled_s, self.check_unsent)

    def give_up_reader(self) -> None:
        """React to a peer that reads nothing."""

    def give_up_stream(self, stream: Stream) -> None:
        """React to a peer that keeps a stream's window closed."""

    def stop_watching_unsent(self) -> None:
        """Cancel the timer of `check_unsent`."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # -- the peer's windows and settings --

    def open_window(self, number: int, increment: int) -> None:
        """Add to a window, as the peer's WINDOW_UPDATE asks. Raises ConnectionFault or StreamFault beyond 2^31-1."""
        if increment < _MIN_UPDATE:
            self.strikes.add(_OF_A_SMALL_UPDATE if self._unsent else strikes.ONE)
        if number == 0:
            self._send_left += increment
            if self._send_left > frames.MAX_WINDOW:
                raise frames.ConnectionFault(frames.ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        else:
            stream = self.streams.get(number)
            if stream is None:
                self._open_closed_window(number, increment)
                return
            stream.credit += increment
            if stream.credit + self._initial_window > frames.MAX_WINDOW:
                raise frames.StreamFault(number, frames.ErrorCode.FLOW_CONTROL_ERROR)
            self._most_credit = max(self._most_credit, stream.credit)
            if stream.outgoing is not None:
                self._line_up(stream)
        if self._queue:
            self._pump()

    def _open_closed_window(self, number: int, increment: int) -> None:
        closed = self.over.half_closed.get(number)
        if closed is not None:
            closed.send_left += increment
            if closed.send_left > frames.MAX_WINDOW:
                raise frames.StreamFault(number, frames.ErrorCode.FLOW_CONTROL_ERROR)

    def take_settings(self, payload: bytes) -> None:
        """Apply the peer's settings. Raises ConnectionFault.

        If a frame sets the initial window several times, the last value counts, but the highest must not overflow a
        window either: so streams are walked through once per frame, and only those that wait.
        """
        window = highest = self._initial_window
        for key, value in frames.read_settings(payload):
            if key == frames.MAX_FRAME_SIZE:
                self._max_frame = value
            elif key == frames.INITIAL_WINDOW_SIZE:
                window = value
                highest = max(highest, value)
        if highest > self._initial_window:
            self._check_windows(highest)
        raised = window > self._initial_window
        self._initial_window = window
        if raised and self._blocked_streams:
            self.strikes.add(len(self._blocked_streams) / _STREAMS_PER_STRIKE)
            for stream in list(self._blocked_streams.values()):
                self._line_up(stream)
        self.write(frames.SETTINGS_ACK)
        self._pump()

    def _check_windows(self, initial: int) -> None:
        most = frames.MAX_WINDOW - initial
        if self._most_credit <= most:
            return
        self.strikes.add(len(self.streams) / _STREAMS_PER_STRIKE)
        if any(stream.credit > most for stream in self.streams.values()):
            raise frames.ConnectionFault(frames.ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
