"""Random commands of a worker, good and bad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from tests.core.command_builders import (
    cancel_activity,
    cancel_timer,
    cancel_workflow,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    fill,
    payload,
    payloads,
    schedule_activity,
    start_timer,
)
from whistlestop.history.core.times import SECOND_NS, set_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.core.random.numbers import Numbers
    from whistlestop.history.core.state_pb2 import MutableState

NOWHERE = 999
ENDPOINT = "payments"


def retry_policy(n: Numbers) -> common_pb.RetryPolicy:
    policy = common_pb.RetryPolicy(backoff_coefficient=2.0, maximum_attempts=n.of(2, 1, 0, 3))
    set_duration(policy.initial_interval, n.of(1, 2) * SECOND_NS)
    set_duration(policy.maximum_interval, 100 * SECOND_NS)
    policy.non_retryable_error_types.append("Fatal")
    return policy


def protocol_message(message_id: str) -> command_pb.Command:
    command = command_pb.Command(command_type=ct.COMMAND_TYPE_PROTOCOL_MESSAGE)
    command.protocol_message_command_attributes.message_id = message_id
    return command


def command(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    """One command that does not end the workflow (but may be a bad one)."""
    made: Callable[[Numbers, MutableState, Sequence[str]], command_pb.Command] = n.of(*_MAKERS)
    result = made(n, state, targets)
    if n.below(9) == 8:
        result.user_metadata.summary.CopyFrom(payload("why"))
    return result


def closing(n: Numbers) -> command_pb.Command:
    kind = n.below(5)
    if kind == 0:
        return complete_workflow("done")
    if kind == 1:
        return fail_workflow("broken", type=n.of("Retryable", "Fatal"))
    if kind == 2:
        return cancel_workflow()
    if kind == 3:
        return continue_as_new(input=payloads("next"), **({"workflow_run_timeout_s": 20} if n.below(2) else {}))
    return continue_as_new(backoff_start_interval_s=3)


def _activity(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    fields: dict[str, Any] = {}
    if n.below(2):
        fields["start_to_close_timeout_s"] = n.of(5, 1, 20)
    if n.below(3) == 2 or not fields:
        fields["schedule_to_close_timeout_s"] = n.of(10, 2, 100)
    if n.below(3) == 2:
        fields["schedule_to_start_timeout_s"] = n.of(4, 1)
    if n.below(3) == 2:
        fields["heartbeat_timeout_s"] = n.of(2, 1)
    if n.below(2):
        fields["retry_policy"] = retry_policy(n)
    if n.below(4) == 3:
        fields["request_eager_execution"] = True
    if n.below(9) == 8:
        fields["priority"] = common_pb.Priority(priority_key=n.of(1, 5))
    return schedule_activity(n.of("a0", "a1", "a2", ""), **fields)


def _cancel_activity(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    known = sorted(state.activities)
    return cancel_activity(known[n.below(len(known))] if known and n.below(6) < 5 else NOWHERE)


def _timer(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    return start_timer(n.of("t0", "t1", "t2"), n.of(1, 0.5, 3, 60, 0))


def _cancel_timer(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    return cancel_timer(n.of("t0", "t1", "t2"))


def _child(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    made = command_pb.Command(command_type=ct.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION)
    a = made.start_child_workflow_execution_command_attributes
    a.workflow_id = n.of("c0", "c1", "c2")
    a.workflow_type.name = "Child"
    a.task_queue.name = "orders"
    a.parent_close_policy = n.of(
        wf_enums.PARENT_CLOSE_POLICY_TERMINATE,
        wf_enums.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
        wf_enums.PARENT_CLOSE_POLICY_ABANDON,
    )
    if n.below(3) == 2:
        fill(a, {"workflow_run_timeout_s": n.of(4, 1)})
    if n.below(3) == 2:
        a.retry_policy.CopyFrom(retry_policy(n))
    if n.below(6) == 5:
        a.cron_schedule = "@every 5s"
    return made


def _signal(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    made = command_pb.Command(command_type=ct.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION)
    a = made.signal_external_workflow_execution_command_attributes
    a.execution.workflow_id = n.of(*targets, "c0", "nobody")
    a.signal_name = n.of("s", "s", "s", "")
    a.child_workflow_only = n.below(5) == 4
    return made


def _cancel_external(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    made = command_pb.Command(command_type=ct.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION)
    a = made.request_cancel_external_workflow_execution_command_attributes
    a.workflow_id = n.of(*targets, "c0", "nobody")
    a.child_workflow_only = n.below(5) == 4
    return made


def _marker(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    made = command_pb.Command(command_type=ct.COMMAND_TYPE_RECORD_MARKER)
    made.record_marker_command_attributes.marker_name = n.of("m", "m", "m", "")
    made.record_marker_command_attributes.details["d"].CopyFrom(payloads("1"))
    return made


def _memo(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    made = command_pb.Command(command_type=ct.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES)
    fields = made.modify_workflow_properties_command_attributes.upserted_memo.fields
    fields["m"].CopyFrom(payload(n.of("1", "2")))
    if n.below(3) == 2:
        fields["m"].data = b"null"
    return made


def _search_attributes(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    made = command_pb.Command(command_type=ct.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)
    fields = made.upsert_workflow_search_attributes_command_attributes.search_attributes.indexed_fields
    fields[n.of("CustomKeyword", "Other")].CopyFrom(payload(n.of("1", "2")))
    return made


def _nexus_operation(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    made = command_pb.Command(command_type=ct.COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION)
    a = made.schedule_nexus_operation_command_attributes
    a.endpoint = n.of(ENDPOINT, ENDPOINT, ENDPOINT, "nowhere")
    a.service, a.operation = "Payments", "pay"
    a.nexus_header["Trace"] = "1"
    if n.below(3) == 2:
        fill(a, {"schedule_to_close_timeout_s": n.of(20, 1, 5)})
    if n.below(3) == 2:
        fill(a, {"schedule_to_start_timeout_s": n.of(10, 3)})
    if n.below(3) == 2:
        fill(a, {"start_to_close_timeout_s": n.of(10, 2)})
    return made


def _cancel_nexus_operation(n: Numbers, state: MutableState, targets: Sequence[str]) -> command_pb.Command:
    known = sorted(state.nexus_operations)
    made = command_pb.Command(command_type=ct.COMMAND_TYPE_REQUEST_CANCEL_NEXUS_OPERATION)
    scheduled_event_id = known[n.below(len(known))] if known and n.below(6) < 5 else NOWHERE
    made.request_cancel_nexus_operation_command_attributes.scheduled_event_id = scheduled_event_id
    return made


_MAKERS = (
    _activity,
    _timer,
    _activity,
    _child,
    _signal,
    _cancel_activity,
    _cancel_timer,
    _cancel_external,
    _marker,
    _memo,
    _search_attributes,
    _nexus_operation,
    _cancel_nexus_operation,
)
