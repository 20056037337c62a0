"""Fairness keys: turns by weight, whatever backlog a key has; limits of keys; and what stays in the store."""

from __future__ import annotations

from collections import Counter
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import NAMESPACE, Bench, settle
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.fairness import level, priority_of
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.task_queue.dispatch_order import FairOrder, Window, in_random_order
from whistlestop.matching.task_queue.rate_limit import KeyRate
from whistlestop.matching.task_queue.settings import data_of
from whistlestop.storage.records import MatchingTask, TaskKey

if TYPE_CHECKING:
    from collections.abc import Iterable


def task(number: int, key: str = "", *, weight: float = 0, priority: int = 3, kind: int = 2) -> MatchingTask:
    data = common_pb.Priority(fairness_key=key, fairness_weight=weight).SerializeToString() if key else b""
    row = TaskKey("ns", "q", kind, level(priority, key), number)
    return MatchingTask(row, f"{key or 'none'}-{number}", "run", 1, 1, number, data=data)


def key_of(task: MatchingTask) -> str:
    return task.workflow_id.rpartition("-")[0]


def order(fair: FairOrder, count: int, now_ns: int = 0) -> list[str]:
    popped = [fair.pop(now_ns) for _ in range(count)]
    return [key_of(each) for each in popped if each is not None]


@pytest.mark.parametrize("priority", range(1, 6))
def test_a_level_contains_its_priority(priority: int) -> None:
    levels = {level(priority, key) for key in ("", "a", "b", "x" * 64)}
    assert len(levels) == 4
    assert {priority_of(each) for each in levels} == {priority}


def test_keys_take_turns_however_many_tasks_one_has() -> None:
    fair = FairOrder([*(task(n, "busy") for n in range(100)), task(200, "a"), task(201, "b"), task(202)])
    assert set(order(fair, 4)) == {"busy", "a", "b", "none"}
    assert order(fair, 96) == ["busy"] * 96


def test_a_key_of_more_weight_gets_more_turns() -> None:
    fair = FairOrder([*(task(n, "heavy", weight=3) for n in range(100)), *(task(n, "light") for n in range(100, 200))])
    assert Counter(order(fair, 40)) == {"heavy": 30, "light": 10}
    fair.configure({"light": 9.0}, None)
    order(fair, 4)
    assert Counter(order(fair, 40)) == {"light": 30, "heavy": 10}


def test_a_more_urgent_priority_comes_first() -> None:
    fair = FairOrder([*(task(n, "a", priority=3) for n in range(5)), task(9, "b", priority=1), task(10, priority=2)])
    assert order(fair, 3) == ["b", "none", "a"]


def test_a_key_that_was_away_does_not_get_its_turns_back() -> None:
    fair = FairOrder([task(0, "away"), *(task(n, "busy") for n in range(1, 100))])
    order(fair, 50)
    for n in range(200, 220):
        fair.push(task(n, "away"))
    assert Counter(order(fair, 10)) == {"away": 5, "busy": 5}


