"""What a command says stands in its event, and what starts a child or the next run says so: field by field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import task_queue_pb2 as tq_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue_pb

from tests.core.command_builders import payload, payloads
from tests.core.harness import World, short_name
from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
from whistlestop.history.core.child import decide as child
from whistlestop.history.core.limits import Limits

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from temporalio.api.history.v1 import message_pb2 as history_pb

RETRY = common_pb.RetryPolicy(
    initial_interval=Duration(seconds=2), backoff_coefficient=3, maximum_interval=Duration(seconds=50),
    maximum_attempts=4, non_retryable_error_types=["Fatal"],
)  # fmt: skip
BY_TYPE: dict[str, Message] = {
    "Payloads": payloads("a", "b"),
    "Payload": payload("one"),
    "Header": common_pb.Header(fields={"trace": payload("t")}),
    "Memo": common_pb.Memo(fields={"note": payload("n")}),
    "SearchAttributes": common_pb.SearchAttributes(indexed_fields={"City": payload("Bern")}),
    "RetryPolicy": RETRY,
    "Priority": common_pb.Priority(priority_key=2, fairness_key="tenant", fairness_weight=3),
    "TaskQueue": taskqueue_pb.TaskQueue(name="orders", kind=tq_enums.TASK_QUEUE_KIND_NORMAL),
    "WorkflowType": common_pb.WorkflowType(name="Ship"),
    "ActivityType": common_pb.ActivityType(name="charge"),
    "WorkflowExecution": common_pb.WorkflowExecution(workflow_id="other", run_id="7d1c3f4e-0000-4000-8000-000000000001"),
    "Failure": failure_pb.Failure(message="broken", source="test"),
    "Duration": Duration(seconds=40),
}  # fmt: skip
KINDS = {
    "schedule_activity_task": "ActivityTaskScheduled",
    "start_timer": "TimerStarted",
    "record_marker": "MarkerRecorded",
    "upsert_workflow_search_attributes": "UpsertWorkflowSearchAttributes",
    "modify_workflow_properties": "WorkflowPropertiesModified",
    "start_child_workflow_execution": "StartChildWorkflowExecutionInitiated",
    "signal_external_workflow_execution": "SignalExternalWorkflowExecutionInitiated",
    "request_cancel_external_workflow_execution": "RequestCancelExternalWorkflowExecutionInitiated",
    "continue_as_new_workflow_execution": "WorkflowExecutionContinuedAsNew",
    "complete_workflow_execution": "WorkflowExecutionCompleted",
    "fail_workflow_execution": "WorkflowExecutionFailed",
    "cancel_workflow_execution": "WorkflowExecutionCanceled",
    "schedule_nexus_operation": "NexusOperationScheduled",
}
LEFT_OUT = {
    # Another namespace, eager execution and the queues of build ids are told of elsewhere.
    "namespace", "request_eager_execution", "use_workflow_build_id", "inherit_build_id", "use_compatible_version",
    "initial_versioning_behavior", "versioning_override", "child_workflow_only", "initiator", "cron_schedule",
    "backoff_start_interval", "last_completion_result", "failure_of_previous_run",
}  # fmt: skip
FIXED: dict[str, Any] = {
    "endpoint": "payments", "workflow_id": "other", "run_id": "7d1c3f4e-0000-4000-8000-000000000001",
    "parent_close_policy": 2, "workflow_id_reuse_policy": 2,
}  # fmt: skip


def _fill(message: Any) -> None:
    """Give each field a value that a server takes."""
    for field in message.DESCRIPTOR.fields:
        if field.name in LEFT_OUT:
            continue
        if field.name in FIXED:
            setattr(message, field.name, FIXED[field.name])
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = getattr(message, field.name)
            if field.message_type.fields_by_name["value"].message_type is None:
                values["name"] = "value"
            else:
                values["name"].CopyFrom(BY_TYPE[field.message_type.fields_by_name["value"].message_type.name])
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(BY_TYPE[field.message_type.name])
        elif field.cpp_type == field.CPPTYPE_STRING:
            setattr(message, field.name, f"some {field.name}")


def _command(kind: str) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.CommandType.Value(f"COMMAND_TYPE_{kind.upper()}"))
    _fill(getattr(command, f"{kind}_command_attributes"))
    return command


def _attributes(event: history_pb.HistoryEvent) -> Any:
    return getattr(event, str(event.WhichOneof("attributes")))


def _event_of(kind: str) -> tuple[World, Any, history_pb.HistoryEvent]:
    world = World()
    run_id = world.start()
    command = _command(kind)
    world.turn(command)
    [event] = [each for each in world.events(run_id) if short_name(each) == KINDS[kind]]
    return world, getattr(command, f"{kind}_command_attributes"), event


def _compare(before: Any, after: Any, renamed: dict[str, str] | None = None) -> set[str]:
    """Compare the fields that both have; return their names."""
    names = {name: (renamed or {}).get(name, name) for name in before.DESCRIPTOR.fields_by_name}
    both = {name: other for name, other in names.items() if other in after.DESCRIPTOR.fields_by_name}
    for name, other in both.items():
        if name not in LEFT_OUT:
            assert getattr(after, other) == getattr(before, name), name
    return set(both) - LEFT_OUT


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_command_says_stands_in_its_event(kind: str) -> None:
    _, said, event = _event_of(kind)
    assert _compare(said, _attributes(event), {"execution": "workflow_execution"})


def test_a_child_starts_as_its_parent_said() -> None:
    world, _, event = _event_of("start_child_workflow_execution")
    started = child.started_attributes(
        world.state(), event, now_ns=world.now_ns, limits=Limits(), deployments=NamespaceDeployments()
    )
    assert started.workflow_id == ""  # told where the run is made
    started.workflow_id = "other"
    compared = _compare(_attributes(event), started)
    assert compared >= {"input", "header", "memo", "search_attributes", "retry_policy", "priority", "task_queue"}
    assert started.parent_initiated_event_id == event.event_id
    assert world.state().children[event.event_id].priority == BY_TYPE["Priority"]


def test_the_next_run_starts_as_continue_as_new_said() -> None:
    world, said, event = _event_of("continue_as_new_workflow_execution")
    new_run_id = _attributes(event).new_execution_run_id
    compared = _compare(said, _attributes(world.events(new_run_id)[0]))
    assert compared >= {"input", "header", "memo", "search_attributes", "retry_policy", "workflow_task_timeout"}
