"""Fairness keys: turns by weight, whatever backlog a key has; limits of keys; and what stays in the store."""

from __future__ import annotations

from collections import Counter
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import NAMESPACE, Bench, settle
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.fairness import level, priority_of
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.ready import Fair, in_drawn_order
from whistlestop.storage.records import MatchingTask, TaskKey

if TYPE_CHECKING:
    from collections.abc import Iterable


def task(number: int, key: str = "", *, weight: float = 0, priority: int = 3, kind: int = 2) -> MatchingTask:
    data = common_pb.Priority(fairness_key=key, fairness_weight=weight).SerializeToString() if key else b""
    row = TaskKey("ns", "q", kind, level(priority, key), number)
    return MatchingTask(row, f"{key or 'none'}-{number}", "run", 1, 1, number, data=data)


def key_of(task: MatchingTask) -> str:
    return task.workflow_id.rpartition("-")[0]


def order(fair: Fair, count: int, now_ns: int = 0) -> list[str]:
    popped = [fair.pop(now_ns) for _ in range(count)]
    return [key_of(each) for each in popped if each is not None]


@pytest.mark.parametrize("priority", range(1, 6))
def test_a_level_tells_its_priority(priority: int) -> None:
    levels = {level(priority, key) for key in ("", "a", "b", "x" * 64)}
    assert len(levels) == 4
    assert {priority_of(each) for each in levels} == {priority}


def test_keys_take_turns_however_many_tasks_one_has() -> None:
    fair = Fair([*(task(n, "busy") for n in range(100)), task(200, "a"), task(201, "b"), task(202)])
    assert set(order(fair, 4)) == {"busy", "a", "b", "none"}
    assert order(fair, 96) == ["busy"] * 96


def test_a_key_of_more_weight_gets_more_turns() -> None:
    fair = Fair([*(task(n, "heavy", weight=3) for n in range(100)), *(task(n, "light") for n in range(100, 200))])
    assert Counter(order(fair, 40)) == {"heavy": 30, "light": 10}
    fair.configure({"light": 9.0}, None)
    order(fair, 4)
    assert Counter(order(fair, 40)) == {"light": 30, "heavy": 10}


def test_a_more_urgent_priority_comes_first() -> None:
    fair = Fair([*(task(n, "a", priority=3) for n in range(5)), task(9, "b", priority=1), task(10, priority=2)])
    assert order(fair, 3) == ["b", "none", "a"]


def test_a_key_that_was_away_does_not_get_its_turns_back() -> None:
    fair = Fair([task(0, "away"), *(task(n, "busy") for n in range(1, 100))])
    order(fair, 50)
    for n in range(200, 220):
        fair.push(task(n, "away"))
    assert Counter(order(fair, 10)) == {"away": 5, "busy": 5}


def test_a_limit_holds_a_key_back_and_the_others_go_on() -> None:
    fair = Fair([*(task(n, "a") for n in range(5)), *(task(n, "b", weight=2) for n in range(5, 10))])
    fair.configure({}, 1.0)
    assert sorted(order(fair, 10)) == ["a", "b"]
    assert fair.wait_ns == SECOND_NS // 2
    assert order(fair, 10, SECOND_NS // 2) == ["b"]
    assert sorted(order(fair, 10, SECOND_NS)) == ["a", "b"]
    fair.configure({}, None)
    assert len(order(fair, 10, SECOND_NS)) == 5


def test_a_key_with_more_in_the_store_says_when_it_has_used_up_its_own() -> None:
    fair = Fair()
    fair.replace([task(1, "a"), task(2, "a"), task(3, "b")], {level(3, "a"): 2})
    assert fair.covers((level(3, "a"), 2))
    assert not fair.covers((level(3, "a"), 4))
    assert fair.covers((level(3, "b"), 4))
    order(fair, 2)
    assert not fair.missing
    order(fair, 1)
    assert fair.missing


def test_the_later_half_of_each_key_can_be_left_in_the_store() -> None:
    fair = Fair([*(task(n, "a") for n in range(10)), task(10, "b")])
    assert fair.shrink() == {(level(3, "a"), n) for n in range(5, 10)}
    assert Counter(order(fair, 10)) == {"a": 5, "b": 1}


def test_what_is_drawn_follows_the_weights() -> None:
    tasks = [task(1, "a", weight=3), task(2, "b"), task(3, "c", priority=1)]
    numbers = cycle([(n + 0.5) / 101 for n in range(0, 101 * 7, 7) for n in (n % 101,)])
    firsts: Counter[str] = Counter()
    for _ in range(404):
        drawn = in_drawn_order(tasks, {}, lambda: next(numbers))
        assert key_of(drawn[0]) == "c"
        firsts[key_of(drawn[1])] += 1
    assert firsts["a"] > 2 * firsts["b"] > 0


# Through polls.


def put(bench: Bench, tasks: Iterable[MatchingTask], *, offered: bool) -> None:
    rows = [MatchingTask(TaskKey(NAMESPACE, *_rest(each)), *_fields(each)) for each in tasks]
    bench.rows.rows.update({row.key: row for row in rows})
    if offered:
        bench.matching.offer(rows)


def _rest(task: MatchingTask) -> tuple[str, int, int, int]:
    return task.key.task_queue, task.key.task_type, task.key.priority, task.key.task_id


def _fields(task: MatchingTask) -> tuple[Any, ...]:
    return (
        task.workflow_id, task.run_id, task.scheduled_event_id, task.stamp, task.created_ns, "", task.data,
    )  # fmt: skip


async def started(bench: Bench, count: int, *, can_hold: bool = True) -> Counter[str]:
    got: Counter[str] = Counter()
    for _ in range(count):
        reply = await bench.poll_activity(can_hold=can_hold)
        if reply.activity_id:
            got[reply.activity_id.rpartition("-")[0]] += 1
    return got


@pytest.mark.parametrize("offered", [True, False])
async def test_polls_serve_keys_by_turns(offered: bool) -> None:
    """Fresh tasks and a backlog that only the store knows; more of one key than is kept in memory."""
    bench = Bench(MatchingConfig(page=20, buffer=40))
    put(bench, [task(n, "busy") for n in range(300)], offered=offered)
    put(bench, [task(n, "other") for n in range(300, 310)], offered=offered)
    put(bench, [task(n) for n in range(310, 320)], offered=offered)
    assert (await started(bench, 30)) == pytest.approx({"busy": 10, "other": 10, "none": 10}, abs=2)
    await started(bench, 290)
    assert bench.rows.rows == {}


async def test_functions_serve_keys_without_memory() -> None:
    bench = Bench(MatchingConfig(function_wait_s=0.2))
    put(bench, [task(n, "busy") for n in range(300)], offered=False)
    put(bench, [task(n, "other") for n in range(300, 340)], offered=False)
    assert (await started(bench, 60, can_hold=False))["other"] in range(15, 41)


async def test_stored_weights_and_limits_reach_a_queue_in_use() -> None:
    bench = Bench()
    put(bench, [task(n, key) for n, key in zip(range(200), cycle("ab"), strict=False)], offered=True)
    await started(bench, 2)
    update = rr.UpdateTaskQueueConfigRequest(
        task_queue="q", task_queue_type=2, set_fairness_weight_overrides={"a": 4}  # type: ignore[arg-type]
    )
    await bench.ask("UpdateTaskQueueConfig", update)
    await started(bench, 5)
    assert (await started(bench, 50)) == pytest.approx({"a": 40, "b": 10}, abs=2)
    await settle()
