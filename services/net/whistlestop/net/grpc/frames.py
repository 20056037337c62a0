"""HTTP/2 frames as bytes (RFC 9113, sections 4 to 6).

These are pure functions that encode and decode frames; what a frame means for a connection is in `connection.py`.
Illegal frames raise `ConnectionFault`, which ends the connection, or `StreamFault`, which ends one stream.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Plain integers instead of an enum, because they are compared for each frame.
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = 0x7FFFFFFF
MIN_FRAME_LIMIT: Final = 16_384
MAX_FRAME_LIMIT: Final = 0xFFFFFF
STREAM_ID: Final = 0x7FFFFFFF

HEADER_SIZE: Final = 9
# Length and type in one number, flags, stream id: one call decodes a frame header.
FRAME_HEADER: Final = Struct(">IBI")
_SETTING = Struct(">HI")
_NUMBER = Struct(">I")
_NUMBERS = Struct(">II")


class ErrorCode(IntEnum):
    """HTTP/2 error codes, why a stream or a connection ends (section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB


class ConnectionFault(Exception):
    """The peer broke a rule on which the whole connection depends."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamFault(Exception):
    """The peer broke a rule that concerns one stream."""

    def __init__(self, stream_id: int, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.stream_id = stream_id
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return an encoded frame. The payload must be shorter than 2**24 bytes."""
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def header_frames(stream_id: int, block: bytes, most: int, *, end_stream: bool) -> bytes:
    """Return a header block as HEADERS, and CONTINUATION frames if it exceeds `most`, the peer's maximum frame size."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= most:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [block[at : at + most] for at in range(0, len(block), most)]
    last = len(pieces) - 1
    return b"".join(
        frame(CONTINUATION if index else HEADERS, (0 if index else flags) | (END_HEADERS if index == last else 0),
              stream_id, piece)
        for index, piece in enumerate(pieces)
    )  # fmt: skip


def settings(pairs: Iterable[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame with these pairs of identifier and value; empty without pairs."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in pairs))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _NUMBER.pack(increment))


def rst_stream(stream_id: int, code: int) -> bytes:
    """Return a RST_STREAM frame with an HTTP/2 error code."""
    return frame(RST_STREAM, 0, stream_id, _NUMBER.pack(code))


def goaway(last_stream_id: int, code: int, debug: str = "") -> bytes:
    """Return a GOAWAY frame with an HTTP/2 error code."""
    return frame(GOAWAY, 0, 0, _NUMBERS.pack(last_stream_id, code) + debug.encode())


def read_number(payload: bytes) -> int:
    """Return the number that RST_STREAM (a code) and WINDOW_UPDATE (bytes) carry.

    Raises ConnectionFault for a payload of another size.
    """
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a payload of other than four bytes")
    return int.from_bytes(payload, "big")


def unpadded(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Return where the content of a padded payload begins and ends. Raises ConnectionFault for invalid padding."""
    if start == stop:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its pad length")
    end = stop - data[start]
    if end < start + 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return start + 1, end


def parent_of(data: bytes, at: int) -> int:
    """Return the parent stream in the priority fields at `at`; 0, the root, when they are cut short."""
    return int.from_bytes(data[at : at + 4], "big") & STREAM_ID


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the settings of a payload in order, each checked against its range. Raises ConnectionFault."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS with an incomplete setting")
    for key, value in _SETTING.iter_unpack(payload):
        if key == ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if key == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is beyond 2^31-1")
        if key == MAX_FRAME_SIZE and not MIN_FRAME_LIMIT <= value <= MAX_FRAME_LIMIT:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of bounds")
        yield key, value
