"""Heartbeats of workers, which are sent along with the next check for tasks instead of as calls of their own.

News is passed on at once: the first heartbeat of a worker, one with another status than running, and those of a
worker that sends them more often than usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import common_pb2 as enums

from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from temporalio.api.worker.v1.message_pb2 import WorkerHeartbeat

    from whistlestop.common.clock import Clock

USUAL_NS = 45 * SECOND_NS
"""Workers send one every minute, unless configured otherwise."""
LATEST_NS = 150 * SECOND_NS
"""Half of the time after which a silent worker counts as gone: without a check for so long, a call is needed."""
_MOST = 1000


class Heartbeats:
    """The heartbeats of a namespace's workers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._received_ns: dict[str, int] = {}
        self._delivered_ns: dict[str, int] = {}
        self._waiting: dict[str, WorkerHeartbeat] = {}

    def defer(self, heartbeats: Sequence[WorkerHeartbeat]) -> bool:
        """Keep the heartbeats for the next check and return True, or return False if they must be passed on now."""
        now_ns = self._clock.steady_ns()
        # Evaluate all of them, because each call also records the heartbeat.
        can_defer = [self._can_defer(each, now_ns) for each in heartbeats]
        if not heartbeats or not all(can_defer):
            for each in heartbeats:
                self._delivered_ns[each.worker_instance_key] = now_ns
                self._waiting.pop(each.worker_instance_key, None)
            return False
        self._waiting |= {each.worker_instance_key: each for each in heartbeats}
        return True

    def _can_defer(self, heartbeat: WorkerHeartbeat, now_ns: int) -> bool:
        key = heartbeat.worker_instance_key
        if len(self._received_ns) >= _MOST:
            self._received_ns.clear()
            self._delivered_ns.clear()
        received_ns, self._received_ns[key] = self._received_ns.get(key, 0), now_ns
        return (
            heartbeat.status == enums.WORKER_STATUS_RUNNING
            and now_ns - received_ns >= USUAL_NS
            and now_ns - self._delivered_ns.get(key, 0) < LATEST_NS
        )

    def waiting(self) -> list[WorkerHeartbeat]:
        """Return the heartbeats to send with the next check."""
        return list(self._waiting.values())

    def delivered(self, heartbeats: Sequence[WorkerHeartbeat]) -> None:
        """Record that a check has delivered the heartbeats."""
        for each in heartbeats:
            self._delivered_ns[each.worker_instance_key] = self._clock.steady_ns()
            if self._waiting.get(each.worker_instance_key) is each:
                del self._waiting[each.worker_instance_key]
