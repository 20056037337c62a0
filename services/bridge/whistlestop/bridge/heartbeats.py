"""Heartbeats of workers: what they say each minute rides along with the next look, instead of a call of its own.

What is news goes through at once: the first heartbeat of a worker, one that says that it is not just running, and those
of a worker that wants to be heard more often than that.
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
"""Workers send theirs every minute, unless told otherwise."""
LATEST_NS = 150 * SECOND_NS
"""Half of what a worker may be silent: no look has gone out for so long that a call must."""
_MOST = 1000


class Heartbeats:
    """Of the workers of one namespace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard_ns: dict[str, int] = {}
        self._told_ns: dict[str, int] = {}
        self._waiting: dict[str, WorkerHeartbeat] = {}

    def absorb(self, heartbeats: Sequence[WorkerHeartbeat]) -> bool:
        """Whether all of them can wait for the next look; they do then."""
        now_ns = self._clock.steady_ns()
        # Each is looked at, so that each is remembered.
        can_wait = [self._can_wait(each, now_ns) for each in heartbeats]
        if not heartbeats or not all(can_wait):
            for each in heartbeats:
                self._told_ns[each.worker_instance_key] = now_ns
                self._waiting.pop(each.worker_instance_key, None)
            return False
        self._waiting |= {each.worker_instance_key: each for each in heartbeats}
        return True

    def _can_wait(self, heartbeat: WorkerHeartbeat, now_ns: int) -> bool:
        key = heartbeat.worker_instance_key
        if len(self._heard_ns) >= _MOST:
            self._heard_ns.clear()
            self._told_ns.clear()
        heard_ns, self._heard_ns[key] = self._heard_ns.get(key, 0), now_ns
        return (
            heartbeat.status == enums.WORKER_STATUS_RUNNING
            and now_ns - heard_ns >= USUAL_NS
            and now_ns - self._told_ns.get(key, 0) < LATEST_NS
        )

    def waiting(self) -> list[WorkerHeartbeat]:
        """What a look is to bring along."""
        return list(self._waiting.values())

    def told(self, heartbeats: Sequence[WorkerHeartbeat]) -> None:
        """A look has brought them."""
        for each in heartbeats:
            self._told_ns[each.worker_instance_key] = self._clock.steady_ns()
            if self._waiting.get(each.worker_instance_key) is each:
                del self._waiting[each.worker_instance_key]
