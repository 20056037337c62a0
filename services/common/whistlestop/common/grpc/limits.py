"""The bounds of one server, and what it asks of the program behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from whistlestop.common.errors import ServiceError
    from whistlestop.common.grpc.head import Method


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound has a number. Sizes in bytes, times in seconds."""

    max_message: int = 4 * 1024 * 1024
    """Of a request, decompressed."""
    max_streams: int = 10_000
    """Calls of one connection, the ended ones whose handlers are still winding up included."""
    max_header_list: int = 64 * 1024
    max_buffered: int = 256 * 1024 * 1024
    """Unfinished requests of one connection together."""
    connection_window: int = 16 * 1024 * 1024
    stream_window: int = 4 * 1024 * 1024
    compress_from: int | None = 16 * 1024
    """Replies of this size are compressed for peers who accept it and are not on this machine, where bytes cost less
    than the work of packing them. None: never."""
    handshake_s: float = 20.0
    max_strikes: int = 10_000
    """Frames that cost us and bring nothing (pings, resets, settings, empty DATA); a call that is answered makes up
    for some, and so does time."""
    strikes_forgiven_per_s: float = 1_000.0
    linger_s: float = 2.0
    """How long a peer may take to fetch what was written to a connection that ends, and to close its side."""


class Service(Protocol):
    """What calls are answered by."""

    def method(self, path: str) -> Method:
        """The method of a path; for an unknown one, a method that refuses."""
        ...

    def too_large(self, size: int) -> ServiceError:
        """The refusal of a request message of `size` bytes."""
        ...
