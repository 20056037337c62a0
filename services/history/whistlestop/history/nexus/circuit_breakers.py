"""Circuit breakers: requests to a destination that does not answer are suspended for a while.

There is one for each namespace, kind of request and destination (an endpoint's name, or the host of a callback). It
opens after more than five consecutive failures; sixty seconds later one request is let through, whose outcome closes it
or opens it again. A failure is one after which the request is retried: a handler that refuses permanently has answered.

They are kept in memory, by each process or function instance for itself, as Temporal's are by each host.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from temporalio.api.enums.v1 import common_pb2 as common_enums

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.nexus.decide import CANCEL_KIND, START_KIND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.nexus.v1 import message_pb2 as nexus_pb
    from temporalio.api.workflow.v1 import message_pb2 as workflow_pb

    from whistlestop.common.clock import Clock

Key: TypeAlias = tuple[str, str, str]
"""Namespace id, kind of transfer task, destination."""

MOST_FAILURES = 5
OPEN_NS = 60 * SECOND_NS
CHECK_AGAIN_NS = SECOND_NS
"""How much later the other requests ask again while the one that was let through is in progress."""
MOST_BREAKERS = 10_000
_REASON = "The circuit breaker is open."


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    """Consecutive failures."""
    open_until_ns: int = 0
    """0: closed. After this time (steady clock), a request is let through."""
    trying_until_ns: int = 0
    """When the request that was let through is given up; 0: none is in progress."""


class CircuitBreakers:
    """All breakers of this process; the least recently used ones are dropped."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._breakers: OrderedDict[Key, _Breaker] = OrderedDict()

    def admit(self, key: Key) -> int:
        """Return 0 if a request may be made, otherwise until when it is put off (wall clock, nanoseconds)."""
        breaker = self._breakers.get(key)
        if breaker is None or not breaker.open_until_ns:
            return 0
        now_ns = self._clock.steady_ns()
        if now_ns < breaker.open_until_ns:
            return self._clock.now_ns() + breaker.open_until_ns - now_ns
        if now_ns < breaker.trying_until_ns:
            return self._clock.now_ns() + CHECK_AGAIN_NS
        breaker.trying_until_ns = now_ns + OPEN_NS
        return 0

    def is_open(self, key: Key) -> bool:
        """Return whether requests for this key are put off at present; False for an unknown key."""
        breaker = self._breakers.get(key)
        return breaker is not None and self._clock.steady_ns() < breaker.open_until_ns

    def report(self, key: Key, *, failed: bool) -> None:
        """Record whether a request for this key failed. Enough failures in a row open the breaker."""
        if not failed:
            self._breakers.pop(key, None)
            return
        breaker = self._breakers.setdefault(key, _Breaker())
        self._breakers.move_to_end(key)
        breaker.failures += 1
        if breaker.failures > MOST_FAILURES:
            breaker.open_until_ns = self._clock.steady_ns() + OPEN_NS
            breaker.trying_until_ns = 0
        while len(self._breakers) > MOST_BREAKERS:
            self._breakers.popitem(last=False)


def show(
    breakers: CircuitBreakers,
    namespace_id: str,
    operations: Iterable[workflow_pb.PendingNexusOperationInfo | nexus_pb.NexusOperationExecutionInfo],
    owed: Iterable[workflow_pb.CallbackInfo] = (),
) -> None:
    """Mark requests as blocked that wait because their circuit breaker is open."""
    for operation in operations:
        if operation.state == common_enums.PENDING_NEXUS_OPERATION_STATE_SCHEDULED and breakers.is_open(
            (namespace_id, START_KIND, operation.endpoint)
        ):
            operation.state = common_enums.PENDING_NEXUS_OPERATION_STATE_BLOCKED
            operation.blocked_reason = _REASON
        if not operation.HasField("cancellation_info"):
            continue
        cancellation = operation.cancellation_info
        if cancellation.state == common_enums.NEXUS_OPERATION_CANCELLATION_STATE_SCHEDULED and breakers.is_open(
            (namespace_id, CANCEL_KIND, operation.endpoint)
        ):
            cancellation.state = common_enums.NEXUS_OPERATION_CANCELLATION_STATE_BLOCKED
            cancellation.blocked_reason = _REASON
    for callback in owed:
        if callback.state == common_enums.CALLBACK_STATE_SCHEDULED and breakers.is_open(
            (namespace_id, callbacks.KIND, callbacks.destination_of(callback.callback.nexus))
        ):
            callback.state = common_enums.CALLBACK_STATE_BLOCKED
            callback.blocked_reason = _REASON
