"""The limits of a server, and the interface of the service that it exposes.

What unauthenticated peers may use is limited in `whistlestop.net.budget`, for all protocols together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from whistlestop.common.errors import ServiceError
    from whistlestop.net.grpc.head import Method


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits of a server. Sizes are in bytes, times in seconds."""

    max_message: int = 4 * 1024 * 1024
    """Maximum size of a request, decompressed."""
    max_streams: int = 10_000
    """Concurrent calls of one connection, including ended ones whose handlers are still finishing."""
    max_header_list: int = 64 * 1024
    max_header_fields: int = 512
    max_buffered: int = 256 * 1024 * 1024
    """Total size of the unfinished requests of an authenticated connection."""
    max_unsent: int = 256 * 1024 * 1024
    """Total size of a connection's answers that wait for flow control; an answer beyond it is replaced by an error."""
    max_unsent_unauthenticated: int = 2 * 1024 * 1024
    stalled_s: float = 80.0
    """How long an authenticated peer may read nothing of the answers that wait for it."""
    stalled_unauthenticated_s: float = 10.0
    connection_window: int = 16 * 1024 * 1024
    stream_window: int = 4 * 1024 * 1024
    compress_from: int | None = 16 * 1024
    """Replies from this size on are compressed for peers that accept it, unless they are on this machine, where
    bytes cost less than compressing them. None: never."""
    handshake_s: float = 20.0
    max_strikes: float = 10_000
    """See `strikes.py`: the cost of frames that bring no call forward."""
    strikes_forgiven_per_s: float = 1_000.0
    max_strikes_unauthenticated: float = 1_000
    strikes_forgiven_unauthenticated_per_s: float = 100.0
    turn_s: float = 0.004
    """After this time a connection yields to the others."""
    turn_unauthenticated_s: float = 0.001
    calls_per_turn: int = 48
    """Calls that a connection may begin before it yields to the others: their handlers all run in one turn of the
    loop."""
    calls_per_turn_unauthenticated: int = 8
    credential_kept_s: float = 5.0
    """How long the caller of a header block counts as authenticated without being checked again. This only decides
    whether a request is read at all; each call is still authorised by itself."""
    linger_s: float = 2.0
    """How long a peer may take to read what was written to a closing connection, and to close its side."""


class Service(Protocol):
    """What a server serves."""

    def method(self, path: str) -> Method:
        """Return the method of a path; for an unknown path, a method that refuses calls."""
        ...

    def too_large(self, size: int) -> ServiceError:
        """Return the error for a request message of `size` bytes."""
        ...
