"""Whether a worker should open more or fewer polls, and the fields that matching adds to a reply.

The rules are Temporal's: a poll that waited a second for a fresh task was one too many; a backlog older than 200 ms, or
tasks that are added faster than dispatched, asks for one more. To add a poll is suggested at most ten times a second
per poller.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.task_queue.queue import TaskQueue

_KINDS: dict[
    int,
    type[rr.PollWorkflowTaskQueueResponse | rr.PollActivityTaskQueueResponse | rr.PollNexusTaskQueueResponse],
] = {1: rr.PollWorkflowTaskQueueResponse, 2: rr.PollActivityTaskQueueResponse, 3: rr.PollNexusTaskQueueResponse}
_MAX_BACKLOG_COUNT = 1000
"""Backlog hints are exact up to here and rounded beyond, so that the cache of `own_fields` stays small."""


def advise(
    queue: TaskQueue, config: MatchingConfig, waited_ns: int, now_ns: int, wall: Callable[[], int], *, fresh: bool
) -> int:
    """Return the suggested change (-1, 0 or 1) of open polls after one got a task.

    `wall` returns the wall clock's time in nanoseconds.
    """
    if fresh and waited_ns >= config.scale_down_wait_s * SECOND_NS:
        return -1
    if not _wants_more(queue, config, now_ns, wall):
        return 0
    # A token bucket as in `rate_limit`: one time, moved forward by each suggestion.
    ready_ns = max(queue.scaled_ns, now_ns - SECOND_NS)
    if ready_ns > now_ns:
        return 0
    queue.scaled_ns = ready_ns + int(SECOND_NS / (config.scale_decisions_per_s * max(len(queue.pollers), 1)))
    return 1


def _wants_more(queue: TaskQueue, config: MatchingConfig, now_ns: int, wall: Callable[[], int]) -> bool:
    if queue.limited is not None and queue.limited.per_second(now_ns) > 0:
        return False
    if queue.backlog and queue.backlog_age_ns(wall()) > config.scale_up_backlog_age_s * SECOND_NS:
        return True
    added = dispatched = 0.0
    for rates in queue.rates.values():
        added += rates.added.per_second(now_ns)
        dispatched += rates.dispatched.per_second(now_ns)
    return added > config.scale_up_ratio * dispatched


@lru_cache(maxsize=4096)
def _own_fields(task_type: int, suggested_backlog: int, delta: int) -> bytes:
    reply: rr.PollWorkflowTaskQueueResponse | rr.PollActivityTaskQueueResponse | rr.PollNexusTaskQueueResponse
    reply = _KINDS[task_type]()
    if delta:
        reply.poller_scaling_decision.poll_request_delta_suggestion = delta
    if suggested_backlog and isinstance(reply, rr.PollWorkflowTaskQueueResponse):
        reply.backlog_count_hint = suggested_backlog
    return bytes(reply.SerializeToString())


def own_fields(task_type: int, backlog: int, delta: int) -> bytes:
    """Return matching's own fields, serialised: appended to history's reply, they merge into it."""
    if backlog > _MAX_BACKLOG_COUNT:
        backlog -= backlog % 100
    return _own_fields(task_type, backlog if task_type == 1 else 0, delta)
