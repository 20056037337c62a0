"""What describe calls and lists show of a run, field by field, from a state in which every field is set, and from an empty one."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import task_queue_pb2 as tq_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.core.command_builders import made, payload, payloads
from whistlestop.history.core import describe
from whistlestop.history.core.activity.describe import pending_activity
from whistlestop.history.core.state_pb2 import Activity, MutableState
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.transition.apply import BUFFERED_EVENT_ID
from whistlestop.history.core.transition.records import visibility_row
from whistlestop.history.core.workflow import describe as workflow_describe
from whistlestop.storage.records import ExecutionKey, VisibilityRow

EXECUTION_STARTED = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
SIGNALED = et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
UPDATED = et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
FULL: dict[str, Any] = {
    "namespace_id": "n-id", "workflow_id": "w", "run_id": "r", "workflow_type": "T", "task_queue": "q", "status": 4,
    "start_ns": 2 * SECOND_NS, "execution_start_ns": 3 * SECOND_NS, "close_ns": 9 * SECOND_NS, "next_event_id": 8,
    "history_size_bytes": 700, "state_transition_count": 6, "first_run_id": "f", "root_workflow_id": "rw",
    "root_run_id": "rr", "parent": {"namespace_id": "p-id", "workflow_id": "pw", "run_id": "pr"},
    "memo": {"note": payload("n")}, "search_attributes": {"City": payload("Bern")},
    "reset_points": {"points": [{"run_id": "p"}]}, "most_recent_worker_version_stamp": {"build_id": "b"},
    "priority": {"priority_key": 2}, "worker_deployment_name": "d", "assigned_build_id": "a",
    "inherited_build_id": "i", "external_payload_count": 4, "external_payload_size_bytes": 50,
    "execution_timeout_ns": 40 * SECOND_NS, "run_timeout_ns": 30 * SECOND_NS, "task_timeout_ns": 10 * SECOND_NS,
    "user_metadata": {"summary": payload("s")}, "execution_expiration_ns": 41 * SECOND_NS,
    "run_expiration_ns": 31 * SECOND_NS, "original_start_ns": SECOND_NS, "cancel_requested": True, "paused": True,
    "pause": {"identity": "me", "reason": "why", "paused_ns": 5 * SECOND_NS}, "reset_run_id": "next",
    "original_run_id": "o",
}  # fmt: skip


def at(seconds: int) -> Timestamp:
    return Timestamp(seconds=seconds)


def _info(**fields: Any) -> workflow_pb.WorkflowExecutionInfo:
    shown = workflow_pb.WorkflowExecutionInfo()
    workflow_describe.fill_info(shown, made(MutableState, **fields))
    return shown


def _extended(**fields: Any) -> workflow_pb.WorkflowExecutionExtendedInfo:
    shown = workflow_pb.WorkflowExecutionExtendedInfo()
    workflow_describe.fill_extended(shown, made(MutableState, **fields))
    return shown


def test_everything_that_a_run_has_is_shown() -> None:
    assert _info(**FULL) == made(
        workflow_pb.WorkflowExecutionInfo,
        execution={"workflow_id": "w", "run_id": "r"}, type={"name": "T"}, start_time=at(2), execution_time=at(3),
        close_time=at(9), execution_duration={"seconds": 6}, status=4, history_length=7, history_size_bytes=700,
        state_transition_count=6, task_queue="q", first_run_id="f",
        root_execution={"workflow_id": "rw", "run_id": "rr"}, parent_namespace_id="p-id",
        parent_execution={"workflow_id": "pw", "run_id": "pr"}, memo={"fields": {"note": payload("n")}},
        search_attributes={"indexed_fields": {"City": payload("Bern")}},
        auto_reset_points={"points": [{"run_id": "p"}]}, most_recent_worker_version_stamp={"build_id": "b"},
        priority={"priority_key": 2}, worker_deployment_name="d", assigned_build_id="a", inherited_build_id="i",
        external_payload_count=4, external_payload_size_bytes=50,
    )  # fmt: skip


def test_what_a_run_does_not_have_is_absent() -> None:
    assert _info(next_event_id=1) == made(
        workflow_pb.WorkflowExecutionInfo, execution={}, type={}, start_time=at(0), execution_time=at(0),
        root_execution={}, memo={}, search_attributes={}, auto_reset_points={},
    )  # fmt: skip


def test_a_run_that_closed_before_its_first_task_took_no_time() -> None:
    assert _info(close_ns=1, execution_start_ns=2).execution_duration.ToNanoseconds() == 0


def test_the_configuration_of_a_run() -> None:
    config = workflow_pb.WorkflowExecutionConfig()
    workflow_describe.fill_config(config, made(MutableState, **FULL))
    queue = {"name": "q", "kind": tq_enums.TASK_QUEUE_KIND_NORMAL}
    assert config == made(
        workflow_pb.WorkflowExecutionConfig, task_queue=queue, workflow_execution_timeout={"seconds": 40},
        workflow_run_timeout={"seconds": 30}, default_workflow_task_timeout={"seconds": 10},
        user_metadata={"summary": payload("s")},
    )  # fmt: skip
    bare = workflow_pb.WorkflowExecutionConfig()
    workflow_describe.fill_config(bare, MutableState(task_queue="q"))
    assert bare == made(workflow_pb.WorkflowExecutionConfig, task_queue=queue, default_workflow_task_timeout={})


def test_the_extended_information() -> None:
    requests = {
        "start": {"event_type": EXECUTION_STARTED, "event_id": 1},
        "signal": {"event_type": SIGNALED, "event_id": 5},
        "buffered": {"event_type": UPDATED, "event_id": BUFFERED_EVENT_ID},
    }
    state = made(MutableState, **FULL)
    for name, fields in requests.items():
        state.request_ids[name].event_type = fields["event_type"]
        state.request_ids[name].event_id = fields["event_id"]
    state.signal_request_ids.append("start")
    shown = workflow_pb.WorkflowExecutionExtendedInfo()
    workflow_describe.fill_extended(shown, state)
    expected = made(
        workflow_pb.WorkflowExecutionExtendedInfo, execution_expiration_time=at(41), run_expiration_time=at(31),
        original_start_time=at(1), cancel_requested=True,
        pause_info={"identity": "me", "reason": "why", "paused_time": at(5)}, reset_run_id="next", last_reset_time=at(2),
        request_id_infos={
            "start": made(workflow_pb.RequestIdInfo, event_type=EXECUTION_STARTED, event_id=1),
            "buffered": made(workflow_pb.RequestIdInfo, event_type=UPDATED, buffered=True),
        },
    )  # fmt: skip
    assert shown == expected
    workflow_describe.add_signals(shown, state)
    # The request that started the run signalled it, too: by its second event.
    for name, event_id in (("start", 2), ("signal", 5)):
        expected.request_id_infos[name].event_type = SIGNALED
        expected.request_id_infos[name].event_id = event_id
    assert shown == expected
    del state.signal_request_ids[:]
    again = workflow_pb.WorkflowExecutionExtendedInfo()
    workflow_describe.add_signals(again, state)
    assert set(again.request_id_infos) == {"signal"}


def test_a_run_without_deadlines_has_the_first_instant_of_year_one() -> None:
    shown = _extended(start_ns=SECOND_NS, run_id="r", original_run_id="r")
    assert shown.run_expiration_time.ToJsonString() == "0001-01-01T00:00:00Z"
    assert shown.original_start_time == at(1)
    for field in ("execution_expiration_time", "pause_info", "last_reset_time"):
        assert not shown.HasField(field)
    assert not _extended(start_ns=SECOND_NS).HasField("last_reset_time")


OLD_FORMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"deployment_version": {"deployment_name": "d", "build_id": "1"}},
     {"deployment_version": {"deployment_name": "d", "build_id": "1"}, "version": "d.1"}),
    ({"version_transition": {"deployment_version": {"deployment_name": "d", "build_id": "1"}}},
     {"version_transition": {"deployment_version": {"deployment_name": "d", "build_id": "1"}, "version": "d.1"}}),
    ({"version_transition": {}}, {"version_transition": {"version": "__unversioned__"}}),
    ({"versioning_override": {"auto_upgrade": True}},
     {"versioning_override": {"auto_upgrade": True, "behavior": wf.VERSIONING_BEHAVIOR_AUTO_UPGRADE}}),
    ({"versioning_override": {"pinned": {"version": {"deployment_name": "d", "build_id": "1"}}}},
     {"versioning_override": {
         "pinned": {"version": {"deployment_name": "d", "build_id": "1"}}, "pinned_version": "d.1",
         "behavior": wf.VERSIONING_BEHAVIOR_PINNED}}),
]  # fmt: skip


@pytest.mark.parametrize(("info", "expected"), OLD_FORMS)
def test_versions_are_shown_in_the_older_forms_too(info: dict[str, Any], expected: dict[str, Any]) -> None:
    shown = _info(next_event_id=1, versioning_info=info)
    assert shown.versioning_info == made(workflow_pb.WorkflowExecutionVersioningInfo, **expected)
    assert shown.HasField("versioning_info")
    initial = _info(next_event_id=1, versioning_info=info, initial_versioning_behavior=2).versioning_info
    assert initial.continue_as_new_initial_versioning_behavior == 2


# ---- what is pending -------------------------------------------------------------------------------------------------

ACTIVITY: dict[str, Any] = {
    "activity_id": "a", "activity_type": "charge", "attempt": 3, "task_queue": "q", "scheduled_ns": 4 * SECOND_NS,
    "first_scheduled_ns": SECOND_NS, "schedule_to_close_timeout_ns": 60 * SECOND_NS,
    "schedule_to_start_timeout_ns": 50 * SECOND_NS, "start_to_close_timeout_ns": 40 * SECOND_NS,
    "heartbeat_timeout_ns": 30 * SECOND_NS, "has_retry_policy": True,
    "retry_policy": {
        "initial_interval": {"seconds": 1}, "maximum_interval": {"seconds": 100}, "backoff_coefficient": 2,
        "maximum_attempts": 5, "non_retryable_error_types": ["Fatal"],
    },
    "priority": {"priority_key": 2}, "last_deployment_version": {"deployment_name": "d", "build_id": "1"},
    "last_failure": {"message": "broken"}, "last_attempt_complete_ns": 5 * SECOND_NS, "last_worker_identity": "before",
    "last_build_id": "b",
}  # fmt: skip
SHOWN: dict[str, Any] = {
    "activity_id": "a", "activity_type": {"name": "charge"}, "attempt": 3,
    "state": wf.PENDING_ACTIVITY_STATE_SCHEDULED, "scheduled_time": at(4), "expiration_time": at(61),
    "maximum_attempts": 5, "last_failure": {"message": "broken"}, "last_attempt_complete_time": at(5),
    "last_worker_identity": "before", "last_independently_assigned_build_id": "b", "priority": {"priority_key": 2},
    "last_deployment_version": {"deployment_name": "d", "build_id": "1"},
    "activity_options": {
        "task_queue": {"name": "q", "normal_name": "q"}, "schedule_to_close_timeout": {"seconds": 60},
        "schedule_to_start_timeout": {"seconds": 50}, "start_to_close_timeout": {"seconds": 40},
        "heartbeat_timeout": {"seconds": 30}, "priority": {"priority_key": 2},
        "retry_policy": {
            "initial_interval": {"seconds": 1}, "maximum_interval": {"seconds": 100}, "backoff_coefficient": 2,
            "maximum_attempts": 5,
        },
    },
}  # fmt: skip
BACKS_OFF = {"scheduled_time": at(9), "next_attempt_schedule_time": at(9), "current_retry_interval": {"seconds": 4}}
PAUSE: dict[str, Any] = {"paused": True, "paused_ns": 6 * SECOND_NS, "pause_identity": "me", "pause_reason": "why"}
PAUSE_SHOWN = {"pause_time": at(6), "manual": {"identity": "me", "reason": "why"}}


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, {}),
        ({"next_attempt_ns": 9 * SECOND_NS}, BACKS_OFF),
        ({"next_attempt_ns": 8 * SECOND_NS}, {"scheduled_time": at(8)}),  # it is now
        ({"started_ns": 7 * SECOND_NS, "started_identity": "worker"},
         {"state": wf.PENDING_ACTIVITY_STATE_STARTED, "last_started_time": at(7), "last_worker_identity": "worker"}),
        ({"started_ns": 7 * SECOND_NS, "last_heartbeat_ns": 8 * SECOND_NS, "heartbeat_details": payloads("x")},
         {"state": wf.PENDING_ACTIVITY_STATE_STARTED, "last_started_time": at(7), "last_heartbeat_time": at(8),
          "heartbeat_details": payloads("x")}),
        ({"cancel_requested": True}, {"state": wf.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED}),
        (PAUSE, {"state": wf.PENDING_ACTIVITY_STATE_PAUSED, "paused": True, "pause_info": PAUSE_SHOWN}),
        ({**PAUSE, "started_ns": 7 * SECOND_NS},
         {"state": wf.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED, "paused": True, "pause_info": PAUSE_SHOWN,
          "last_started_time": at(7)}),
        ({**PAUSE, "cancel_requested": True},
         {"state": wf.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED, "paused": True, "pause_info": PAUSE_SHOWN}),
        ({**PAUSE, "pause_rule": "rule"},
         {"state": wf.PENDING_ACTIVITY_STATE_PAUSED, "paused": True,
          "pause_info": {"pause_time": at(6), "rule": {"rule_id": "rule"}}}),
        ({"follows_assigned_build_id": True}, {"use_workflow_build_id": {}, "last_independently_assigned_build_id": ""}),
        ({"attempt": 0}, {"attempt": 1}),
        ({"has_retry_policy": False},
         {"attempt": 1, "maximum_attempts": 0, "expiration_time": None, "last_failure": None,
          "last_worker_identity": ""}),
    ],
)  # fmt: skip
def test_a_pending_activity(fields: dict[str, Any], shown: dict[str, Any]) -> None:
    expected = made(workflow_pb.PendingActivityInfo, **(SHOWN | shown))
    assert pending_activity(made(Activity, **(ACTIVITY | fields)), now_ns=8 * SECOND_NS) == expected


def test_a_bare_pending_activity() -> None:
    shown = pending_activity(Activity(), now_ns=0)
    assert shown == made(
        workflow_pb.PendingActivityInfo, activity_type={}, attempt=1, state=wf.PENDING_ACTIVITY_STATE_SCHEDULED,
        scheduled_time=at(0),
        activity_options={
            "task_queue": {}, "schedule_to_close_timeout": {}, "schedule_to_start_timeout": {},
            "start_to_close_timeout": {}, "heartbeat_timeout": {},
            "retry_policy": {"initial_interval": {}, "maximum_interval": {}},
        },
    )  # fmt: skip


def test_the_whole_answer() -> None:
    state = made(
        MutableState, next_event_id=1,
        time_skipping={
            "skipped_ns": 5 * SECOND_NS, "config": {"enabled": True, "fast_forward_config": {"id": "ff"}},
            "fast_forward_target_ns": 30 * SECOND_NS,
        },
        workflow_task={
            "scheduled_event_id": 2, "started_event_id": 3, "scheduled_ns": 4 * SECOND_NS, "started_ns": 6 * SECOND_NS,
            "original_scheduled_ns": 3 * SECOND_NS, "attempt": 2,
        },
    )  # fmt: skip
    state.request_ids["s"].event_type = SIGNALED
    for event_id in (7, 5):
        state.activities[event_id].activity_id = f"a{event_id}"
        state.nexus_operations[event_id].scheduled_event_id = event_id
        child = state.children[event_id]
        child.initiated_event_id, child.workflow_id, child.run_id, child.workflow_type = event_id, "c", "r", "T"
        child.parent_close_policy = 2
    state.completion_callbacks.add().nexus.url = "http://there"
    shown = describe.workflow(state, now_ns=20 * SECOND_NS)
    assert [each.activity_id for each in shown.pending_activities] == ["a5", "a7"]
    assert [each.scheduled_event_id for each in shown.pending_nexus_operations] == [5, 7]
    assert list(shown.pending_children) == [
        made(workflow_pb.PendingChildExecutionInfo, workflow_id="c", run_id="r", workflow_type_name="T",
             initiated_id=event_id, parent_close_policy=2)
        for event_id in (5, 7)
    ]  # fmt: skip
    assert shown.pending_workflow_task == made(
        workflow_pb.PendingWorkflowTaskInfo, state=wf.PENDING_WORKFLOW_TASK_STATE_STARTED, scheduled_time=at(4),
        original_scheduled_time=at(3), started_time=at(6), attempt=2,
    )  # fmt: skip
    assert [each.callback.nexus.url for each in shown.callbacks] == ["http://there"]
    skips = shown.workflow_extended_info.time_skipping_info
    assert skips.current_time == at(25)
    assert skips.effective_config == state.time_skipping.config
    assert "s" not in shown.workflow_extended_info.request_id_infos
    assert "s" in describe.workflow(
        state, now_ns=0, signal_backlinks=True
    ).workflow_extended_info.request_id_infos  # fmt: skip
    state.workflow_task.started_event_id = state.workflow_task.original_scheduled_ns = 0
    assert describe.workflow(state, now_ns=0).pending_workflow_task == made(
        workflow_pb.PendingWorkflowTaskInfo, state=wf.PENDING_WORKFLOW_TASK_STATE_SCHEDULED, scheduled_time=at(4),
        original_scheduled_time=at(4), attempt=2,
    )  # fmt: skip
    bare = describe.workflow(MutableState(next_event_id=1), now_ns=0)
    assert not bare.HasField("pending_workflow_task")
    assert not bare.workflow_extended_info.HasField("time_skipping_info")
    assert isinstance(bare, service_pb.DescribeWorkflowExecutionResponse)


# ---- lists -----------------------------------------------------------------------------------------------------------


def test_the_row_of_a_closed_run() -> None:
    state = made(MutableState, **FULL)
    row = visibility_row(state, {})
    assert row == VisibilityRow(
        key=ExecutionKey("n-id", "w", "r"), workflow_type="T", task_queue="q", status=4, start_time_us=2_000_000,
        execution_time_us=3_000_000, close_time_us=9_000_000, execution_duration_ns=6 * SECOND_NS, history_length=7,
        history_size_bytes=700, state_transition_count=6, parent_workflow_id="pw", parent_run_id="pr",
        root_workflow_id="rw", root_run_id="rr", search_attributes=row.search_attributes,
        memo=common_pb.Memo(fields={"note": payload("n")}).SerializeToString(),
    )  # fmt: skip
    assert '"TemporalExternalPayloadCount":4' in row.search_attributes.replace(" ", "")
    assert '"TemporalExternalPayloadSizeBytes":50' in row.search_attributes.replace(" ", "")
    assert "City" in row.search_attributes
    state.close_ns = 1
    assert visibility_row(state, {}).execution_duration_ns == 0


def test_the_row_of_an_open_run() -> None:
    state = made(MutableState, **(FULL | {"close_ns": 0}))
    for field in ("parent", "root_workflow_id", "root_run_id", "memo"):
        state.ClearField(field)
    row = visibility_row(state, {})
    assert row == VisibilityRow(
        key=ExecutionKey("n-id", "w", "r"), workflow_type="T", task_queue="q", status=4, start_time_us=2_000_000,
        execution_time_us=3_000_000, close_time_us=None, execution_duration_ns=None, history_length=0,
        history_size_bytes=0, state_transition_count=0, parent_workflow_id=None, parent_run_id=None,
        root_workflow_id="w", root_run_id="r", search_attributes=row.search_attributes, memo=b"",
    )  # fmt: skip
    assert "External" not in row.search_attributes
    state.ClearField("search_attributes")
    assert visibility_row(state, {}).search_attributes == "{}"
