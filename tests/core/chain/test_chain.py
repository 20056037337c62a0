"""Retries of workflows, cron schedules and continue-as-new."""

from __future__ import annotations

from typing import Any

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from tests.core.command_builders import complete_workflow, continue_as_new, fail_workflow, payload, payloads
from tests.core.harness import World
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.times import SECOND_NS, duration_ns, set_duration, timestamp_ns
from whistlestop.history.core.workflow import cancel


def policy(**fields: Any) -> common_pb.RetryPolicy:
    result = common_pb.RetryPolicy(backoff_coefficient=2.0, **fields)
    set_duration(result.initial_interval, SECOND_NS)
    set_duration(result.maximum_interval, 100 * SECOND_NS)
    return result


def started(world: World) -> Any:
    return world.events()[0].workflow_execution_started_event_attributes


def test_a_failed_run_is_tried_again() -> None:
    world = World()
    first = world.start(retry_policy=policy(maximum_attempts=2), input=payloads("x"))
    world.turn(fail_workflow("once"))
    closing = world.last("WorkflowExecutionFailed", first)
    assert closing.retry_state == wf_enums.RETRY_STATE_IN_PROGRESS
    assert closing.new_execution_run_id == world.run_id != first
    a = started(world)
    assert a.attempt == 2
    assert a.initiator == wf_enums.CONTINUE_AS_NEW_INITIATOR_RETRY
    assert a.continued_execution_run_id == a.first_execution_run_id == first
    assert a.continued_failure.message == "once"
    assert a.input == payloads("x")
    assert duration_ns(a.first_workflow_task_backoff) == SECOND_NS
    assert world.offered(1) == []
    world.advance(1)
    world.turn(fail_workflow("twice"))
    assert world.last("WorkflowExecutionFailed").retry_state == wf_enums.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED
    assert world.last("WorkflowExecutionFailed").new_execution_run_id == ""


def test_another_try_starts_as_the_first_one_did() -> None:
    fields: dict[str, Any] = {
        "input": payloads("x"), "header": common_pb.Header(fields={"trace": payload("t")}),
        "memo": common_pb.Memo(fields={"note": payload("n")}),
        "search_attributes": common_pb.SearchAttributes(indexed_fields={"City": payload("Bern")}),
        "priority": common_pb.Priority(priority_key=2), "retry_policy": policy(),
    }  # fmt: skip
    world = World()
    first = world.start(**fields, run_timeout_s=50, task_timeout_s=7, execution_timeout_s=90)
    before = world.events(first)[0].workflow_execution_started_event_attributes
    world.turn(fail_workflow("once"))
    after = started(world)
    for name in (*fields, "workflow_type", "workflow_run_timeout", "workflow_task_timeout", "workflow_execution_timeout",
                 "workflow_execution_expiration_time"):  # fmt: skip
        assert after.HasField(name), name
        assert getattr(after, name) == getattr(before, name), name
    assert after.task_queue.name == before.task_queue.name
    assert not after.HasField("last_completion_result")


def test_a_non_retryable_failure_is_the_end() -> None:
    world = World()
    world.start(retry_policy=policy())
    world.turn(fail_workflow("no", non_retryable=True))
    assert world.last("WorkflowExecutionFailed").retry_state == wf_enums.RETRY_STATE_NON_RETRYABLE_FAILURE


def test_a_retry_that_would_begin_too_late_is_not_made() -> None:
    world = World()
    world.start(retry_policy=policy(), execution_timeout_s=1)
    world.advance(0.5)
    world.turn(fail_workflow())
    assert world.last("WorkflowExecutionFailed").retry_state == wf_enums.RETRY_STATE_TIMEOUT


def test_a_run_that_timed_out_is_tried_again_within_the_chains_time() -> None:
    world = World()
    first = world.start(retry_policy=policy(), run_timeout_s=3, execution_timeout_s=100)
    world.advance(3)
    assert world.last("WorkflowExecutionTimedOut", first).new_execution_run_id == world.run_id
    assert started(world).continued_failure.HasField("timeout_failure_info")
    expiration_ns = timestamp_ns(started(world).workflow_execution_expiration_time)
    assert expiration_ns == world.state(first).execution_expiration_ns


