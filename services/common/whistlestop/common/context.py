"""The context of a call, passed along with its request."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from whistlestop.common.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.clock import Clock


@record
class CallContext:
    """A call's deadline (steady clock), the caller's metadata, and the namespace once resolved."""

    deadline_ns: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """gRPC metadata or HTTP headers, names in lower case."""
    namespace_id: str = ""
    namespace: str = ""
    can_long_poll: bool = True
    """False inside a function, where waiting is billed: waits poll with back-off and end early."""
    sees: frozenset[str] | None = None
    """The names of the namespaces that the caller may see in a list; None means all."""

    def remaining_s(self, clock: Clock, default_s: float) -> float:
        """Return the seconds until the deadline (negative after it), or `default_s` when there is none."""
        if self.deadline_ns is None:
            return default_s
        return (self.deadline_ns - clock.steady_ns()) / 1e9

    def in_namespace(self, namespace_id: str, namespace: str) -> CallContext:
        """Return a copy of the context with the namespace filled in."""
        return replace(self, namespace_id=namespace_id, namespace=namespace)
