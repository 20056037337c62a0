"""The defaults of the limits, which are Temporal's, and each check at its limit and one beyond."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import task_queue_pb2 as tq
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue_pb

from tests.core.command_builders import made, payload, payloads, schedule_activity, start_timer
from tests.core.harness import World
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core import retry
from whistlestop.history.core.commands import dispatch, faults, sizes
from whistlestop.history.core.commands.errors import BadCommand
from whistlestop.history.core.limits import DAY_NS, Limits
from whistlestop.history.core.times import MAX_DURATION_SECONDS, SECOND_NS

CAUSE = fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
S = 1_000_000_000
DEFAULTS: dict[str, Any] = {
    "blob_size_warn": 524_288, "blob_size_error": 2_097_152, "memo_size_warn": 2048, "memo_size_error": 2_097_152,
    "history_size_warn": 10_485_760, "history_size_error": 52_428_800, "history_size_suggest_continue_as_new": 4_194_304,
    "history_count_warn": 10_240, "history_count_error": 51_200, "history_count_suggest_continue_as_new": 4096,
    "mutable_state_size_warn": 1_048_576, "mutable_state_size_error": 8_388_608, "activity_failure_size_error": 4096,
    "activity_failure_size_warn": 2048, "pending_activities": 2000, "pending_children": 2000, "pending_signals": 2000,
    "pending_cancels": 2000, "signals_per_execution": 10_000, "buffered_events": 100, "buffered_bytes": 2_097_152,
    "in_flight_updates": 10, "in_flight_updates_bytes": 20_971_520, "total_updates": 2000,
    "total_updates_suggest_continue_as_new_percent": 90, "buffered_queries": 1, "query_poller_window_ns": 20 * S,
    "id_length": 1000, "search_attribute_count": 100, "search_attribute_value_size": 2048,
    "search_attributes_total_size": 40_960, "auto_reset_points": 20, "task_history_page": 256,
    "query_history_page": 256, "send_raw_history": False, "signal_backlinks": False, "cross_namespace_commands": False,
    "long_poll_ns": 20 * S, "activity_long_poll_ns": 60 * S, "activity_long_poll_buffer_ns": S,
    "nexus_long_poll_ns": 60 * S, "nexus_long_poll_buffer_ns": S, "workflow_task_timeout_ns": 10 * S,
    "workflow_task_timeout_max_ns": 120 * S, "workflow_task_heartbeat_timeout_ns": 1800 * S,
    "workflow_task_retry_initial_ns": 5 * S, "workflow_task_retry_max_ns": 600 * S,
    "workflow_task_backoff_from_attempt": 3, "workflow_task_problems": 5, "continue_as_new_min_interval_ns": S,
    "reuse_start_time_validation": False, "reset_with_pending_children": True, "speculative_events_discarded": 10,
    "drop_repeated_task_failures": False, "sticky_timeout_default_ns": 5 * S, "completion_pages": False,
    "completion_pages_size": 41_943_040, "completion_pages_total_size": 1_073_741_824,
    "completion_pages_namespace_ratio": 0.5, "reapply_events": 10_000, "eager_activities": True,
    "eager_workflow_start": True, "cancel_activity_worker_command": False, "links_per_execution": 2000,
    "callbacks_per_execution": 2000, "callbacks_per_update": 32, "nexus_pending_operations": 30,
    "nexus_service_length": 1000, "nexus_operation_length": 1000, "nexus_header_size": 8192,
    "nexus_operation_token_length": 4096, "nexus_schedule_to_close_max_ns": 0, "nexus_request_timeout_ns": 10 * S,
    "nexus_answer_margin_ns": S, "nexus_min_request_timeout_ns": 1_500_000_000, "nexus_retry_initial_ns": S,
    "nexus_retry_max_ns": 3600 * S, "nexus_system_callback_url": True, "nexus_callback_url": "",
    "callback_request_timeout_ns": 10 * S, "callback_retry_initial_ns": S, "callback_retry_max_ns": 3600 * S,
    "send_target_version_changed": True, "version_reactivation": True, "version_drainage_grace_ns": 180 * S,
    "version_drainage_refresh_ns": 180 * S, "external_retry_initial_ns": 100_000_000,
}  # fmt: skip


def test_the_defaults() -> None:
    limits = Limits()
    assert {name: getattr(limits, name) for name in DEFAULTS} == DEFAULTS
    plain = {each.name for each in fields(Limits) if isinstance(getattr(limits, each.name), int | float | str)}
    assert plain == set(DEFAULTS)
    assert DAY_NS == 86_400 * S


def run_with(limits: Limits | None = None) -> Any:
    world = World(limits)
    world.start()
    return world.load()


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_a_blob_is_warned_of_before_it_is_refused() -> None:
    run = run_with(Limits(blob_size_warn=10, blob_size_error=20))
    sizes.check_blob(run, CAUSE, 10, "Input exceeds size limit.")
    assert run.warnings == []
    sizes.check_blob(run, CAUSE, 11, "Input exceeds size limit.")
    sizes.check_blob(run, CAUSE, 20, "Payload")
    assert run.warnings == [
        "Input: 11 bytes are over the warning limit",
        "Payload: 20 bytes are over the warning limit",
    ]
    with pytest.raises(BadCommand) as refused:
        sizes.check_blob(run, CAUSE, 21, "Input exceeds size limit.")
    assert (refused.value.cause, refused.value.reason, refused.value.terminate) == (
        CAUSE, "Input exceeds size limit.", True,
    )  # fmt: skip


def test_a_memo_is_warned_of_before_it_is_refused() -> None:
    memo = made(common_pb.Memo, fields={"note": payload("x" * 50)})
    size = memo.ByteSize()
    for warn, error, warned in ((size, size, False), (size - 1, size, True)):
        run = run_with(Limits(memo_size_warn=warn, memo_size_error=error))
        sizes.check_memo(run, CAUSE, memo, "Memo exceeds size limit.")
        assert bool(run.warnings) == warned
    run = run_with(Limits(memo_size_error=size - 1))
    with pytest.raises(BadCommand, match="Memo exceeds size limit") as refused:
        sizes.check_memo(run, CAUSE, memo, "Memo exceeds size limit.")
    assert refused.value.terminate


def test_search_attributes_are_measured_one_by_one_and_together() -> None:
    attributes = made(common_pb.SearchAttributes, indexed_fields={"A": payload("x" * 8), "B": payload("x" * 8)})
    value, total = len(payload("x" * 8).data), attributes.ByteSize()
    limits = Limits(search_attribute_value_size=value, search_attributes_total_size=total)
    sizes.check_search_attributes(run_with(limits), CAUSE, attributes)
    for field, most, message in (
        ("search_attribute_value_size", value, f" value size {value} exceeds size limit {value - 1}"),
        ("search_attributes_total_size", total,
         f"total size of search attributes {total} exceeds size limit {total - 1}"),
    ):  # fmt: skip
        lower: dict[str, Any] = {field: most - 1}
        with pytest.raises(BadCommand) as refused:
            sizes.check_search_attributes(run_with(replace(limits, **lower)), CAUSE, attributes)
        assert message in refused.value.reason
        assert refused.value.terminate


def test_what_is_there_after_a_change() -> None:
    run = run_with()
    run.state.memo["a"].CopyFrom(payload("1"))
    run.state.search_attributes["A"].CopyFrom(payload("1"))
    memo = sizes.merged_memo(run, made(common_pb.Memo, fields={"b": payload("2"), "a": common_pb.Payload()}))
    assert memo == made(common_pb.Memo, fields={"b": payload("2")})
    attributes = made(common_pb.SearchAttributes, indexed_fields={"B": payload("2")})
    assert set(sizes.merged_search_attributes(run, attributes).indexed_fields) == {"A", "B"}
    assert set(run.state.memo) == {"a"}
    assert sizes.payload_map_size({"é": payload("x")}) == 2 + len(payload("x").data)
    assert sizes.payloads_map_size({"é": payloads("x")}) == 2 + payloads("x").ByteSize()


PENDING = {
    "activities": (sizes.check_pending_activities, "pending_activities", "pending activities",
                   fc.WORKFLOW_TASK_FAILED_CAUSE_PENDING_ACTIVITIES_LIMIT_EXCEEDED),
    "children": (sizes.check_pending_children, "pending_children", "pending child workflow executions",
                 fc.WORKFLOW_TASK_FAILED_CAUSE_PENDING_CHILD_WORKFLOWS_LIMIT_EXCEEDED),
    "external_signals": (sizes.check_pending_signals, "pending_signals", "pending signals to external workflows",
                         fc.WORKFLOW_TASK_FAILED_CAUSE_PENDING_SIGNALS_LIMIT_EXCEEDED),
    "external_cancels": (sizes.check_pending_cancels, "pending_cancels",
                         "pending requests to cancel external workflows",
                         fc.WORKFLOW_TASK_FAILED_CAUSE_PENDING_REQUEST_CANCEL_LIMIT_EXCEEDED),
}  # fmt: skip


@pytest.mark.parametrize("name", PENDING)
def test_what_is_pending_is_counted(name: str) -> None:
    check, limit, what, cause = PENDING[name]
    limits: dict[str, Any] = {limit: 2}
    run = run_with(Limits(**limits))
    getattr(run.state, name)[1].SetInParent()
    check(run)
    getattr(run.state, name)[2].SetInParent()
    with pytest.raises(BadCommand) as refused:
        check(run)
    assert (refused.value.cause, refused.value.reason, refused.value.terminate) == (
        cause, f"the number of {what}, 2, has reached the per-workflow limit of 2", False,
    )  # fmt: skip
    limits[limit] = 0
    run.limits = Limits(**limits)
    check(run)


def test_a_long_failure_is_warned_of() -> None:
    failure = failure_pb.Failure(message="x" * 100)
    size = failure.ByteSize()
    for warn, warned in ((size, False), (size - 1, True)):
        run = run_with(Limits(activity_failure_size_warn=warn, activity_failure_size_error=size))
        assert sizes.kept_failure(run, failure) is failure
        assert bool(run.warnings) == warned


# ---- parts of commands -----------------------------------------------------------------------------------------------

NORMAL, STICKY = tq.TASK_QUEUE_KIND_NORMAL, tq.TASK_QUEUE_KIND_STICKY


@pytest.mark.parametrize(
    ("fields", "default", "own", "fault", "name"),
    [
        ({"name": "q"}, "", "own", "", "q"),
        ({}, "", "own", "missing task queue name", ""),
        ({}, "default", "own", "", "default"),
        ({"name": "éé"}, "", "own", "taskQueue length exceeds limit", "éé"),
        ({"name": "é1"}, "", "own", "", "é1"),
        ({"name": "q", "kind": STICKY, "normal_name": "four"}, "", "own", "taskQueue length exceeds limit", "q"),
        ({"name": "q", "kind": STICKY, "normal_name": "one"}, "", "own", "", "q"),
        ({"name": "q", "kind": NORMAL, "normal_name": "four"}, "", "own", "", "q"),
    ],
)
def test_task_queues(fields: dict[str, Any], default: str, own: str, fault: str, name: str) -> None:
    queue = made(taskqueue_pb.TaskQueue, **fields)
    limit = 3 if default != "default" else 7
    assert faults.task_queue_fault(queue, default, own, limit) == fault
    assert queue.name == name
    assert queue.kind == fields.get("kind", NORMAL)


def test_reserved_and_internal_task_queues() -> None:
    reserved = taskqueue_pb.TaskQueue(name="/_sys/q")
    assert faults.task_queue_fault(reserved, "", "own", 99)
    internal = taskqueue_pb.TaskQueue(name="temporal-sys-per-ns-tq")
    assert faults.task_queue_fault(internal, "", "own", 99)
    assert not faults.task_queue_fault(internal, "", "temporal-sys-per-ns-tq", 99)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, ""), ({"priority_key": -1}, "priority key can't be negative"), ({"priority_key": 1}, ""),
        ({"fairness_key": "é" * 32}, ""), ({"fairness_key": "é" * 32 + "x"}, "fairness key length exceeds limit"),
        ({"fairness_weight": -0.5}, "must be greater than zero"), ({"fairness_weight": 0.5}, ""),
    ],
)  # fmt: skip
def test_priorities(fields: dict[str, Any], fault: str) -> None:
    assert faults.priority_fault(made(common_pb.Priority, **fields)) == fault


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("7d1c3f4e-0000-4000-8000-000000000001", True), ("7D1C3F4E000040008000000000000001", True), ("", False),
        ("7d1c3f4e-0000-4000-8000-00000000000", False), ("7d1c3f4e-0000-4000-8000-0000000000011", False),
        ("gd1c3f4e-0000-4000-8000-000000000001", False),
    ],
)  # fmt: skip
def test_run_ids_are_uuids(text: str, is_one: bool) -> None:
    assert faults.is_uuid(text) == is_one


def test_other_namespaces() -> None:
    run = run_with()
    faults.check_namespace(run, CAUSE, "")
    faults.check_namespace(run, CAUSE, "default")
    with pytest.raises(BadCommand, match="cross namespace commands are not allowed") as refused:
        faults.check_namespace(run, CAUSE, "other")
    assert refused.value.cause == CAUSE
    allowed = run_with(Limits(cross_namespace_commands=True))
    faults.check_namespace(allowed, CAUSE, "other")
    allowed.namespace_ids = {"other": "other-id"}
    assert faults.namespace_id_of(allowed, "other") == "other-id"
    assert faults.namespace_id_of(allowed, "default") == allowed.state.namespace_id
    assert faults.queue_text(taskqueue_pb.TaskQueue(name="q", kind=NORMAL)) == 'name:"q" kind:TASK_QUEUE_KIND_NORMAL'


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("bad", "before bad after"),
        ("Namespace default has no mapping defined for X", "Namespace default has no mapping defined for X"),
    ],
)
def test_search_attributes_are_checked_in_their_namespace(fault: str, message: str) -> None:
    run, attributes = run_with(), common_pb.SearchAttributes()
    faults.check_search_attributes(run, attributes, "", "")
    asked: list[str] = []

    def check(given: common_pb.SearchAttributes, namespace: str) -> str:
        asked.append(namespace)
        return fault if namespace == "bad" else ""

    run.check_search_attributes = check
    faults.check_search_attributes(run, attributes, "", "")
    faults.check_search_attributes(run, attributes, "", "", namespace="other")
    assert asked == ["default", "other"]
    with pytest.raises(BadCommand) as refused:
        faults.check_search_attributes(run, attributes, "before ", " after", namespace="bad")
    assert refused.value.reason == message
    assert refused.value.cause == fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SEARCH_ATTRIBUTES


# ---- retry policies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "nanos", "fault"),
    [
        (0, 0, ""), (1, 1, ""), (1, -1, "duration has seconds and nanos with different signs"),
        (-1, 1, "duration has seconds and nanos with different signs"), (-1, 0, "negative duration"),
        (0, -1, "negative duration"), (-1, -1, "negative duration"),
    ],
)  # fmt: skip
def test_durations(seconds: int, nanos: int, fault: str) -> None:
    assert retry.duration_fault(Duration(seconds=seconds, nanos=nanos)) == fault


def test_long_durations_are_cut() -> None:
    for seconds, nanos, expected in (
        (MAX_DURATION_SECONDS - 1, 5, (MAX_DURATION_SECONDS - 1, 5)), (MAX_DURATION_SECONDS, 5, (MAX_DURATION_SECONDS, 0)),
        (MAX_DURATION_SECONDS + 1, 0, (MAX_DURATION_SECONDS, 0)),
    ):  # fmt: skip
        value = Duration(seconds=seconds, nanos=nanos)
        assert retry.duration_fault(value) == ""
        assert (value.seconds, value.nanos) == expected


POLICY: dict[str, Any] = {
    "initial_interval": {"seconds": 10}, "backoff_coefficient": 2, "maximum_interval": {"seconds": 100},
    "maximum_attempts": 5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, ""),
        ({"initial_interval": {"seconds": -1}}, "invalid InitialInterval set on retry policy: negative duration"),
        ({"initial_interval": {"seconds": -1}, "maximum_attempts": 1}, ""),
        ({"backoff_coefficient": 0.99}, "BackoffCoefficient cannot be less than 1 on retry policy."),
        ({"backoff_coefficient": 1}, ""),
        ({"maximum_interval": {"seconds": -1}}, "invalid MaximumInterval set on retry policy: negative duration"),
        ({"maximum_interval": {"seconds": 9}}, "MaximumInterval cannot be less than InitialInterval on retry policy."),
        ({"maximum_interval": {"seconds": 10}}, ""),
        ({"maximum_interval": {}}, ""),
        ({"maximum_attempts": -1}, "MaximumAttempts cannot be negative on retry policy."),
        ({"maximum_attempts": 0}, ""),
        ({"non_retryable_error_types": ["Other", "TemporalTimeout:Heartbeat"]}, ""),
        ({"non_retryable_error_types": ["TemporalTimeout:TIMEOUT_TYPE_START_TO_CLOSE"]}, ""),
        ({"non_retryable_error_types": ["TemporalTimeout:Nope"]}, "Invalid timeout type value: Nope."),
    ],
)
def test_policies(fields: dict[str, Any], fault: str) -> None:
    assert retry.fault(made(common_pb.RetryPolicy, **(POLICY | fields))) == fault


@pytest.mark.parametrize(
    ("failure", "types", "retryable"),
    [
        (None, [], True), ({}, [], True), ({"terminated_failure_info": {}}, [], False),
        ({"canceled_failure_info": {}}, [], False),
        ({"timeout_failure_info": {"timeout_type": wf.TIMEOUT_TYPE_START_TO_CLOSE}}, [], True),
        ({"timeout_failure_info": {"timeout_type": wf.TIMEOUT_TYPE_HEARTBEAT}}, [], True),
        ({"timeout_failure_info": {"timeout_type": wf.TIMEOUT_TYPE_HEARTBEAT}}, ["TemporalTimeout:Heartbeat"], False),
        ({"timeout_failure_info": {"timeout_type": wf.TIMEOUT_TYPE_HEARTBEAT}}, ["TemporalTimeout:StartToClose"], True),
        ({"timeout_failure_info": {"timeout_type": wf.TIMEOUT_TYPE_SCHEDULE_TO_START}}, [], False),
        ({"timeout_failure_info": {"timeout_type": wf.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE}}, [], False),
        ({"server_failure_info": {}}, [], True), ({"server_failure_info": {"non_retryable": True}}, [], False),
        ({"application_failure_info": {"type": "A"}}, ["B"], True),
        ({"application_failure_info": {"type": "A"}}, ["B", "A"], False),
        ({"application_failure_info": {"type": "A", "non_retryable": True}}, [], False),
        ({"child_workflow_execution_failure_info": {}}, [], True),
    ],
)  # fmt: skip
def test_failures_that_are_retried(failure: dict[str, Any] | None, types: list[str], retryable: bool) -> None:
    given = None if failure is None else made(failure_pb.Failure, **failure)
    assert retry.is_retryable(given, types) == retryable


@pytest.mark.parametrize(
    ("attempt", "now_s", "expiration_s", "fields", "delay_s", "lifts", "expected"),
    [
        (1, 0, 0, {}, None, True, (retry.IN_PROGRESS, 10)),
        (0, 0, 0, {}, None, True, (retry.IN_PROGRESS, 10)),
        (3, 0, 0, {}, None, True, (retry.IN_PROGRESS, 40)),
        (4, 0, 0, {"maximum_interval": {"seconds": 50}}, None, True, (retry.IN_PROGRESS, 50)),
        (4, 0, 0, {"maximum_interval": {"seconds": 80}}, None, True, (retry.IN_PROGRESS, 80)),
        (5, 0, 0, {}, None, True, (wf.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED, 0)),
        (50, 0, 0, {"maximum_attempts": 0}, None, True, (retry.IN_PROGRESS, 100)),
        (1, 5, 15, {}, None, True, (retry.IN_PROGRESS, 10)),
        (1, 6, 15, {}, None, True, (wf.RETRY_STATE_TIMEOUT, 0)),
        (1, 0, 0, {}, 7, True, (retry.IN_PROGRESS, 7)),
        (1, 0, 0, {}, 300, True, (retry.IN_PROGRESS, 300)),
        (1, 0, 0, {}, 300, False, (retry.IN_PROGRESS, 100)),
        (1, 0, 0, {}, 0, True, (wf.RETRY_STATE_TIMEOUT, 0)),
        (1, 0, 0, {}, 0, False, (retry.IN_PROGRESS, 100)),
        (1, 0, 0, {"initial_interval": {}, "maximum_interval": {}}, None, True, (wf.RETRY_STATE_TIMEOUT, 0)),
        (1, 0, 0, {"initial_interval": {}}, None, True, (retry.IN_PROGRESS, 100)),
        (1, 0, 0, {"maximum_interval": {}}, None, True, (retry.IN_PROGRESS, 10)),
    ],
)  # fmt: skip
def test_the_next_attempt(
    attempt: int, now_s: int, expiration_s: int, fields: dict[str, Any], delay_s: int | None, lifts: bool,
    expected: tuple[int, int],
) -> None:  # fmt: skip
    failure = failure_pb.Failure()
    failure.application_failure_info.SetInParent()
    if delay_s is not None:
        failure.application_failure_info.next_retry_delay.seconds = delay_s
        failure.application_failure_info.next_retry_delay.SetInParent()
    found = retry.next_attempt(
        made(common_pb.RetryPolicy, **(POLICY | fields)), attempt=attempt, now_ns=now_s * SECOND_NS,
        expiration_ns=expiration_s * SECOND_NS, failure=failure, delay_lifts_maximum=lifts,
    )  # fmt: skip
    assert found == retry.Next(expected[0], expected[1] * SECOND_NS)  # type: ignore[arg-type]


def test_intervals_that_overflow_are_the_longest() -> None:
    assert retry.exponential_ns(1, 2.0, 64) == retry.MAX_SPAN_NS
    assert retry.exponential_ns(1, 2.0, 63) == 2**62
    assert retry.exponential_ns(1, 10.0, 10_000) == retry.MAX_SPAN_NS
    assert retry.exponential_ns(-5, 1.0, 1) == 0
    assert retry.timeout_name(99) == "Unspecified"


# ---- commands in a row -----------------------------------------------------------------------------------------------


def _complete() -> command_pb.Command:
    return command_pb.Command(
        command_type=ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
        complete_workflow_execution_command_attributes=command_pb.CompleteWorkflowExecutionCommandAttributes(),
    )


def test_sequences_of_commands_that_make_no_sense() -> None:
    world = World()
    world.start()
    world.poll()
    for commands, message in (
        ([_complete(), start_timer()],
         ("invalid command sequence: [CompleteWorkflowExecution, StartTimer], "
          "command CompleteWorkflowExecution must be the last command.")),
        ([command_pb.Command(command_type=99)], "unknown command type: 99"),  # type: ignore[arg-type]
        ([start_timer(), command_pb.Command()], "unknown command type: Unspecified"),
    ):  # fmt: skip
        with pytest.raises(ServiceError) as refused:
            world.complete(*commands)
        assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, message)
    assert dispatch.command_name(ct.COMMAND_TYPE_START_TIMER) == "StartTimer"
    for closing in dispatch.CLOSING:
        with pytest.raises(ServiceError, match="must be the last command"):
            world.complete(command_pb.Command(command_type=closing), start_timer())


def test_user_metadata_of_a_command_stands_in_its_event() -> None:
    world = World()
    world.start()
    command = start_timer()
    command.user_metadata.summary.CopyFrom(payload("s"))
    world.turn(command, start_timer("u"))
    events = [event for event in world.events() if event.HasField("timer_started_event_attributes")]
    assert [event.HasField("user_metadata") for event in events] == [True, False]
    assert events[0].user_metadata.summary == payload("s")


def test_names_with_nul_fail_the_task_with_the_commands_cause() -> None:
    causes = {
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_START_TIMER_ATTRIBUTES: start_timer("a\0b"),
        fc.WORKFLOW_TASK_FAILED_CAUSE_BAD_SCHEDULE_ACTIVITY_ATTRIBUTES: schedule_activity("a\0b"),
    }
    for cause, command in causes.items():
        world = World()
        world.start()
        world.poll()
        outcome = world.complete(command)
        assert outcome.error is not None
        assert "must not contain U+0000: no store holds a name or an id with it" in outcome.error.message
        assert world.last("WorkflowTaskFailed").cause == cause
