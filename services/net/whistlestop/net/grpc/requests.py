"""The third layer of a connection: requests as frames (RFC 9113, sections 5.1, 6.1, 6.2 and 8.1).

This layer knows which frames a stream may have in its state, and handles what never becomes a call: calls refused by
their headers, frames on closed streams. A peer's protocol error raises `StreamFault` or `ConnectionFault`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from whistlestop.common.errors import Code, ServiceError
from whistlestop.net import certificates
from whistlestop.net.grpc import frames, status, strikes
from whistlestop.net.grpc.calls import Calls
from whistlestop.net.grpc.closed import DISCARDED_AT_MOST, HalfClosed
from whistlestop.net.grpc.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    WITH_PRIORITY,
    ConnectionFault,
    ErrorCode,
    StreamFault,
)
from whistlestop.net.grpc.head import MALFORMED, Head, are_trailers, read_head
from whistlestop.net.grpc.hpack import Decoder
from whistlestop.net.grpc.stream import Stream

if TYPE_CHECKING:
    import asyncio

    from whistlestop.net.budget import Account, Request
    from whistlestop.net.grpc.limits import Limits, Service

_MAX_HEADS = 256
_MAX_HEADS_UNAUTHENTICATED = 8
_MAX_KEPT_BLOCK = 1_024
_BYTES_PER_STRIKE = 256
"""For long header blocks of unauthenticated peers, and for trailers, which have no use."""
_MAX_CONTINUATIONS = 64
_PRIORITY_SIZE = 5
_MAX_REFUSED_AT_ONCE = 100
_TOO_LARGE: Final = status.trailers_only(
    ServiceError(Code.RESOURCE_EXHAUSTED, "the request's metadata is too large"), 431
)


class Requests(Calls):
    """Header blocks and bodies, depending on the states of their streams."""

    def __init__(self, service: Service, limits: Limits, loop: asyncio.AbstractEventLoop, account: Account) -> None:
        super().__init__(service, limits, loop, account)
        self._last = 0
        """The highest stream number of the peer."""
        self._last_accepted: int | None = None
        """Streams with a higher number are not served any more."""
        self._certificate = ""
        """The names in the peer's certificate, one a line."""
        self._decoder = Decoder()
        self._heads: dict[bytes, Head] = {}
        """Cached heads by their blocks, valid as long as the decoder's table does not change."""
        self._open_block: tuple[int, int, bytearray] | None = None
        self._block_request: Request | None = None
        self._continuations = 0
        self._refused = 0
        """Calls refused by their headers in this turn: the peer cannot know yet that they are over."""
        self._receive_left = limits.connection_window
        self._grant_at = limits.connection_window // 2
        self._stream_grant_at = limits.stream_window // 2

    def begin_turn(self) -> None:
        """Reset the counters of a turn."""
        self._begun = self._refused = 0

    # -- header blocks --

    def _on_headers(self, data: bytes, start: int, stop: int, flags: int, number: int) -> None:
        if not number & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's stream with an even number")
        depends_on_itself = False
        if flags & (PADDED | WITH_PRIORITY):
            if flags & PADDED:
                start, stop = frames.unpadded(data, start, stop)
            if flags & WITH_PRIORITY:
                depends_on_itself = frames.parent_of(data, start) == number
                start += _PRIORITY_SIZE
                if start > stop:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS shorter than their priority fields")
        if flags & END_HEADERS:
            self._on_block(data[start:stop], flags, number)
        else:
            self._begin_block(data[start:stop], flags, number)
        if depends_on_itself:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)

    def _begin_block(self, fragment: bytes, flags: int, number: int) -> None:
        self._open_block = (number, flags, bytearray(fragment))
        self._continuations = 0
        if not self.account.authenticated:
            self._block_request = self.account.open_request(self.give_up_reader)
            self._count_block(len(fragment))

    def _count_block(self, size: int) -> None:
        if self.account.authenticated:
            return
        if self._block_request is None or not self._block_request.count_bytes(size):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many unfinished header blocks")

    def _on_continuation(self, payload: bytes, flags: int) -> None:
        if self._open_block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        number, first_flags, block = self._open_block
        self._count_block(len(payload))
        block += payload
        self._continuations += 1
        if len(block) > self.limits.max_header_list or self._continuations > _MAX_CONTINUATIONS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block beyond the size limit")
        if flags & END_HEADERS:
            self._drop_block()
            self._on_block(bytes(block), first_flags, number)

    def _drop_block(self) -> None:
        self._open_block = None
        if self._block_request is not None:
            self._block_request.close()
            self._block_request = None

    def _on_block(self, block: bytes, flags: int, number: int) -> None:
        if number <= self._last:
            self._on_trailers(block, flags, number)
            return
        head = self._heads.get(block) or self._read_head(block)
        if self._last_accepted is not None:
            return
        if number != self._last + 2 and number != 1:
            self.over.skipped(self._last, number)
        self._last = number
        limits = self.limits
        stream = Stream(number, head, limits.stream_window)
        stream.ended = bool(flags & END_STREAM)
        self.streams[number] = stream
        if head is MALFORMED:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        if stream.ended and head.content_length:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        if len(self.streams) > limits.max_streams or self._running >= limits.max_streams:
            self.strikes.add(strikes.CHEAP)
            self.reset(stream, ErrorCode.REFUSED_STREAM)
            return
        if head.refusal is not None:
            self._refuse_head(stream, head.refusal)
            return
        if self.admit(stream):
            self.begin(stream)
            if stream.ended:
                self.end(stream, b"")

    def _refuse_head(self, stream: Stream, refusal: bytes) -> None:
        """Refuse a call by its headers.

        Its peer cannot know that before the turn is over, so such calls of one turn count as concurrent.
        """
        self._refused += 1
        if self._refused > _MAX_REFUSED_AT_ONCE:
            self.strikes.add(strikes.CHEAP)
            self.reset(stream, ErrorCode.REFUSED_STREAM)
            return
        self.refuse(stream, refusal, b"")
        self.strikes.add()

    def _read_head(self, block: bytes) -> Head:
        decoder = self._decoder
        before = decoder.changes
        if not self.account.authenticated and len(block) > _MAX_KEPT_BLOCK:
            self.strikes.add(len(block) / _BYTES_PER_STRIKE)
        fields = decoder.decode(block, self.limits.max_header_list, self.limits.max_header_fields)
        if fields is None:
            self.strikes.add(strikes.OF_A_REFUSAL)
            head = Head("", None)
            head.refusal = _TOO_LARGE
            return head
        head = read_head(fields, self._service.method)
        if self._certificate and head is not MALFORMED:
            head.headers = {**head.headers, certificates.HEADER: self._certificate}
        most = _MAX_HEADS if self.account.authenticated else _MAX_HEADS_UNAUTHENTICATED
        if decoder.changes != before or len(self._heads) >= most:
            self._heads.clear()
        if decoder.changes == before and len(block) <= _MAX_KEPT_BLOCK:
            self._heads[block] = head
        return head

    def _on_trailers(self, block: bytes, flags: int, number: int) -> None:
        """Handle a second header block: gRPC ignores its fields, but it ends the request."""
        decoder = self._decoder
        before = decoder.changes
        if len(block) > _MAX_KEPT_BLOCK:
            self.strikes.add(len(block) / _BYTES_PER_STRIKE)
        fields = decoder.decode(block, self.limits.max_header_list, self.limits.max_header_fields)
        if decoder.changes != before:
            self._heads.clear()
        stream = self.streams.get(number)
        closed = None if stream is not None else self._closed(number)
        if stream is None and closed is None:
            if flags & END_STREAM:
                self.over.ended(number)
            return
        if stream is not None and stream.ended:
            raise StreamFault(number, ErrorCode.STREAM_CLOSED)
        left = stream.content_left if stream is not None else closed.content_left  # type: ignore[union-attr]
        if not flags & END_STREAM or fields is None or not are_trailers(fields) or left:
            raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        if stream is not None:
            self.end(stream, b"")
        else:
            self.over.ended(number)

    def _closed(self, number: int) -> HalfClosed | None:
        """Return a stream closed by us on which the peer may still send; None if its frames are to be ignored.

        Raises ConnectionFault if no frame may come on the stream.
        """
        half = self.over.half_closed.get(number)
        if half is not None:
            return half
        if self.over.may_come(number):
            self.strikes.add()  # sent before the peer knew that the stream had ended
            return None
        if self.over.was_skipped(number):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream number smaller than one before")
        raise ConnectionFault(ErrorCode.STREAM_CLOSED, "a frame on a stream that its sender has ended")

    # -- bodies --

    def _on_data(self, data: bytes, start: int, stop: int, flags: int, number: int) -> None:
        size = stop - start
        # The connection's window is renewed in large steps, since the size of each request is limited anyway.
        self._receive_left -= size
        if self._receive_left <= self._grant_at:
            self._grant_window()
        if flags & PADDED:
            start, stop = frames.unpadded(data, start, stop)
        stream = self.streams.get(number)
        if stream is None:
            self._on_closed_data(size, stop - start, flags, number)
            return
        if stream.ended:
            raise StreamFault(number, ErrorCode.STREAM_CLOSED)
        stream.receive_left -= size
        if stream.receive_left < 0:
            raise StreamFault(number, ErrorCode.FLOW_CONTROL_ERROR)
        left = stream.content_left
        if left is not None:
            stream.content_left = left = left - (stop - start)
            if left < 0 or (left and flags & END_STREAM):
                raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        if flags & END_STREAM:
            self.end(stream, data[start:stop])
            return
        if start == stop:
            self.strikes.add()
            return
        self.take(stream, data[start:stop])
        self.grant(stream)

    def _on_closed_data(self, size: int, content: int, flags: int, number: int) -> None:
        if number > self._last or not number & 1:
            if self._last_accepted is not None and number & 1:
                return
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that was not opened")
        closed = self._closed(number)
        ended = bool(flags & END_STREAM)
        if closed is None:
            if ended:
                self.over.ended(number)
            return
        self.strikes.add(strikes.CHEAP)
        if closed.content_left is not None:
            closed.content_left -= content
            if closed.content_left < 0 or (closed.content_left and ended):
                raise StreamFault(number, ErrorCode.PROTOCOL_ERROR)
        closed.discarded += size
        if ended:
            self.over.ended(number)
        elif closed.discarded > DISCARDED_AT_MOST:
            self.write(frames.rst_stream(number, ErrorCode.NO_ERROR))
            self.over.reset(number)

    def grant(self, stream: Stream) -> None:
        """Let the peer send more of a request, unless it may send enough already."""
        if stream.receive_left <= self._stream_grant_at and not stream.closed:
            self.write(frames.window_update(stream.number, self.limits.stream_window - stream.receive_left))
            stream.receive_left = self.limits.stream_window

    def _grant_window(self) -> None:
        if self._receive_left < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window allows")
        self.write(frames.window_update(0, self.limits.connection_window - self._receive_left))
        self._receive_left = self.limits.connection_window