def test_a_limit_holds_a_key_back_and_the_others_go_on() -> None:
    fair = FairOrder([*(task(n, "a") for n in range(5)), *(task(n, "b", weight=2) for n in range(5, 10))])
    fair.configure({}, KeyRate(1.0, 0.0))
    assert sorted(order(fair, 10)) == ["a", "b"]
    assert fair.wait_ns == SECOND_NS // 2
    assert order(fair, 10, SECOND_NS // 2) == ["b"]
    assert sorted(order(fair, 10, SECOND_NS)) == ["a", "b"]
    fair.configure({}, None)
    assert len(order(fair, 10, SECOND_NS)) == 5


def test_a_key_may_save_up_a_second() -> None:
    fair = FairOrder([*(task(n, "a") for n in range(50)), *(task(n, "b", weight=0.5) for n in range(50, 100))])
    fair.configure({}, KeyRate(10.0, 1.0))
    assert Counter(order(fair, 50, 60 * SECOND_NS)) == {"a": 10, "b": 5}
    assert Counter(order(fair, 50, 61 * SECOND_NS)) == {"a": 10, "b": 5}


def test_a_limit_of_nothing_lets_nothing_through() -> None:
    fair = FairOrder([task(1, "a"), task(2)])
    fair.configure({}, KeyRate(0, 1.0))
    assert order(fair, 2) == []
    fair.configure({}, None)
    assert order(fair, 2) == ["a", "none"]


def test_unused_tokens_are_returned() -> None:
    fair = FairOrder([task(1, "a"), task(2, "a"), task(3, "b")])
    fair.configure({}, KeyRate(1.0, 0.0))
    given = fair.pop(0)
    assert given is not None
    fair.give_back(given)
    fair.push(given)
    assert [each.key.task_id for each in (fair.pop(0), fair.pop(0)) if each] == [1, 3]


def test_a_key_whose_limit_other_processes_used_up_is_delayed() -> None:
    fair = FairOrder([task(1, "a"), task(2, "b")])
    fair.configure({}, KeyRate(1.0, 1.0))
    given = fair.pop(0)
    assert given is not None
    fair.delay_key(given, 5 * SECOND_NS)
    assert order(fair, 2) == ["b"]
    assert fair.wait_ns == 5 * SECOND_NS
    assert order(fair, 1, 5 * SECOND_NS) == ["a"]


def test_a_key_with_more_rows_in_the_store_asks_for_a_refill() -> None:
    fair = FairOrder()
    rows = [task(1, "a"), task(2, "a"), task(3, "b")]
    fair.replace(rows, Window(rows, {level(3, "a"): 2}))
    assert fair.covers((level(3, "a"), 2))
    assert not fair.covers((level(3, "a"), 4))
    assert fair.covers((level(3, "b"), 4))
    assert not fair.whole
    order(fair, 2)
    assert fair.short == {}
    order(fair, 1)
    assert fair.short == {level(3, "a"): 2}
    fair.refill(level(3, "a"), [task(4, "a")], None)
    assert (fair.short, fair.whole, order(fair, 2)) == ({}, True, ["a"])


def test_keys_beyond_the_window_get_their_turn_when_each_in_it_had_one() -> None:
    fair = FairOrder()
    rows = [task(n, key) for n, key in enumerate("aabbcc")]
    fair.replace(rows, Window(rows, {}, cursor=level(3, "c")))
    assert (order(fair, 2), fair.wants_read) == (["a", "b"], False)
    assert (order(fair, 1), fair.wants_read) == (["c"], True)


def test_tasks_beyond_the_buffer_are_left_in_the_store() -> None:
    fair = FairOrder([task(1, "a"), task(2, "a")])
    fair.leave_in_store(task(3, "a"))
    assert (fair.covers((level(3, "a"), 4)), fair.wants_read) == (False, False)
    fair.leave_in_store(task(5, "b"))
    assert fair.wants_read


def test_keys_that_come_once_leave_little_behind() -> None:
    """As many keys as there are customers: neither their passes nor their limits pile up."""
    fair = FairOrder()
    fair.configure({}, KeyRate(1.0, 1.0))
    for n in range(10_000):
        fair.push(task(n, f"customer {n}"))
        assert fair.pop(n) is not None
    assert len(fair._absent) == 2000
    assert fair._levels == {}
    assert len(fair._heap) + len(fair._limited) == 0


def test_random_order_follows_the_weights() -> None:
    tasks = [task(1, "a", weight=3), task(2, "b"), task(3, "c", priority=1)]
    numbers = cycle([(n + 0.5) / 101 for n in range(0, 101 * 7, 7) for n in (n % 101,)])
    firsts: Counter[str] = Counter()
    for _ in range(404):
        drawn = in_random_order(tasks, {}, lambda: next(numbers))
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


async def started(bench: Bench, count: int, *, can_long_poll: bool = True) -> Counter[str]:
    got: Counter[str] = Counter()
    for _ in range(count):
        reply = await bench.poll_activity(can_long_poll=can_long_poll)
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


async def test_more_keys_than_one_read_returns_all_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key waits for others to have nothing left, wherever its level is; nor does a task without a key."""
    monkeypatch.setattr("whistlestop.matching.task_queue.queues._MAX_LEVELS", 20)
    bench = Bench(MatchingConfig(buffer=30))
    keys = [f"key {number}" for number in range(100)]
    put(bench, [task(n, key) for n, key in enumerate(keys * 10)], offered=False)
    put(bench, [task(n) for n in range(1000, 1010)], offered=False)
    put(bench, [task(n, f"late {n}", priority=4) for n in range(2000, 2050)], offered=False)
    got = await started(bench, 404)
    assert {*keys, "none"} == set(got)
    assert {got[key] for key in keys} <= {3, 4, 5}
    await started(bench, 1060 - 404)
    assert bench.rows.rows == {}


async def test_more_keys_than_there_is_room_for_do_not_pile_up_in_memory() -> None:
    bench = Bench(MatchingConfig(buffer=50))
    poll = bench.poll_activity()
    await settle()
    poll.cancel()
    await settle()
    put(bench, [task(n, f"key {n}") for n in range(1000)], offered=True)
    assert bench.matching.known_backlog <= 50
    await started(bench, 1000)
    assert bench.rows.rows == {}


async def test_a_heavy_key_among_many_costs_no_full_read() -> None:
    bench = Bench(MatchingConfig())
    put(bench, [task(n, f"key {n % 100}") for n in range(2000)], offered=False)
    put(bench, [task(n, "heavy", weight=500) for n in range(2000, 2400)], offered=False)
    await started(bench, 5)
    before = bench.rows.rows_read
    assert (await started(bench, 300))["heavy"] > 290
    assert bench.rows.rows_read - before < 1200


async def test_functions_serve_keys_without_memory() -> None:
    bench = Bench(MatchingConfig(function_wait_s=0.2))
    put(bench, [task(n, "busy") for n in range(300)], offered=False)
    put(bench, [task(n, "other") for n in range(300, 340)], offered=False)
    assert (await started(bench, 60, can_long_poll=False))["other"] in range(15, 41)


async def test_stored_weights_and_limits_reach_a_queue_in_use() -> None:
    bench = Bench()
    put(bench, [task(n, key) for n, key in zip(range(200), cycle("ab"), strict=False)], offered=True)
    await started(bench, 2)
    update = rr.UpdateTaskQueueConfigRequest(
        task_queue="q",
        task_queue_type=2,  # type: ignore[arg-type]
        set_fairness_weight_overrides={"a": 4},
    )
    await bench.ask("UpdateTaskQueueConfig", update)
    await started(bench, 5)
    assert (await started(bench, 50)) == pytest.approx({"a": 40, "b": 10}, abs=2)
    await settle()


async def limit_keys(bench: Bench, rps: float) -> None:
    update = rr.UpdateTaskQueueConfigRequest(task_queue="q", task_queue_type=queue_enums.TASK_QUEUE_TYPE_ACTIVITY)
    update.update_fairness_key_rate_limit_default.rate_limit.requests_per_second = rps
    await bench.ask("UpdateTaskQueueConfig", update)


async def test_a_limit_of_keys_holds_over_functions() -> None:
    """No function remembers anything: the buckets of the keys stand in the queue's row, as long as they are not full."""
    bench = Bench(MatchingConfig(function_wait_s=0))
    await limit_keys(bench, 2)
    put(bench, [task(n, key) for n, key in enumerate(["a", "b", ""] * 10)], offered=False)
    put(bench, [task(100 + n, "heavy", weight=2.5) for n in range(10)], offered=False)
    assert await started(bench, 20, can_long_poll=False) == {"a": 2, "b": 2, "none": 2, "heavy": 5}
    await bench.clock.advance(0.5)
    assert await started(bench, 10, can_long_poll=False) == {"a": 1, "b": 1, "none": 1, "heavy": 2}
    await bench.clock.advance(60)
    put(bench, [task(200, "another")], offered=False)
    for key in [key for key in bench.rows.rows if key.priority != level(3, "another")]:
        del bench.rows.rows[key]
    await started(bench, 1, can_long_poll=False)
    (row,) = bench.rows.queues.values()
    assert list(data_of(row).key_ready_ns) == [level(3, "another")]


async def test_a_limit_of_keys_holds_over_processes() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False))
    await limit_keys(bench, 2)
    put(bench, [task(n, "ab"[n % 2]) for n in range(20)], offered=False)
    polls = [bench.poll_activity() for _ in range(10)]
    bench.matching = bench.another()
    polls += [bench.poll_activity() for _ in range(10)]
    await settle()
    assert len(bench.history.started) == 4
    await bench.clock.advance(1)
    await settle()
    assert Counter(name[0] for name in bench.history.started) == {"a": 4, "b": 4}
    for poll in polls:
        poll.cancel()
    await settle()


async def test_without_limits_a_function_reads_a_row_and_writes_none() -> None:
    bench = Bench(MatchingConfig(function_wait_s=0))
    put(bench, [task(n, "a") for n in range(3)], offered=False)
    await started(bench, 3, can_long_poll=False)
    assert bench.rows.queues == {}
