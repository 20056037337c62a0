"""Measure CPU per task of one task queue in memory: no store, no history, no transport.

    python benchmarks/matching.py [--n 20000] [--keys 100] [--repeats 5]

It measures new tasks that find a waiting poll, a backlog that is dispatched in order, and both with fairness keys.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import SystemClock
from whistlestop.common.fairness import level
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.task_queue.queue import TaskQueue, Waiter
from whistlestop.net.tasks.deadline_queue import DeadlineQueue
from whistlestop.storage.records import MatchingTask, TaskKey

if TYPE_CHECKING:
    from collections.abc import Callable

POLL = rr.PollActivityTaskQueueRequest()


def task(number: int, key: str) -> MatchingTask:
    """Return a task as history writes it."""
    data = common_pb.Priority(fairness_key=key, fairness_weight=1).SerializeToString() if key else b""
    return MatchingTask(TaskKey("n", "q", 2, level(3, key), number), "w", "r", 5, 1, number, data=data)


def queue() -> TaskQueue:
    """Return a task queue that has read an empty store."""
    config = MatchingConfig(buffer=1_000_000, system_rps=1e9)
    made = TaskQueue(("n", "q", 2), config, DeadlineQueue(SystemClock()), lambda _: None, 0)
    made.begin_read()
    made.end_read([], 100, 1)
    return made


def fresh(tasks: list[MatchingTask]) -> None:
    """Match each task with a waiting poll."""
    served, loop = queue(), asyncio.get_running_loop()
    for now_ns, each in enumerate(tasks, 1):
        waiter = Waiter(loop.create_future(), POLL)
        served.waiters[waiter] = None
        served.offer(each, now_ns)
        served.finish(waiter.future.result() or each, dispatched=True, now_ns=now_ns)


def backlog(tasks: list[MatchingTask]) -> None:
    """Add all tasks before the first poll."""
    served = queue()
    for now_ns, each in enumerate(tasks, 1):
        served.offer(each, now_ns)
    while (given := served.take(10**12)) is not None:
        served.finish(given, dispatched=True, now_ns=10**12)


def measured(run: Callable[[list[MatchingTask]], None], tasks: list[MatchingTask], repeats: int) -> float:
    """Return microseconds of CPU per task, the best of several repeats."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        run(tasks)
        best = min(best, time.process_time() - began)
    return best / len(tasks) * 1e6


async def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    plain = [task(number, "") for number in range(options.n)]
    keyed = [task(number, f"key {number % options.keys}") for number in range(options.n)]
    for name, tasks in (("no keys", plain), (f"{options.keys} keys", keyed)):
        for run in (fresh, backlog):
            print(f"{name:10s} {run.__name__:8s} {measured(run, tasks, options.repeats):6.2f} us a task")


if __name__ == "__main__":
    asyncio.run(main())
