"""What the server says about commands that are wrong, word for word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue_pb

from tests.core.command_builders import continue_as_new, fill, payload, payloads, schedule_activity
from tests.core.harness import World
from whistlestop.common.messages.failures import truncate
from whistlestop.common.retry_defaults import RetryDefaults
from whistlestop.history.core import retry
from whistlestop.history.core.command_handlers import HANDLERS
from whistlestop.history.core.commands import attributes as command_attributes
from whistlestop.history.core.commands import external_attributes
from whistlestop.history.core.commands.dispatch import command_name
from whistlestop.history.core.commands.errors import BadCommand
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.times import SECOND_NS, duration_ns, set_duration

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run


def run_of(**fields: Any) -> Run:
    limits = fields.pop("limits", None)
    world = World(limits)
    world.start(**fields)
    return world.load()


def activity_attributes(**fields: Any) -> command_pb.ScheduleActivityTaskCommandAttributes:
    return schedule_activity(**fields).schedule_activity_task_command_attributes


def child(**fields: Any) -> command_pb.StartChildWorkflowExecutionCommandAttributes:
    a = command_pb.StartChildWorkflowExecutionCommandAttributes(workflow_id="child")
    a.workflow_type.name = "Ship"
    fill(a, fields)
    return a


def signal(**fields: Any) -> command_pb.SignalExternalWorkflowExecutionCommandAttributes:
    a = command_pb.SignalExternalWorkflowExecutionCommandAttributes(signal_name="go")
    a.execution.workflow_id = "other"
    fill(a, fields)
    return a


def cancel(**fields: Any) -> command_pb.RequestCancelExternalWorkflowExecutionCommandAttributes:
    a = command_pb.RequestCancelExternalWorkflowExecutionCommandAttributes(workflow_id="other")
    fill(a, fields)
    return a


def new(**fields: Any) -> command_pb.ContinueAsNewWorkflowExecutionCommandAttributes:
    a = command_pb.ContinueAsNewWorkflowExecutionCommandAttributes()
    fill(a, fields)
    return a


def policy(**fields: Any) -> common_pb.RetryPolicy:
    result = common_pb.RetryPolicy()
    fill(result, fields)
    return result


def message_of(call: Any, *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(BadCommand) as bad:
        call(*arguments, **keywords)
    return bad.value.message


ACTIVITY = "BadScheduleActivityAttributes: "


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activity_id": ""}, "activityId is not set"),
        ({"activity_type": common_pb.ActivityType()}, "activityType is not set"),
        ({"task_queue": taskqueue_pb.TaskQueue()}, "missing task queue name"),
        (
            {"task_queue": taskqueue_pb.TaskQueue(name="/_sys/x/1")},
            "task queue name cannot start with reserved prefix /_sys/",
        ),
        ({"activity_id": "x" * 1001}, "activityId exceeds length limit. Length=1001 Limit=1000"),
        ({"heartbeat_timeout_s": -1}, "invalid HeartbeatTimeout: negative duration"),
        ({"priority": common_pb.Priority(priority_key=-1)}, "invalid priorities: priority key can't be negative"),
        ({"retry_policy": policy(maximum_attempts=-1)}, "MaximumAttempts cannot be negative on retry policy."),
        (
            {"start_to_close_timeout_s": 0},
            "a valid StartToCloseTimeout or ScheduleToCloseTimeout must be set on the activity. ActivityId=a ActivityType=charge",
        ),
        (
            {"use_workflow_build_id": True, "task_queue": taskqueue_pb.TaskQueue(name="elsewhere")},
            "Activity with UseCompatibleVersion cannot run on different task queue.",
        ),
    ],
)
def test_bad_activity(fields: dict[str, Any], message: str) -> None:
    assert (
        message_of(command_attributes.schedule_activity, run_of(), activity_attributes(**fields)) == ACTIVITY + message
    )


def test_activity_without_task_queue() -> None:
    a = activity_attributes()
    a.ClearField("task_queue")
    assert message_of(command_attributes.schedule_activity, run_of(), a) == f"{ACTIVITY}taskQueue is not set"


@pytest.mark.parametrize(
    ("given", "run_s", "expected"),
    [
        # schedule-to-close, schedule-to-start, start-to-close, heartbeat
        ((10, 0, 0, 0), 0, (10, 10, 10, 0)),
        ((10, 20, 30, 40), 0, (10, 10, 10, 10)),
        ((10, 2, 3, 1), 0, (10, 2, 3, 1)),
        ((0, 0, 5, 0), 0, (0, 0, 5, 0)),
        ((0, 0, 5, 9), 0, (0, 0, 5, 5)),
        ((0, 0, 5, 0), 60, (60, 60, 5, 0)),
        ((0, 7, 5, 0), 60, (60, 7, 5, 0)),
        ((90, 80, 70, 65), 60, (60, 60, 60, 60)),
    ],
)
def test_timeouts_are_derived(given: tuple[int, ...], run_s: int, expected: tuple[int, ...]) -> None:
    a = command_pb.ScheduleActivityTaskCommandAttributes(activity_id="a")
    spans = (a.schedule_to_close_timeout, a.schedule_to_start_timeout, a.start_to_close_timeout, a.heartbeat_timeout)
    for span, seconds in zip(spans, given, strict=True):
        set_duration(span, seconds * SECOND_NS)
    for _ in range(2):  # deriving again changes nothing
        assert command_attributes.activity_timeouts_fault(a, run_s * SECOND_NS) == ""
        assert tuple(duration_ns(span) // SECOND_NS for span in spans) == expected


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (policy(), ""),
        (policy(backoff_coefficient=0.5), "BackoffCoefficient cannot be less than 1 on retry policy."),
        (policy(initial_interval_s=-1), "invalid InitialInterval set on retry policy: negative duration"),
        (policy(maximum_interval_s=-1), "invalid MaximumInterval set on retry policy: negative duration"),
        (
            policy(initial_interval_s=10, maximum_interval_s=5),
            "MaximumInterval cannot be less than InitialInterval on retry policy.",
        ),
        (policy(backoff_coefficient=0.5, maximum_attempts=1), ""),
        (policy(non_retryable_error_types=["TemporalTimeout:StartToClose", "Mine"]), ""),
        (policy(non_retryable_error_types=["TemporalTimeout:Never"]), "Invalid timeout type value: Never."),
    ],
)
def test_retry_policies(given: common_pb.RetryPolicy, fault: str) -> None:
    retry.set_defaults(given, RetryDefaults())
    assert retry.fault(given) == fault


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (7, 64), (8, 100), (2000, 100)])
def test_intervals(attempt: int, seconds: int) -> None:
    given = common_pb.RetryPolicy()
    retry.set_defaults(given, RetryDefaults())
    following = retry.next_attempt(
        given, attempt=attempt, now_ns=0, expiration_ns=0, failure=None, delay_lifts_maximum=True
    )
    assert following == (wf_enums.RETRY_STATE_IN_PROGRESS, seconds * SECOND_NS)


# ---- child workflows, continue-as-new ---------------------------------------------------------------------------------

CHILD = "BadStartChildExecutionAttributes: "
OF_CHILD = "WorkflowId=child WorkflowType=Ship Namespace=default"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"workflow_id": ""},
            "Required field WorkflowId is not set on StartChildWorkflowExecutionCommand. WorkflowType=Ship Namespace=default",
        ),
        (
            {"workflow_type": common_pb.WorkflowType()},
            "Required field WorkflowType is not set on StartChildWorkflowExecutionCommand. WorkflowId=child Namespace=default",
        ),
        (
            {"workflow_run_timeout_s": -1},
            f"Invalid WorkflowRunTimeout on StartChildWorkflowExecutionCommand: negative duration. {OF_CHILD}",
        ),
        (
            {"retry_policy": policy(maximum_attempts=-1)},
            f"invalid WorkflowRetryPolicy on StartChildWorkflowExecutionCommand: MaximumAttempts cannot be negative on retry policy.. {OF_CHILD}",
        ),
        (
            {"cron_schedule": "x y"},
            f"invalid CronSchedule on StartChildWorkflowExecutionCommand: invalid CronSchedule.. {OF_CHILD}",
        ),
        ({"namespace": "other"}, "cross namespace commands are not allowed"),
    ],
)
def test_bad_child(fields: dict[str, Any], message: str) -> None:
    assert message_of(external_attributes.start_child_workflow, run_of(), child(**fields)) == CHILD + message


def test_a_child_is_not_started_in_the_place_of_a_run_of_the_servers_own() -> None:
    a = child()
    a.workflow_id = "temporal-sys-scheduler:s"
    assert message_of(external_attributes.start_child_workflow, run_of(), a) == (
        CHILD
        + "WorkflowId on StartChildWorkflowExecutionCommand cannot start with reserved prefix temporal-sys-scheduler:. "
        "WorkflowId=temporal-sys-scheduler:s WorkflowType=Ship Namespace=default"
    )


def test_child_inherits_queue_and_has_defaults() -> None:
    a = child(workflow_execution_timeout_s=5, retry_policy=policy())
    external_attributes.start_child_workflow(run_of(), a)
    assert (a.namespace, a.task_queue.name, a.task_queue.kind) == ("default", "orders", 1)
    assert (duration_ns(a.workflow_run_timeout), duration_ns(a.workflow_task_timeout)) == (5 * SECOND_NS, 5 * SECOND_NS)
    assert a.parent_close_policy == wf_enums.PARENT_CLOSE_POLICY_TERMINATE
    assert a.workflow_id_reuse_policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
    assert a.retry_policy.maximum_interval.seconds == 100


def test_continue_as_new_inherits() -> None:
    a = new()
    command_attributes.continue_as_new(run_of(run_timeout_s=9, execution_timeout_s=90), a)
    assert (a.workflow_type.name, a.task_queue.name) == ("Order", "orders")
    assert (duration_ns(a.workflow_run_timeout), duration_ns(a.workflow_task_timeout)) == (9 * SECOND_NS, 9 * SECOND_NS)
    assert not a.HasField("retry_policy")


def test_bad_continue_as_new() -> None:
    message = message_of(command_attributes.continue_as_new, run_of(), new(workflow_task_timeout_s=-1))
    assert message == (
        "BadContinueAsNewAttributes: Invalid WorkflowTaskTimeout on ContinueAsNewWorkflowExecutionCommand: negative duration. "
        'WorkflowType=Order TaskQueue=name:"orders" kind:TASK_QUEUE_KIND_NORMAL'
    )


# ---- other executions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (
            command_pb.SignalExternalWorkflowExecutionCommandAttributes(),
            "Execution is not set on SignalExternalWorkflowExecutionCommand.",
        ),
        (
            signal(execution=common_pb.WorkflowExecution()),
            "WorkflowId is not set on SignalExternalWorkflowExecutionCommand. Namespace= RunId= SignalName=go",
        ),
        (
            signal(execution=common_pb.WorkflowExecution(workflow_id="o", run_id="x")),
            "Invalid RunId set on SignalExternalWorkflowExecutionCommand. WorkflowId=o Namespace= RunId=x SignalName=go",
        ),
        (
            signal(signal_name=""),
            "SignalName is not set on SignalExternalWorkflowExecutionCommand. WorkflowId=other Namespace= RunId=",
        ),
    ],
)
def test_bad_signal(a: command_pb.SignalExternalWorkflowExecutionCommandAttributes, message: str) -> None:
    assert (
        message_of(external_attributes.signal_external_workflow, run_of(), a)
        == f"BadSignalWorkflowExecutionAttributes: {message}"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"workflow_id": ""},
            "WorkflowId is not set on RequestCancelExternalWorkflowExecutionCommand. Namespace= RunId=",
        ),
        (
            {"run_id": "x"},
            "Invalid RunId set on RequestCancelExternalWorkflowExecutionCommand. WorkflowId=other RunId=x Namespace=",
        ),
    ],
)
def test_bad_cancel(fields: dict[str, Any], message: str) -> None:
    text = message_of(external_attributes.request_cancel_external_workflow, run_of(), cancel(**fields))
    assert text == f"BadRequestCancelExternalWorkflowExecutionAttributes: {message}"


# ---- missing attributes -----------------------------------------------------------------------------------------------


CAUSES = {
    "ScheduleActivityTask": "BadScheduleActivityAttributes",
    "RequestCancelActivityTask": "BadRequestCancelActivityAttributes",
    "StartTimer": "BadStartTimerAttributes",
    "CancelTimer": "BadCancelTimerAttributes",
    "RecordMarker": "BadRecordMarkerAttributes",
    "UpsertWorkflowSearchAttributes": "BadSearchAttributes",
    "ModifyWorkflowProperties": "BadModifyWorkflowPropertiesAttributes",
    "CompleteWorkflowExecution": "BadCompleteWorkflowExecutionAttributes",
    "FailWorkflowExecution": "BadFailWorkflowExecutionAttributes",
    "CancelWorkflowExecution": "BadCancelWorkflowExecutionAttributes",
    "ContinueAsNewWorkflowExecution": "BadContinueAsNewAttributes",
    "StartChildWorkflowExecution": "BadStartChildExecutionAttributes",
    "SignalExternalWorkflowExecution": "BadSignalWorkflowExecutionAttributes",
    "RequestCancelExternalWorkflowExecution": "BadRequestCancelExternalWorkflowExecutionAttributes",
    "ProtocolMessage": "BadUpdateWorkflowExecutionMessage",
    "ScheduleNexusOperation": "BadScheduleNexusOperationAttributes",
    "RequestCancelNexusOperation": "BadRequestCancelNexusOperationAttributes",
}
OF_NEXUS = {
    "ScheduleNexusOperation": "empty ScheduleNexusOperationCommandAttributes",
    "RequestCancelNexusOperation": "empty CancelNexusOperationCommandAttributes",
}


def test_each_command_has_a_cause_for_bad_attributes() -> None:
    assert {command_name(command_type) for command_type in HANDLERS} == CAUSES.keys()


@pytest.mark.parametrize("given", ["none", "of another command"])
@pytest.mark.parametrize("command_type", HANDLERS)
def test_attributes_not_set(command_type: Any, given: str) -> None:
    command = command_pb.Command(command_type=command_type)
    kind = command_name(command_type)
    if given != "none":
        other = "record_marker" if kind == "StartTimer" else "start_timer"
        getattr(command, f"{other}_command_attributes").SetInParent()
    world = World()
    world.start()
    world.poll()
    outcome = world.complete(command)
    assert outcome.error is not None
    expected = OF_NEXUS.get(kind) or f"{kind}CommandAttributes is not set on {kind}Command."
    assert outcome.error.message == f"{CAUSES[kind]}: {expected}"


# ---- sizes ------------------------------------------------------------------------------------------------------------


def test_large_input_ends_the_workflow() -> None:
    world = World(Limits(blob_size_error=1000))
    world.start()
    world.poll()
    outcome = world.complete(schedule_activity(input=payloads("x" * 2000)))
    assert outcome.error is not None
    assert outcome.error.message == f"{ACTIVITY}ScheduleActivityTaskCommandAttributes.Input exceeds size limit."
    assert world.names()[-2:] == ["WorkflowTaskFailed", "WorkflowExecutionTerminated"]
    assert world.last("WorkflowExecutionTerminated").reason == outcome.error.message


def test_a_large_memo_ends_the_workflow() -> None:
    world = World(Limits(memo_size_error=1000))
    world.start()
    world.poll()
    outcome = world.complete(continue_as_new(memo=common_pb.Memo(fields={"note": payload("x" * 2000)})))
    assert outcome.error is not None
    assert outcome.error.message.endswith("ContinueAsNewWorkflowExecutionCommandAttributes. Memo exceeds size limit.")
    assert world.names()[-2:] == ["WorkflowTaskFailed", "WorkflowExecutionTerminated"]


@pytest.mark.parametrize(("seconds", "taken"), [(5, True), (5.001, False)])
def test_a_workflow_task_heartbeats_for_as_long_as_it_may(seconds: float, taken: bool) -> None:
    world = World(Limits(workflow_task_heartbeat_timeout_ns=5 * SECOND_NS))
    world.start()
    world.poll()
    world.advance(seconds)
    world.complete(force_create_new_workflow_task=True)
    assert ("WorkflowTaskTimedOut" in world.names()) is not taken


def test_pending_activities_are_bounded() -> None:
    world = World(Limits(pending_activities=2))
    world.start()
    world.poll()
    outcome = world.complete(*(schedule_activity(name) for name in "abc"))
    assert outcome.error is not None
    assert outcome.error.message == (
        "PendingActivitiesLimitExceeded: the number of pending activities, 2, has reached the per-workflow limit of 2"
    )


def test_search_attributes_are_measured_after_the_upsert() -> None:
    run = run_of(limits=Limits(search_attribute_value_size=10))
    a = command_pb.UpsertWorkflowSearchAttributesCommandAttributes()
    a.search_attributes.indexed_fields["CustomKeywordField"].CopyFrom(payload("longer than ten"))
    text = message_of(command_attributes.upsert_search_attributes, run, a)
    assert text == "BadSearchAttributes: search attribute CustomKeywordField value size 17 exceeds size limit 10"


def test_unknown_search_attribute_fails_the_task() -> None:
    run = run_of()
    run.check_search_attributes = lambda _, name: f"Namespace {name} has no mapping defined for search attribute X"
    a = command_pb.UpsertWorkflowSearchAttributesCommandAttributes()
    a.search_attributes.indexed_fields["X"].CopyFrom(payload("v"))
    with pytest.raises(BadCommand) as bad:
        command_attributes.upsert_search_attributes(run, a)
    assert bad.value.message == "BadSearchAttributes: Namespace default has no mapping defined for search attribute X"
    assert not bad.value.terminate


def test_truncating_keeps_the_most_important_first() -> None:
    from tests.core.activity.test_activity import application_failure

    failure = application_failure("m" * 100, kind="T" * 10)
    failure.stack_trace = "s" * 1000
    failure.cause.message = "never seen"
    cut = truncate(failure, 200)
    assert (len(cut.application_failure_info.type), len(cut.message)) == (10, 100)
    assert 0 < len(cut.stack_trace) < 100
    assert not cut.HasField("cause")