def test_a_run_as_long_as_its_chain_ends_with_it_whatever_the_fraction_of_a_millisecond() -> None:
    for fraction_ns in (0, 499_999, 500_000, 999_999):
        world = World()
        world.now_ns += fraction_ns
        world.start(execution_timeout_s=1)
        world.advance(1.001)
        assert world.last("WorkflowExecutionTimedOut").retry_state == wf_enums.RETRY_STATE_TIMEOUT, fraction_ns


def test_cron_hands_on_the_last_result_past_failures() -> None:
    world = World()
    first = world.start(cron_schedule="@every 10s")
    assert duration_ns(started(world).first_workflow_task_backoff) == 10 * SECOND_NS
    world.advance(10)
    world.turn(complete_workflow("one"))
    assert world.last("WorkflowExecutionCompleted", first).new_execution_run_id == world.run_id
    a = started(world)
    assert a.initiator == wf_enums.CONTINUE_AS_NEW_INITIATOR_CRON_SCHEDULE
    assert a.last_completion_result == payloads("one")
    assert duration_ns(a.first_workflow_task_backoff) == 10 * SECOND_NS
    world.advance(10)
    world.turn(fail_workflow("two"))
    assert started(world).last_completion_result == payloads("one")
    assert started(world).continued_failure.message == "two"
    assert started(world).attempt == 1


def test_cancelling_ends_the_wait_for_the_first_task() -> None:
    world = World()
    world.start(cron_schedule="@every 10s")
    world.transact(lambda run: cancel.request(run, cause="", identity="client", request_id="r"))
    assert len(world.offered(1)) == 1


def test_a_signal_does_not_end_the_wait_for_the_first_task() -> None:
    world = World()
    world.start(start_delay_s=10)
    world.transact(lambda run: signal.receive(run, name="go", input=None, identity="client", request_id="r"))
    assert world.offered(1) == []
    world.advance(10)
    assert len(world.offered(1)) == 1


def test_continue_as_new_starts_the_next_run_in_the_same_commit() -> None:
    world = World()
    memo = common_pb.Memo(fields={"kept": payload("yes")})
    first = world.start(run_timeout_s=60, memo=memo)
    world.advance(2)
    world.turn(continue_as_new(input=payloads("next"), memo=memo))
    closing = world.last("WorkflowExecutionContinuedAsNew", first)
    assert closing.new_execution_run_id == world.run_id
    assert closing.workflow_type.name == "Order"
    assert world.state(first).status == wf_enums.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW
    a = started(world)
    assert a.input == payloads("next")
    assert a.initiator == wf_enums.CONTINUE_AS_NEW_INITIATOR_WORKFLOW
    assert a.continued_execution_run_id == first
    assert a.attempt == 1
    assert duration_ns(a.workflow_run_timeout) == 60 * SECOND_NS
    assert not a.HasField("first_workflow_task_backoff")
    assert world.state().memo["kept"] == payload("yes")
    assert world.names() == ["WorkflowExecutionStarted", "WorkflowTaskScheduled"]
    assert world.current["wf"].run_id == world.run_id


def test_a_chain_does_not_spin() -> None:
    world = World()
    world.start()
    world.advance(0.25)
    world.turn(continue_as_new())
    assert duration_ns(started(world).first_workflow_task_backoff) == SECOND_NS * 3 // 4
    assert world.offered(1) == []


def test_task_ids_go_on_from_run_to_run() -> None:
    """Whoever reads the events of a chain one after the other sees them ascend."""
    world = World()
    policy = common_pb.RetryPolicy(maximum_attempts=2)
    policy.initial_interval.FromSeconds(1)
    runs = [world.start(retry_policy=policy)]
    for command in (continue_as_new(retry_policy=policy), fail_workflow("one")):
        world.advance(2)
        world.turn(command)
        runs.append(world.run_id)
    assert len(set(runs)) == 3
    ids = [event.task_id for run_id in runs for event in world.events(run_id)]
    assert ids == sorted(set(ids))
