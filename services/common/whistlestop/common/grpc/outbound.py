"""The ground storey of a connection: what is written, within the peer's windows.

Rules of this file: it knows streams and bytes, no handlers. The usual reply (it fits the windows and one frame, and
nobody is in front of it) leaves in one write. All else waits in its stream's `outgoing` and is pumped, a quantum per
stream in turn, as far as three things allow: the stream's window, the connection's, and the transport's buffer.

    _queue      streams with something to send which their own window lets out
    (nowhere)   streams whose own window is shut: its WINDOW_UPDATE or SETTINGS bring them back
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import TYPE_CHECKING, Final, cast

from whistlestop.common.grpc import frames
from whistlestop.common.grpc.frames import DATA, END_HEADERS, END_STREAM, FRAME_HEADER, HEADERS
from whistlestop.common.grpc.hpack import NO_DYNAMIC_TABLE
from whistlestop.common.grpc.messages import PREFIX, PREFIX_SIZE, compressed
from whistlestop.common.grpc.status import ANSWER, GZIP_ANSWER, OK

if TYPE_CHECKING:
    from whistlestop.common.grpc.limits import Limits
    from whistlestop.common.grpc.stream import Stream

_QUANTUM = 64 * 1024
_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024

# Headers, then the head of the DATA frame and the message's prefix: one pack for all before the message.
_BEFORE: Final = Struct(f">IBI{len(ANSWER)}sIBIBI")
_HEADERS_HEAD: Final = len(ANSWER) << 8 | HEADERS
_AFTER: Final = Struct(f">IBI{len(OK)}s")
_TRAILERS_HEAD: Final = len(OK) << 8 | HEADERS
_END: Final = END_HEADERS | END_STREAM


class Outbound(asyncio.Protocol):
    """Windows, the queue of what waits for them, and the frames of answers."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.streams: dict[int, Stream] = {}
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.lost = False
        """Nothing is read or written any more."""
        self._compress_from = limits.compress_from
        self._send_left = frames.DEFAULT_WINDOW
        self._initial_window = frames.DEFAULT_WINDOW
        self._max_frame = frames.LEAST_MAX_FRAME
        self._queue: dict[int, Stream] = {}
        self._paused = False
        self._reading_paused = False
        self._told_table = False
        self.strikes = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_HIGH_WATER, _LOW_WATER)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()
        self._pump()

    def hold_reading(self) -> None:
        """A peer that does not fetch our answers gets no more questions in."""
        if self._paused and not self._reading_paused and not self.lost:
            self._reading_paused = True
            self.transport.pause_reading()

    def write(self, data: bytes) -> None:
        """Frames that no window holds back."""
        if not self.lost:
            self.transport.write(data)

    # -- answers --

    def reply(self, stream: Stream, message: bytes) -> None:
        """The whole answer of a unary call, and the end of its stream."""
        size = len(message) + PREFIX_SIZE
        if (
            size > self._max_frame or size > self._send_left or size > stream.send_left or self._paused
            or self._queue or not self._told_table
            or (self._compress_from is not None and size > self._compress_from and stream.head.accepts_gzip)
        ):  # fmt: skip
            self._reply_in_pieces(stream, message)
            return
        number = stream.number
        self._send_left -= size
        self.transport.write(
            b"".join((
                _BEFORE.pack(
                    _HEADERS_HEAD, END_HEADERS, number, ANSWER,
                    size << 8, 0, number, 0, size - PREFIX_SIZE,
                ),
                message,
                _AFTER.pack(_TRAILERS_HEAD, _END, number, OK),
            ))
        )  # fmt: skip
        self._close(stream)

    def _reply_in_pieces(self, stream: Stream, message: bytes) -> None:
        flag = 0
        if self._compress_from is not None and len(message) >= self._compress_from and stream.head.accepts_gzip:
            message, flag = compressed(message), 1
        self._open_answer(stream, GZIP_ANSWER if flag else ANSWER)
        self._send(stream, PREFIX.pack(flag, len(message)) + message)
        self.finish(stream, OK)

    def refuse(self, stream: Stream, trailers_only: bytes, trailers: bytes) -> None:
        """End a call with an error: in one block when nothing of an answer was sent yet."""
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
        if self._told_table:
            return block
        self._told_table = True
        return NO_DYNAMIC_TABLE + block

    def send_message(self, stream: Stream, message: bytes) -> None:
        """One message of a stream of answers."""
        self._open_answer(stream)
        self._send(stream, PREFIX.pack(0, len(message)) + message)

    def finish(self, stream: Stream, trailers: bytes) -> None:
        """The trailers, once all before them has left."""
        self._open_answer(stream)
        stream.trailers = trailers
        if stream.outgoing is None:
            self._write_trailers(stream, trailers)

    def _write_trailers(self, stream: Stream, trailers: bytes) -> None:
        self.write(frames.header_frames(stream.number, trailers, self._max_frame, end_stream=True))
        self._close(stream)

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream without an answer."""
        self.write(frames.rst_stream(stream.number, code))
        self.forget(stream)

    def _close(self, stream: Stream) -> None:
        """A stream is over for us. A peer who has not finished is told to spare itself the rest."""
        if not stream.ended:
            self.write(frames.rst_stream(stream.number, frames.ErrorCode.NO_ERROR))
        if self.strikes > 0:
            self.strikes -= 4
        self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """Let go of a stream, whoever ended it."""
        stream.closed = stream.ended = True
        self.streams.pop(stream.number, None)
        if self._queue:
            self._queue.pop(stream.number, None)
        stream.body = b""
        stream.outgoing = None
        if stream.drained is not None and not stream.drained.done():
            stream.drained.set_result(None)
        if not self.streams:
            self.idle()

    def idle(self) -> None:
        """The last stream has ended."""

    def grant(self, stream: Stream) -> None:
        """Let more of a request come, unless enough may."""

    # -- what waits for windows --

    def _send(self, stream: Stream, data: bytes) -> None:
        waiting = stream.outgoing
        stream.outgoing = memoryview(data if waiting is None else b"".join((waiting, data)))
        if stream.send_left > 0:
            self._queue[stream.number] = stream
            self._pump()

    def _pump(self) -> None:
        """Send what may be sent, the streams in turn."""
        queue = self._queue
        while queue and self._send_left > 0 and not self._paused and not self.lost:
            number = next(iter(queue))
            stream = queue.pop(number)
            self._send_some(stream)
            if stream.outgoing is not None:
                if stream.send_left > 0:
                    queue[number] = stream
                continue
            if stream.drained is not None and not stream.drained.done():
                stream.drained.set_result(None)
            if stream.trailers is not None:
                self._write_trailers(stream, stream.trailers)

    def _send_some(self, stream: Stream) -> None:
        data = stream.outgoing
        assert data is not None
        allowed = min(len(data), stream.send_left, self._send_left, _QUANTUM)
        parts: list[bytes | memoryview] = []
        for at in range(0, allowed, self._max_frame):
            piece = data[at : min(at + self._max_frame, allowed)]
            parts += (FRAME_HEADER.pack(len(piece) << 8 | DATA, 0, stream.number), piece)
        self._send_left -= allowed
        stream.send_left -= allowed
        stream.outgoing = data[allowed:] if allowed < len(data) else None
        self.write(b"".join(parts))

    # -- the peer's windows and settings --

    def open_window(self, number: int, increment: int) -> None:
        """The peer lets us send more. Raises ConnectionFault or StreamFault for more than 2^31-1."""
        if number == 0:
            self._send_left += increment
            if self._send_left > frames.MAX_WINDOW:
                raise frames.ConnectionFault(frames.ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        else:
            stream = self.streams.get(number)
            if stream is None:
                return
            stream.send_left += increment
            if stream.send_left > frames.MAX_WINDOW:
                raise frames.StreamFault(number, frames.ErrorCode.FLOW_CONTROL_ERROR)
            if stream.outgoing is not None and stream.send_left > 0:
                self._queue[number] = stream
        if self._queue:
            self._pump()

    def take_settings(self, payload: bytes) -> None:
        """The peer's settings, in force at once. Raises ConnectionFault."""
        for key, value in frames.read_settings(payload):
            if key == frames.MAX_FRAME_SIZE:
                self._max_frame = value
            elif key == frames.INITIAL_WINDOW_SIZE:
                self._shift_windows(value - self._initial_window)
                self._initial_window = value
        self.write(frames.SETTINGS_ACK)
        self._pump()

    def _shift_windows(self, by: int) -> None:
        for stream in self.streams.values():
            stream.send_left += by
            if stream.send_left > frames.MAX_WINDOW:
                raise frames.ConnectionFault(frames.ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
            if stream.outgoing is not None and stream.send_left > 0:
                self._queue[stream.number] = stream
