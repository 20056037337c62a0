"""The bounds of one server, and what it asks of the program behind it.

What peers may cost before it is known who they are is bounded in `whistlestop.common.budget`, for all protocols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from whistlestop.common.lazy_dataclasses import dataclass

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
    max_header_fields: int = 512
    max_buffered: int = 256 * 1024 * 1024
    """Unfinished requests of one connection together, once its caller is known."""
    max_unsent: int = 256 * 1024 * 1024
    """Answers of one connection that wait for the peer's windows; one more is replaced by an error."""
    max_unsent_unauthenticated: int = 2 * 1024 * 1024
    stalled_s: float = 80.0
    """How long a peer that is known may fetch nothing of what waits for it."""
    stalled_unauthenticated_s: float = 10.0
    connection_window: int = 16 * 1024 * 1024
    stream_window: int = 4 * 1024 * 1024
    compress_from: int | None = 16 * 1024
    """Replies of this size are compressed for peers who accept it and are not on this machine, where bytes cost less
    than the work of packing them. None: never."""
    handshake_s: float = 20.0
    max_strikes: float = 10_000
    """Frames that cost us and bring nothing (`strikes.py`)."""
    strikes_forgiven_per_s: float = 1_000.0
    max_strikes_unauthenticated: float = 1_000
    strikes_forgiven_unauthenticated_per_s: float = 100.0
    turn_s: float = 0.004
    """After this time a connection lets others go first."""
    turn_unauthenticated_s: float = 0.001
    calls_per_turn: int = 48
    """Calls that one connection may begin before it lets others go first: their handlers run all in one turn."""
    calls_per_turn_unauthenticated: int = 8
    credential_kept_s: float = 5.0
    """For how long a connection's caller is not asked for again by the same header block. Each call asks anyway
    whether its caller may do what it asks for; this is about whether a request is read at all."""
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
