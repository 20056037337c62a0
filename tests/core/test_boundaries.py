"""Limits hold to the byte: what is exactly as large is taken, and one byte more is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from tests.core.command_builders import payload, payloads
from tests.core.harness import World
from whistlestop.common.errors import ServiceError
from whistlestop.history.core.commands.sizes import kept_failure
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.operations import reset

BIG = "x" * 3000
BLOBS: dict[str, dict[str, Any]] = {
    "schedule_activity_task": {
        "activity_id": "a", "activity_type": {"name": "charge"}, "task_queue": {"name": "orders"},
        "start_to_close_timeout": {"seconds": 10}, "input": payloads(BIG),
    },
    "complete_workflow_execution": {"result": payloads(BIG)},
    "fail_workflow_execution": {"failure": failure_pb.Failure(message=BIG)},
    "continue_as_new_workflow_execution": {
        "workflow_type": {"name": "Order"}, "task_queue": {"name": "orders"}, "input": payloads(BIG),
    },
    "start_child_workflow_execution": {
        "workflow_id": "child", "workflow_type": {"name": "Order"}, "task_queue": {"name": "orders"},
        "input": payloads(BIG),
    },
    "signal_external_workflow_execution": {
        "execution": {"workflow_id": "other"}, "signal_name": "go", "input": payloads(BIG),
    },
    "schedule_nexus_operation": {
        "endpoint": "payments", "service": "Payments", "operation": "pay", "input": payload(BIG),
    },
}  # fmt: skip


def _command(kind: str, fields: dict[str, Any]) -> command_pb.Command:
    attributes: dict[str, Any] = {f"{kind}_command_attributes": fields}
    return command_pb.Command(command_type=ct.CommandType.Value(f"COMMAND_TYPE_{kind.upper()}"), **attributes)


def _limits(name: str, value: Any) -> Limits:
    return replace(Limits(), **{name: value})


def _is_taken(command: command_pb.Command, limits: Limits) -> bool:
    """Return whether the command is carried out: it fails its task otherwise, or terminates the run."""
    world = World(limits)
    world.start()
    world.poll()
    outcome = world.complete(command)
    refused = {"WorkflowTaskFailed", "WorkflowExecutionTerminated"} & set(world.names())
    assert bool(outcome.error) <= bool(refused)
    return not refused


@pytest.mark.parametrize("kind", BLOBS)
def test_a_blob_of_a_command(kind: str) -> None:
    fields = BLOBS[kind]
    [size] = [each.ByteSize() for each in fields.values() if hasattr(each, "ByteSize")]
    assert _is_taken(_command(kind, fields), Limits(blob_size_error=size))
    assert not _is_taken(_command(kind, fields), Limits(blob_size_error=size - 1))


def test_a_memo_that_is_changed() -> None:
    memo = common_pb.Memo(fields={"note": payload(BIG)})
    command = _command("modify_workflow_properties", {"upserted_memo": memo})
    assert _is_taken(command, Limits(memo_size_error=memo.ByteSize()))
    assert not _is_taken(command, Limits(memo_size_error=memo.ByteSize() - 1))


@pytest.mark.parametrize(
    ("limit", "fields", "size"),
    [
        ("nexus_service_length", {"service": "é" * 50}, 100),
        ("nexus_operation_length", {"operation": "é" * 50}, 100),
        ("nexus_header_size", {"nexus_header": {"Né": "é" * 30, "other": "x" * 32}}, 100),
    ],
)
def test_a_name_or_header_of_a_nexus_operation(limit: str, fields: dict[str, Any], size: int) -> None:
    """In bytes, not in characters."""
    command = _command(
        "schedule_nexus_operation", {"endpoint": "payments", "service": "Payments", "operation": "pay", **fields}
    )
    assert _is_taken(command, _limits(limit, size))
    assert not _is_taken(command, _limits(limit, size - 1))


def _kept(failure: failure_pb.Failure, size: int) -> failure_pb.Failure:
    world = World(Limits(activity_failure_size_error=size))
    world.start()
    return kept_failure(world.load(), failure)


def test_a_failure_that_is_kept() -> None:
    failure = failure_pb.Failure(message="broken", stack_trace="x" * 500)
    assert _kept(failure, failure.ByteSize()) == failure
    replaced = _kept(failure, failure.ByteSize() - 1)
    assert replaced.message == "Failure exceeds size limit."
    assert replaced.cause.message == "broken"
    assert not replaced.server_failure_info.non_retryable


def test_a_point_to_reset_to() -> None:
    """Behind the first event, and one that there is."""
    world = World()
    world.start()
    world.turn()
    state = world.state()
    for event_id in (2, state.next_event_id - 1):
        reset.check_point(state, event_id)
    for event_id in (1, state.next_event_id):
        with pytest.raises(ServiceError, match="must be > 1"):
            reset.check_point(state, event_id)


NO_ATTRIBUTES = (
    "schedule_activity_task", "request_cancel_activity_task", "start_timer", "cancel_timer",
    "complete_workflow_execution", "fail_workflow_execution", "cancel_workflow_execution",
    "request_cancel_external_workflow_execution", "signal_external_workflow_execution",
    "start_child_workflow_execution", "record_marker", "upsert_workflow_search_attributes",
    "modify_workflow_properties", "schedule_nexus_operation", "request_cancel_nexus_operation",
)  # fmt: skip


@pytest.mark.parametrize("kind", NO_ATTRIBUTES)
def test_a_command_without_its_attributes_fails_the_task(kind: str) -> None:
    command = command_pb.Command(command_type=ct.CommandType.Value(f"COMMAND_TYPE_{kind.upper()}"))
    world = World()
    world.start()
    world.poll()
    outcome = world.complete(command)
    assert outcome.error is not None
    assert world.names()[-2:] == ["WorkflowTaskStarted", "WorkflowTaskFailed"]
