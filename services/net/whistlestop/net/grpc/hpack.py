"""Header compression (RFC 7541): a decoder with its tables, and the little encoding that is needed.

A decoder belongs to one connection and must see every header block of it in order, even of refused calls, since a
block may change the table to which later blocks refer. `changes` counts such changes: while it stays the same, equal
blocks have equal meanings (`requests.py` caches parsed blocks on this condition). The encoder never uses the dynamic
table: its answers are a few constant bytes, and the peer's table size needs no bookkeeping. This module does no I/O.
"""

from __future__ import annotations

from typing import Final

from whistlestop.net.grpc.huffman import HuffmanError
from whistlestop.net.grpc.huffman import decode as decode_huffman

Field = tuple[bytes, bytes]

DEFAULT_TABLE_SIZE: Final = 4_096
_ENTRY_OVERHEAD = 32
# Five continuation bytes go beyond 2^32, which no valid length or index exceeds.
_MAX_INTEGER_BYTES = 5
_MAX_UPDATES = 2
"""Table size updates allowed before the fields of a block: to the lowest and to the last value (RFC 7541, section
4.2)."""
_FAR = 2
"""Up to this multiple of its limit, a header list is read to the end and refused alone; beyond it, the connection
ends."""

# fmt: off
STATIC_TABLE: Final[tuple[Field, ...]] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
)
# fmt: on
_STATIC_SIZE = len(STATIC_TABLE)


class HpackError(ValueError):
    """The block is not valid HPACK. The connection must end, since the tables of both sides differ now."""


def _integer(data: bytes, at: int, mask: int) -> tuple[int, int]:
    """Decode the integer whose prefix is in data[at] under `mask`; return it, and where it ends."""
    value = data[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = data[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise HpackError("an integer of too many bytes")


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    coded = data[at] & 0x80
    length, at = _integer(data, at, 0x7F)
    end = at + length
    if end > len(data):
        raise HpackError("a string longer than its header block")
    text = data[at:end]
    return decode_huffman(text) if coded else text, end


class Decoder:
    """The receiving half of a connection's compression state."""

    __slots__ = ("_entries", "_limit", "_most", "_size", "changes")

    def __init__(self, limit: int = DEFAULT_TABLE_SIZE) -> None:
        self._limit = limit
        self._most = limit
        self._entries: list[Field] = []
        """Newest last; index 62 is the newest."""
        self._size = 0
        self.changes = 0

    def decode(self, block: bytes, most: int, most_fields: int = 1 << 20) -> list[Field] | None:
        """Return the fields in order, or None if they exceed `most_fields`, or `most` bytes in total.

        Raises HpackError, also for a block that exceeds the limits by more than _FAR: a few bytes can stand for many
        fields, and decoding them only to keep the table in step would be unbounded work.
        """
        fields: list[Field] = []
        size = at = updates = count = 0
        end = len(block)
        try:
            while at < end:
                byte = block[at]
                if byte & 0x80:
                    index, at = _integer(block, at, 0x7F)
                    field = self._at(index)
                elif byte & 0xE0 == 0x20:
                    updates += 1
                    if size or updates > _MAX_UPDATES:
                        raise HpackError("a table size update after a field, or more than two updates")
                    limit, at = _integer(block, at, 0x1F)
                    self._resize(limit)
                    continue
                else:
                    field, at = self._literal(block, at)
                size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
                count += 1
                if size <= most:
                    fields.append(field)
                if size > _FAR * most or count > _FAR * most_fields:
                    raise HpackError("a header list far beyond the limit")
        except IndexError:
            raise HpackError("a header block that ends inside a field") from None
        except HuffmanError as error:
            raise HpackError(str(error)) from None
        return fields if size <= most and count <= most_fields else None

    def _literal(self, block: bytes, at: int) -> tuple[Field, int]:
        indexing = block[at] & 0x40
        index, at = _integer(block, at, 0x3F if indexing else 0x0F)
        if index:
            name = self._at(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        field = (name, value)
        if indexing:
            self._insert(field)
        return field, at

    def _at(self, index: int) -> Field:
        if 0 < index <= _STATIC_SIZE:
            return STATIC_TABLE[index - 1]
        if index == 0 or index - _STATIC_SIZE > len(self._entries):
            raise HpackError(f"no entry {index} in the table")
        return self._entries[_STATIC_SIZE - index]

    def _insert(self, field: Field) -> None:
        self.changes += 1
        self._entries.append(field)
        self._size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
        self._evict()

    def _resize(self, most: int) -> None:
        if most > self._limit:
            raise HpackError(f"a table of {most} bytes where {self._limit} are allowed")
        if most != self._most:
            self.changes += 1
        self._most = most
        self._evict()

    def _evict(self) -> None:
        evicted = 0
        while self._size > self._most:
            name, value = self._entries[evicted]
            self._size -= len(name) + len(value) + _ENTRY_OVERHEAD
            evicted += 1
        del self._entries[:evicted]


def _length(value: int) -> bytes:
    """Encode an integer with a 7-bit prefix whose flag bit is 0."""
    if value < 0x7F:
        return bytes((value,))
    out = bytearray((0x7F,))
    value -= 0x7F
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def literal(name: bytes, value: bytes) -> bytes:
    """Encode a header field as a literal without indexing or Huffman code."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def status_line(status: int) -> bytes:
    """Encode the `:status` pseudo-header field for an HTTP status."""
    if status == 200:
        return b"\x88"
    return b"\x08\x03" + str(status).encode()


# A table size update to 0: tells the peer once that our encoder uses no dynamic table.
NO_DYNAMIC_TABLE: Final = b"\x20"
