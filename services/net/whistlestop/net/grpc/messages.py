"""The five-byte prefix of gRPC messages, and gzip.

These are pure functions; sizes are checked before memory is allocated.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import Final

from whistlestop.common.errors import Code, ServiceError

PREFIX: Final = Struct(">BI")
PREFIX_SIZE: Final = PREFIX.size
# Level 1 achieves three quarters of level 6's savings in a fifth of its time.
_LEVEL = 1
_GZIP = 31  # zlib's window bits for a gzip wrapper


class TooLarge(Exception):
    """A message of `size` bytes exceeds the limit."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def unary_message(body: bytes, *, gzipped: bool, most: int) -> bytes:
    """Return the single message of a unary request, decompressed. Raises ServiceError, or TooLarge."""
    present = len(body)
    if present < PREFIX_SIZE:
        reason = "a unary request with no message" if not present else "a message prefix that ends early"
        raise ServiceError(Code.INTERNAL, f"grpc: {reason}")
    flag, length = PREFIX.unpack_from(body)
    if length > most:
        raise TooLarge(length)
    if length + PREFIX_SIZE != present:
        reason = "a message that ends early" if length + PREFIX_SIZE > present else "a unary request with two messages"
        raise ServiceError(Code.INTERNAL, f"grpc: {reason}")
    if not flag:
        return body[PREFIX_SIZE:]
    return plain_message(body[PREFIX_SIZE:], flag, gzipped=gzipped, most=most)


def plain_message(data: bytes, flag: int, *, gzipped: bool, most: int) -> bytes:
    """Return a message decompressed. Raises ServiceError, or TooLarge beyond `most` bytes."""
    if not flag:
        return data
    if flag != 1 or not gzipped:
        raise ServiceError(Code.INTERNAL, "grpc: a message is flagged as compressed and no grpc-encoding is named")
    inflater = zlib.decompressobj(_GZIP)
    try:
        plain = inflater.decompress(data, most + 1)
    except zlib.error as error:
        raise ServiceError(Code.INTERNAL, f"grpc: the message does not decompress: {error}") from None
    if len(plain) > most:
        # The last four bytes of a gzip claim the size; they are used only in the message.
        raise TooLarge(max(int.from_bytes(data[-4:], "little"), most + 1))
    if not inflater.eof or inflater.unused_data:
        raise ServiceError(Code.INTERNAL, "grpc: the message does not decompress: it is not one whole gzip member")
    return plain


def compressed(message: bytes) -> bytes:
    """Return the message compressed with gzip."""
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return deflater.compress(message) + deflater.flush()
