"""In which order a backlog is handed out: by priority, then by turns of fairness keys, as their weights say.

The real servers of these scenarios have one partition and fairness switched on (`servers.ONE_FAIR_PARTITION`). Tasks
that are equal to both servers come in the order in which they got there, which a client can't set: such ties are sorted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums

from tests.parity.puppet import cases
from tests.parity.scenarios import limited_scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

    from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb

    from tests.parity.puppet import Puppet

SYSTEM = queue_enums.RATE_LIMIT_SOURCE_SYSTEM
WORKFLOW, ACTIVITY = "TASK_QUEUE_TYPE_WORKFLOW", "TASK_QUEUE_TYPE_ACTIVITY"


def of(key: str = "", weight: float = 0, priority: int = 0) -> dict[str, Any]:
    """A priority."""
    return {"priority_key": priority, "fairness_key": key, "fairness_weight": weight}


def shown(priority: dict[str, Any]) -> str:
    """What distinguishes it in a transcript."""
    return "/".join(str(part) for part in (priority["priority_key"], priority["fairness_key"]) if part) or "none"


async def backlog(p: Puppet, *given: dict[str, Any]) -> None:
    """One workflow for each priority, in order; all of their tasks wait."""
    for number, priority in enumerate(given):
        fields = p.start_fields(p.id(f"{number}:{shown(priority)}"), priority=priority)
        await p.call("StartWorkflowExecution", record=False, **fields)
    await waits(p, WORKFLOW, len(given))


async def waits(p: Puppet, kind: str, count: int) -> None:
    """Until the queue knows of all of its tasks."""
    for _ in range(10000):
        answer = await p.call(
            "DescribeTaskQueue",
            record=False,
            task_queue={"name": p.task_queue},
            task_queue_type=kind,
            report_stats=True,
        )
        if answer.stats.approximate_backlog_count == count:
            return
        await asyncio.sleep(0.03)
    raise AssertionError(f"{answer.stats.approximate_backlog_count} tasks wait, not {count}")


async def handed_out(p: Puppet, count: int) -> list[str]:
    """What polls get, one by one."""
    order = []
    for _ in range(count):
        task = await p.workflow_task(record=False)
        order.append(task.workflow_execution.workflow_id.rpartition(":")[2])
    return order


def rounds(order: Sequence[str], size: int) -> list[list[str]]:
    """Rounds of equals."""
    return [sorted(order[at : at + size]) for at in range(0, len(order), size)]


@limited_scenario
async def by_priority(p: Puppet) -> None:
    # None is 3, and what is beyond 5 is 5.
    await backlog(p, *(of(priority=number) for number in (9, 0, 1, 4, 2, 1)))
    p.note("order", await handed_out(p, 6))


@limited_scenario
async def keys_of_one_weight(p: Puppet) -> None:
    await backlog(p, *[of("a")] * 6, *[of("b")] * 3, *[of()] * 3)
    p.note("rounds", rounds(await handed_out(p, 12), 3)[:3])


@limited_scenario
async def keys_of_different_weights(p: Puppet) -> None:
    weights = {"a": 3, "b": 1, "c": 1.7, "d": 0.3}
    await backlog(p, *(of(key, weight) for key, weight in weights.items() for _ in range(8)))
    p.note("order", await handed_out(p, 32))


@limited_scenario
async def the_largest_and_the_least_weight(p: Puppet) -> None:
    await backlog(p, *(of(key, weight) for key, weight in (("a", 5000), ("b", 1), ("c", 0.00001)) for _ in range(3)))
    p.note("order", await handed_out(p, 9))


@limited_scenario
async def keys_within_priorities(p: Puppet) -> None:
    await backlog(
        p,
        *(of(key, weight, priority) for priority in (4, 2) for key, weight in (("a", 1), ("b", 2.1)) for _ in range(4)),
    )
    p.note("order", await handed_out(p, 16))


@limited_scenario
async def overridden_weights(p: Puppet) -> None:
    await p.call(
        "UpdateTaskQueueConfig", identity="operator", task_queue=p.task_queue, task_queue_type=WORKFLOW,
        set_fairness_weight_overrides={"a": 3, "z": 9},
    )  # fmt: skip
    await backlog(p, *(of(key, weight) for key, weight in (("b", 1), ("a", 0.1), ("c", 1.7)) for _ in range(6)))
    p.note("order", await handed_out(p, 18))


@limited_scenario
async def a_weight_without_a_key(p: Puppet) -> None:
    await backlog(p, *[of("a", 1)] * 6, *[of("", 3)] * 6)
    p.note("order", await handed_out(p, 12))


@limited_scenario
async def a_key_that_comes_late(p: Puppet) -> None:
    """It does not wait for the backlog of the others. How soon its tasks are in sight there depends on the machine."""
    await backlog(p, *[of("a")] * 12)
    await handed_out(p, 4)
    for number in range(4):
        await p.call(
            "StartWorkflowExecution", record=False, **p.start_fields(p.id(f"late-{number}:b"), priority=of("b"))
        )
    await waits(p, WORKFLOW, 12)
    p.note("some of the late one", "b" in await handed_out(p, 8))


async def _described(p: Puppet, kind: str, expected: queue_pb.TaskQueueConfig | None = None) -> None:
    """With the settings that were just made: they are told to the real server's partitions, and arrive a little later."""
    for _ in range(10000):
        answer = await p.call(
            "DescribeTaskQueue", record=False, task_queue={"name": p.task_queue}, task_queue_type=kind,
            report_config=True, report_stats=True,
        )  # fmt: skip
        if expected is None or answer.config == expected:
            break
        await asyncio.sleep(0.03)
    p.note("config", p.normalised(answer.config))
    limit = answer.effective_rate_limit
    # What the system allows to one partition differs.
    p.note("limit", [limit.rate_limit_source, limit.requests_per_second if limit.rate_limit_source != SYSTEM else 0])
    waiting = {str(n): stats.approximate_backlog_count for n, stats in answer.stats_by_priority_key.items()}
    p.note("waiting", dict(sorted(waiting.items())))


