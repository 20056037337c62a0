"""What travels beside a request."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from whistlestop.common.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.clock import Clock


@record
class CallContext:
    """One call: its deadline (steady clock), the caller's metadata, and the namespace once resolved."""

    deadline_ns: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """gRPC metadata or HTTP headers, names in lower case."""
    namespace_id: str = ""
    namespace: str = ""
    can_hold: bool = True
    """False inside a function, where a wait is billed: waits re-check with back-off and end early."""
    sees: frozenset[str] | None = None
    """The names of the namespaces that may be shown to the caller of a list of them; None: all."""

    def remaining_s(self, clock: Clock, default_s: float) -> float:
        """Seconds until the deadline, or `default_s` when the caller set none."""
        if self.deadline_ns is None:
            return default_s
        return (self.deadline_ns - clock.steady_ns()) / 1e9

    def in_namespace(self, namespace_id: str, namespace: str) -> CallContext:
        """The same call with its namespace resolved."""
        return replace(self, namespace_id=namespace_id, namespace=namespace)
