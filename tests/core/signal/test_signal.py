"""Signals and requests to cancel that a run receives."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from tests.core.command_builders import complete_workflow, payloads
from tests.core.harness import World
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.workflow import cancel


def send(world: World, **fields: Any) -> None:
    wanted = {"name": "go", "input": None, "identity": "client", "request_id": world.ids.uuid()} | fields
    world.transact(lambda run: signal.receive(run, **wanted))


def test_a_signal_is_recorded_and_makes_a_workflow_task() -> None:
    world = World()
    world.start()
    world.turn()
    send(world, input=payloads("x"), request_id="r")
    a = world.last("WorkflowExecutionSignaled")
    assert (a.signal_name, a.identity, a.request_id, a.input) == ("go", "client", "r", payloads("x"))
    assert world.names()[-1] == "WorkflowTaskScheduled"


def test_a_request_id_makes_a_signal_idempotent_even_after_the_end() -> None:
    world = World()
    world.start()
    send(world, request_id="r")
    send(world, request_id="r")
    assert world.state().signal_count == 1
    world.turn(complete_workflow())
    send(world, request_id="r")
    with pytest.raises(ServiceError) as refused:
        send(world, request_id="other")
    assert refused.value.code is Code.NOT_FOUND
    assert refused.value.message == "workflow execution already completed"


def test_the_request_that_started_a_run_may_signal_it_once() -> None:
    world = World()
    world.start()
    start_request = world.state().create_request_id
    send(world, request_id=start_request)
    send(world, request_id=start_request)
    assert world.state().signal_count == 1


def test_a_signal_during_a_workflow_task_is_buffered() -> None:
    world = World()
    world.start()
    world.poll()
    send(world)
    assert "WorkflowExecutionSignaled" not in world.names()
    world.complete()
    assert world.names()[-3:] == ["WorkflowTaskCompleted", "WorkflowExecutionSignaled", "WorkflowTaskScheduled"]


def test_too_many_signals_are_refused() -> None:
    world = World(Limits(signals_per_execution=1))
    world.start()
    send(world)
    with pytest.raises(ServiceError) as refused:
        send(world)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.message == "exceeded workflow execution limit for signal events"


def test_a_workflow_that_tries_to_close_is_spared_more_signals() -> None:
    world = World()
    world.start()
    world.poll()
    send(world)
    world.complete(complete_workflow())
    world.poll()
    with pytest.raises(ServiceError) as refused:
        send(world)
    assert refused.value.code is Code.RESOURCE_EXHAUSTED


def test_a_full_buffer_fails_the_workflow_task() -> None:
    world = World(Limits(buffered_events=2))
    world.start()
    world.poll()
    for _ in range(3):
        send(world)
    assert world.last("WorkflowTaskFailed").cause == fc.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND
    assert world.names()[-4:] == ["WorkflowTaskFailed"] + ["WorkflowExecutionSignaled"] * 3


def test_only_the_parent_may_signal_its_child() -> None:
    world = World()
    world.start()
    stranger = common_pb.WorkflowExecution(workflow_id="other", run_id="other")
    with pytest.raises(ServiceError) as refused:
        send(world, sender=stranger, child_workflow_only=True)
    assert refused.value.message == "workflow parent does not match"


def test_cancelling_names_the_chain() -> None:
    world = World()
    first = world.start()
    with pytest.raises(ServiceError) as refused:
        world.transact(
            lambda run: cancel.request(run, cause="", identity="", request_id="", first_execution_run_id="other")
        )
    assert refused.value.message == "workflow execution not found"
    world.transact(lambda run: cancel.request(run, cause="", identity="", request_id="", first_execution_run_id=first))
    assert world.state().cancel_requested


def test_cancelling_from_a_workflow_names_it() -> None:
    world = World()
    world.start()
    world.transact(
        lambda run: cancel.request(
            run, cause="why", identity="history-service", request_id="r", external=(7, "wf2", "r2")
        )
    )
    a = world.last("WorkflowExecutionCancelRequested")
    assert a.cause == "why"
    assert a.external_initiated_event_id == 7
    assert a.external_workflow_execution == common_pb.WorkflowExecution(workflow_id="wf2", run_id="r2")