@limited_scenario
async def what_a_queue_reports(p: Puppet) -> None:
    for given in cases(
        {"set_fairness_weight_overrides": {"a": 3, "b": 0.5}},
        {"set_fairness_weight_overrides": {"c": 2000}, "unset_fairness_weight_overrides": ["a", "nobody"]},
        {"update_fairness_key_rate_limit_default": {"rate_limit": {"requests_per_second": 7}, "reason": "why"}},
        {"update_queue_rate_limit": {"rate_limit": {"requests_per_second": 9}, "reason": "whole"}},
        {"update_fairness_key_rate_limit_default": {"reason": "no more"}},
        {"unset_fairness_weight_overrides": ["b", "c"]},
    ):
        updated = await p.call(
            "UpdateTaskQueueConfig", identity="operator", task_queue=p.task_queue, task_queue_type=ACTIVITY, **given
        )
        await _described(p, ACTIVITY, updated.config)


@limited_scenario
async def what_waits_by_priority(p: Puppet) -> None:
    await backlog(p, of("a", 1, 1), of("b", 1, 1), of(priority=1), of("a"), of(), of("c", 2, 5))
    await _described(p, WORKFLOW)


@limited_scenario
async def bad_keys(p: Puppet) -> None:
    for priority in cases(
        of("k" * 64), of("k" * 65), of("é" * 33), of("a", -1), of("a", 1, -1), of("a", 1e9), of("", 3), of("a", 1, 77)
    ):
        await p.attempt(
            "StartWorkflowExecution", **p.start_fields(p.id(f"w{len(p.transcript.entries)}"), priority=priority)
        )
    for given in cases(
        {"set_fairness_weight_overrides": {"": 1}},
        {"set_fairness_weight_overrides": {"k" * 65: 1}},
        {"set_fairness_weight_overrides": {"k": 0}},
        {"set_fairness_weight_overrides": {"k": -1}},
        {"set_fairness_weight_overrides": {"k": 1}, "unset_fairness_weight_overrides": ["k"]},
        {"unset_fairness_weight_overrides": [""]},
        {"unset_fairness_weight_overrides": ["k" * 65]},
        {"set_fairness_weight_overrides": {f"k{number}": 1 for number in range(1001)}},
        {"set_fairness_weight_overrides": {f"k{number}": 1 for number in range(1000)}},
        {"set_fairness_weight_overrides": {"one more": 1}},
        {"update_fairness_key_rate_limit_default": {"rate_limit": {"requests_per_second": -1}}},
    ):
        p.note("given", min(given))
        await p.attempt(
            "UpdateTaskQueueConfig", identity="operator", task_queue=p.id("refusals"), task_queue_type=ACTIVITY, **given
        )
