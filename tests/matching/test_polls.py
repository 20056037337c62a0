"""What a poll gets, and when it answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import Bench, code_of, got, settle
from whistlestop.common.clients import encoded
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.notify import RecheckNotifier, task_queue_topic
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.matching.config import MatchingConfig


async def test_a_fresh_task_goes_to_a_waiting_poll_without_a_read_of_the_store() -> None:
    bench = Bench()
    poll = bench.poll()
    await settle()
    assert bench.rows.reads == 1
    bench.commit("a")
    await settle()
    assert got(poll) == "a"
    assert bench.rows.reads == 1


async def test_waiting_polls_are_served_in_the_order_they_came() -> None:
    bench = Bench()
    polls = []
    for _ in range(3):
        polls.append(bench.poll())
        await settle()
    bench.commit("a", "b", "c")
    await settle()
    assert [got(poll) for poll in polls] == ["a", "b", "c"]


async def test_a_backlog_goes_by_priority_and_then_by_age() -> None:
    bench = Bench()
    bench.task("late", priority=5)
    bench.task("usual 1")
    bench.task("first", priority=1)
    bench.task("usual 2")
    order = []
    for _ in range(4):
        poll = bench.poll()
        await settle()
        order.append(got(poll))
    assert order == ["first", "usual 1", "usual 2", "late"]
    assert bench.rows.reads == 1


async def test_an_empty_answer_leaves_a_second_before_the_deadline() -> None:
    bench = Bench()
    poll = bench.poll(seconds=5)
    await settle()
    await bench.clock.advance(3.9)
    assert not poll.done()
    await bench.clock.advance(0.2)
    assert poll.result() == rr.PollWorkflowTaskQueueResponse()


async def test_no_poll_waits_longer_than_a_minute() -> None:
    bench = Bench()
    poll = bench.poll(seconds=600)
    await settle()
    await bench.clock.advance(59.9)
    assert not poll.done()
    await bench.clock.advance(0.2)
    assert got(poll) == ""


async def test_a_poll_with_hardly_any_time_is_refused() -> None:
    bench = Bench()
    with pytest.raises(ServiceError, match=r"^Context timeout is too short\.$") as refusal:
        await bench.poll(seconds=1)
    assert code_of(refusal.value) == "FAILED_PRECONDITION"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (rr.PollWorkflowTaskQueueRequest(), "taskQueue is not set"),
        (rr.PollWorkflowTaskQueueRequest(task_queue=queue_pb.TaskQueue()), "missing task queue name"),
        (
            rr.PollWorkflowTaskQueueRequest(task_queue=queue_pb.TaskQueue(name="q" * 1001)),
            "taskQueue length exceeds limit",
        ),
        (
            rr.PollWorkflowTaskQueueRequest(task_queue=queue_pb.TaskQueue(name="/_sys/q/1")),
            "task queue name cannot start with reserved prefix /_sys/",
        ),
        (
            rr.PollWorkflowTaskQueueRequest(task_queue=queue_pb.TaskQueue(name="q"), identity="m" * 1001),
            "Identity length exceeds limit.",
        ),
    ],
)
async def test_a_malformed_poll_is_refused(request_: rr.PollWorkflowTaskQueueRequest, message: str) -> None:
    bench = Bench()
    with pytest.raises(ServiceError) as refusal:
        await bench.ask("PollWorkflowTaskQueue", request_)
    assert (refusal.value.code, refusal.value.message) == (Code.INVALID_ARGUMENT, message)


async def test_a_stale_task_is_dropped_and_the_next_one_handed_out() -> None:
    bench = Bench()
    stale, _ = bench.task("stale"), bench.task("good")

    async def refuse(method: str, request: Any) -> None:
        if request.execution.workflow_id == "stale":
            raise ServiceError(Code.NOT_FOUND, "stale")

    bench.history.before = refuse
    poll = bench.poll()
    await settle()
    assert got(poll) == "good"
    assert stale.key not in bench.rows.rows


async def test_a_task_that_history_cannot_start_now_is_retried_and_blocks_no_other() -> None:
    bench = Bench()
    bench.task("troubled")
    bench.task("good")
    tries = []

    async def refuse(method: str, request: Any) -> None:
        if request.execution.workflow_id == "troubled":
            tries.append(bench.clock.now_ns())
            if len(tries) < 3:
                raise ServiceError(Code.UNAVAILABLE, "conflict")

    bench.history.before = refuse
    first, second = bench.poll(), bench.poll()
    await settle()
    assert got(first) == "good"
    await bench.clock.advance(1)
    assert got(second) == "troubled"
    assert [later - tries[0] for later in tries] == [0, 50_000_000, 150_000_000]


async def test_a_poll_survives_an_unexpected_error() -> None:
    bench = Bench()
    bench.task("bad")
    bench.task("good")

    async def fail(method: str, request: Any) -> None:
        if request.execution.workflow_id == "bad":
            raise RuntimeError("bug")

    bench.history.before = fail
    poll = bench.poll()
    await settle()
    assert got(poll) == "good"


async def test_a_client_that_left_while_it_waited_gets_nothing() -> None:
    bench = Bench()
    gone, there = bench.poll(), bench.poll()
    await settle()
    gone.cancel()
    bench.commit("a")
    await settle()
    assert got(there) == "a"
    assert bench.history.started == ["a"]


async def test_a_task_in_the_hand_of_a_client_that_leaves_goes_to_the_next() -> None:
    bench = Bench()
    gone, there = bench.poll(), bench.poll()
    await settle()
    bench.commit("a")
    gone.cancel()
    await settle()
    assert got(there) == "a"
    assert [request.execution.workflow_id for _, request in bench.history.calls] == ["a"]


async def test_a_client_that_leaves_during_the_call_to_history_loses_no_task() -> None:
    bench = Bench()
    gate = asyncio.Event()

    async def hold(method: str, request: Any) -> None:
        await gate.wait()

    bench.history.before = hold
    gone, there = bench.poll(), bench.poll()
    await settle()
    bench.commit("a")
    await settle()
    gone.cancel()
    gate.set()
    await settle()
    assert got(there) == "a"


async def test_matching_adds_its_fields_to_a_reply_it_does_not_read() -> None:
    bench = Bench()
    for name in ("a", "b", "c"):
        bench.task(name)
    await bench.clock.advance(1)
    poll = bench.poll()
    await settle()
    reply = poll.result()
    assert (reply.workflow_execution.workflow_id, reply.backlog_count_hint) == ("a", 2)
    assert reply.poller_scaling_decision.poll_request_delta_suggestion == 1


async def test_a_poll_that_waited_a_second_for_a_fresh_task_was_one_too_many() -> None:
    bench = Bench()
    poll = bench.poll()
    await settle()
    await bench.clock.advance(1.5)
    bench.commit("a")
    await settle()
    assert poll.result().poller_scaling_decision.poll_request_delta_suggestion == -1


async def test_advice_to_add_pollers_comes_ten_times_a_second_per_poller() -> None:
    bench = Bench()
    for n in range(30):
        bench.task(str(n))
    await bench.clock.advance(1)
    advice = 0
    for _ in range(30):
        poll = bench.poll()
        await settle()
        advice += poll.result().poller_scaling_decision.poll_request_delta_suggestion
    assert advice == 11


async def test_a_direct_query_is_started_as_one_and_its_row_goes() -> None:
    bench = Bench()
    task = bench.task("asked", query_id="query-1")
    poll = bench.poll()
    await settle()
    assert got(poll) == "asked"
    assert [method for method, _ in bench.history.calls] == ["RecordQueryTaskStarted"]
    assert task.key not in bench.rows.rows


async def test_an_activity_poll_sends_an_activity_start() -> None:
    bench = Bench()
    bench.task("a", task_type=2)
    poll = bench.poll_activity()
    await settle()
    assert poll.result().activity_id == "a"
    assert [method for method, _ in bench.history.calls] == ["RecordActivityTaskStarted"]


async def test_a_nexus_poll_waits_and_answers_empty() -> None:
    bench = Bench()
    request = rr.PollNexusTaskQueueRequest(task_queue=queue_pb.TaskQueue(name="q"), identity="me")
    poll = asyncio.ensure_future(bench.matching.call(MatchingService.PollNexusTaskQueue, request, bench.context(3)))
    await settle()
    await bench.clock.advance(2.1)
    assert encoded(poll.result()) == b""


async def test_an_empty_queue_is_read_again_after_half_a_minute() -> None:
    bench = Bench()
    for _ in range(20):
        poll = bench.poll(seconds=4)
        await settle()
        await bench.clock.advance(3.1)
        assert got(poll) == ""
    assert bench.rows.reads == 2


async def test_a_task_without_a_notification_is_found_by_the_next_periodic_read() -> None:
    bench = Bench()
    first = bench.poll(seconds=32)
    await settle()
    bench.task("silent")
    await bench.clock.advance(31.1)
    assert got(first) == ""
    second = bench.poll()
    await settle()
    assert got(second) == "silent"


async def test_a_notification_of_another_process_reaches_a_waiting_poll() -> None:
    bench = Bench(MatchingConfig(share_pollers=False))
    poll = bench.poll()
    await settle()
    bench.hint_from_elsewhere(task_queue_topic("ns-id", "q", 1))
    await settle()
    await bench.clock.advance(1)
    row = bench.task("elsewhere")
    bench.hint_from_elsewhere(task_queue_topic("ns-id", "q", 1))
    await settle()
    assert got(poll) == "elsewhere"
    assert row.key not in bench.rows.rows
    await bench.matching.close()


async def test_repeated_notifications_cost_few_reads() -> None:
    bench = Bench(MatchingConfig(share_pollers=False))
    bench.poll()
    await settle()
    for _ in range(100):
        bench.hint_from_elsewhere(task_queue_topic("ns-id", "q", 1))
        await bench.clock.advance(0.001)
    assert bench.rows.reads <= 5
    await bench.matching.close()


async def test_two_processes_share_a_backlog_and_nothing_is_started_twice() -> None:
    bench = Bench()
    other = bench.another()
    for n in range(20):
        bench.task(str(n))
    polls = [bench.poll(matching=matching) for _ in range(10) for matching in (bench.matching, other)]
    await settle(200)
    assert sorted(map(got, polls), key=int) == [str(n) for n in range(20)]
    assert len(bench.history.started) == 20


async def test_a_backlog_larger_than_memory_keeps_its_order() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False, share_pollers=False, page=5, buffer=10))
    first = bench.poll()
    await settle()
    bench.commit("0")
    await settle()
    assert got(first) == "0"
    for n in range(1, 60):
        bench.commit(str(n))
        assert bench.matching.known_backlog <= 10
    order = []
    for _ in range(59):
        poll = bench.poll()
        await settle()
        order.append(got(poll))
    assert order == [str(n) for n in range(1, 60)]


async def test_close_answers_open_polls_empty_and_refuses_new_ones() -> None:
    bench = Bench()
    polls = [bench.poll(), bench.poll("other")]
    await settle()
    await bench.matching.close()
    await settle()
    assert [got(poll) for poll in polls] == ["", ""]
    with pytest.raises(ServiceError) as refusal:
        await bench.poll()
    assert code_of(refusal.value) == "UNAVAILABLE"


async def test_a_store_that_does_not_answer_makes_the_poll_unavailable_and_those_who_wait_go_on_waiting() -> None:
    bench = Bench()
    waiting = bench.poll()
    await settle()
    bench.rows.broken = True
    await bench.clock.advance(31)
    with pytest.raises(ServiceError) as refusal:
        await bench.poll()
    assert code_of(refusal.value) == "UNAVAILABLE"
    bench.rows.broken = False
    bench.task("a")
    await bench.clock.advance(2)
    assert got(waiting) == "a"


async def test_a_function_reads_waits_briefly_and_answers_empty() -> None:
    bench = Bench()
    bench.notifier = RecheckNotifier(bench.clock)
    poll = bench.poll(can_long_poll=False, seconds=60, matching=bench.another())
    await settle()
    await bench.clock.advance(0.6)
    assert got(poll) == ""
    assert 1 < bench.rows.reads < 8


async def test_a_function_finds_a_task_that_comes_while_it_waits() -> None:
    bench = Bench()
    bench.notifier = RecheckNotifier(bench.clock)
    poll = bench.poll(can_long_poll=False, seconds=60, matching=bench.another())
    await settle()
    await bench.clock.advance(0.1)
    bench.task("a")
    await bench.clock.advance(0.2)
    assert got(poll) == "a"


async def test_a_function_goes_on_past_what_it_can_not_start() -> None:
    bench = Bench()
    bench.notifier = RecheckNotifier(bench.clock)
    stale = bench.task("stale")
    bench.task("conflict")
    bench.task("good")
    codes = {"stale": Code.NOT_FOUND, "conflict": Code.ABORTED}

    async def refuse(method: str, request: Any) -> None:
        code = codes.get(request.execution.workflow_id)
        if code is not None:
            raise ServiceError(code, "no")

    bench.history.before = refuse
    poll = bench.poll(can_long_poll=False, matching=bench.another())
    await settle()
    assert got(poll) == "good"
    assert stale.key not in bench.rows.rows


async def test_idle_queues_are_forgotten_and_their_number_is_bounded() -> None:
    bench = Bench(MatchingConfig(remote_notifications=False, share_pollers=False, queues=20))
    for n in range(100):
        bench.commit(str(n), queue=f"q{n}")
    assert len(bench.matching._queues) <= 20
    await bench.clock.advance(400)
    bench.commit("x", queue="x")
    assert len(bench.matching._queues) == 1
    poll = bench.poll("q7")
    await settle()
    assert got(poll) == "7"
