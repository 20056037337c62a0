"""What each event makes of the state, field by field: a state that is rebuilt is compared with one by the same appliers."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import workflow_pb2 as wf
from temporalio.api.history.v1 import message_pb2 as history_pb

from tests.core.command_builders import made, payload
from whistlestop.history.core import appliers as _appliers  # noqa: F401 - registers the appliers of events
from whistlestop.history.core.external.state import derived_uuid
from whistlestop.history.core.state_pb2 import MutableState, TimeSkipping
from whistlestop.history.core.times import (
    LAST_SKIPPED_TO_NS,
    MAX_DURATION_SECONDS,
    SECOND_NS,
    duration_ns,
    set_duration,
    set_timestamp,
    timestamp_ns,
)
from whistlestop.history.core.timeskip import state as time_skipping
from whistlestop.history.core.transition.apply import FIRST_TASK_ID, apply_event
from whistlestop.history.core.workflow_task import short_timers
from whistlestop.history.core.workflow_task.state import clear_workflow_task

NOW_S = 100
CALLBACK = made(common_pb.Callback, nexus={"url": "http://there"})


def event(kind: str, event_id: int = 5, task_id: int = 0, **fields: Any) -> history_pb.HistoryEvent:
    return made(
        history_pb.HistoryEvent, event_type=et.EventType.Value(f"EVENT_TYPE_{kind.upper()}"), event_id=event_id,
        event_time={"seconds": NOW_S}, task_id=task_id, **{f"{kind}_event_attributes": fields},
    )  # fmt: skip


def applied(state: MutableState | dict[str, Any] | None, kind: str, batch_id: Any = 4, **fields: Any) -> MutableState:
    result = MutableState()
    result.CopyFrom(state if isinstance(state, MutableState) else made(MutableState, **(state or {})))
    apply_event(result, event(kind, **fields), batch_id)
    return result


def ns(seconds: float) -> int:
    return round(seconds * SECOND_NS)


# ---- the run ---------------------------------------------------------------------------------------------------------

STARTED: dict[str, Any] = {
    "workflow_type": {"name": "T"}, "task_queue": {"name": "q"}, "first_execution_run_id": "f",
    "original_execution_run_id": "o", "continued_execution_run_id": "c", "workflow_run_timeout": {"seconds": 30},
    "workflow_execution_timeout": {"seconds": 40}, "workflow_task_timeout": {"seconds": 10}, "attempt": 2,
    "cron_schedule": "* * * * *", "first_workflow_task_backoff": {"seconds": 3},
    "workflow_execution_expiration_time": {"seconds": 140}, "retry_policy": {"maximum_attempts": 5},
    "priority": {"priority_key": 2}, "parent_workflow_namespace": "pn", "parent_workflow_namespace_id": "pid",
    "parent_workflow_execution": {"workflow_id": "pw", "run_id": "pr"}, "parent_initiated_event_id": 8,
    "root_workflow_execution": {"workflow_id": "rw", "run_id": "rr"}, "memo": {"fields": {"note": payload("n")}},
    "search_attributes": {"indexed_fields": {"City": payload("Bern")}},
    "prev_auto_reset_points": {"points": [{"run_id": "p"}]}, "completion_callbacks": [CALLBACK],
}  # fmt: skip


def test_a_run_is_what_its_first_event_says() -> None:
    state = applied(
        {"workflow_id": "w", "run_id": "r"},
        "workflow_execution_started",
        event_id=1,
        task_id=FIRST_TASK_ID + 21,
        **STARTED,
    )
    assert state == made(
        MutableState, workflow_id="w", run_id="r", task_id_offset=20, workflow_type="T", task_queue="q",
        first_run_id="f", original_run_id="o", continued_run_id="c", run_timeout_ns=ns(30), execution_timeout_ns=ns(40),
        task_timeout_ns=ns(10), attempt=2, cron_schedule="* * * * *", original_start_ns=ns(100), start_ns=ns(100),
        execution_start_ns=ns(103), run_expiration_ns=ns(133), execution_expiration_ns=ns(140),
        retry_policy={"maximum_attempts": 5}, priority={"priority_key": 2},
        parent={
            "namespace": "pn", "namespace_id": "pid", "workflow_id": "pw", "run_id": "pr", "initiated_event_id": 8,
        },
        root_workflow_id="rw", root_run_id="rr", memo={"note": payload("n")},
        search_attributes={"City": payload("Bern")}, reset_points={"points": [{"run_id": "p"}]},
        completion_callbacks=[CALLBACK], callback_infos=[{"registered_ns": ns(100)}], status=1,
        workflow_task={"attempt": 1},
    )  # fmt: skip


def test_a_run_of_which_little_is_said() -> None:
    state = applied({"workflow_id": "w", "run_id": "r"}, "workflow_execution_started", event_id=1)
    assert state == made(
        MutableState, workflow_id="w", run_id="r", root_workflow_id="w", root_run_id="r", original_start_ns=ns(100),
        start_ns=ns(100), execution_start_ns=ns(100), status=1, workflow_task={"attempt": 1},
    )  # fmt: skip
    later = applied({"start_ns": ns(500)}, "workflow_execution_started", event_id=1)
    assert (later.original_start_ns, later.start_ns, later.execution_start_ns) == (ns(100), ns(500), ns(500))
    short: dict[str, Any] = {**STARTED, "workflow_execution_expiration_time": {"seconds": 120}}
    assert applied(None, "workflow_execution_started", event_id=1, **short).run_expiration_ns == ns(120)


def test_user_metadata_of_the_first_event() -> None:
    first = event("workflow_execution_started", 1)
    first.user_metadata.summary.CopyFrom(payload("s"))
    state = MutableState()
    apply_event(state, first, 1)
    assert state.user_metadata.summary == payload("s")


@pytest.mark.parametrize(
    ("end", "names_next"),
    [
        ("completed", True), ("failed", True), ("timed_out", True), ("terminated", False), ("canceled", False),
        ("continued_as_new", True),
    ],
)  # fmt: skip
def test_a_run_that_is_closed(end: str, names_next: bool) -> None:
    fields: dict[str, Any] = {"new_execution_run_id": "next"} if names_next else {}
    state = applied({"status": 1, "sticky_task_queue": "sticky"}, f"workflow_execution_{end}", **fields)
    assert state == MutableState(
        status=wf.WorkflowExecutionStatus.Value(f"WORKFLOW_EXECUTION_STATUS_{end.upper()}"), close_ns=ns(100),
        close_event_batch_id=4, new_run_id="next" if names_next else "",
    )  # fmt: skip


def test_a_run_that_is_paused_and_resumed() -> None:
    fields: dict[str, Any] = {"identity": "me", "reason": "why", "request_id": "p"}
    state = applied({"status": 1}, "workflow_execution_paused", **fields)
    pause: dict[str, Any] = {"paused_ns": ns(100), **fields}
    assert state == made(MutableState, status=wf.WORKFLOW_EXECUTION_STATUS_PAUSED, paused=True, pause=pause)
    resumed = applied(state, "workflow_execution_unpaused", request_id="u")
    assert resumed == MutableState(status=1, unpause_request_id="u")


def test_small_changes_of_a_run() -> None:
    assert applied(None, "workflow_execution_cancel_requested") == MutableState(cancel_requested=True)
    before: dict[str, Any] = {"memo": {"a": payload("1"), "b": payload("2")}, "search_attributes": {"A": payload("1")}}
    null = common_pb.Payload(metadata={"encoding": b"binary/null"}, data=b"x")
    changed = applied(before, "workflow_properties_modified", upserted_memo={"fields": {"a": null, "c": payload("3")}})
    assert dict(changed.memo) == {"b": payload("2"), "c": payload("3")}
    for empty in (common_pb.Payload(), made(common_pb.Payload, metadata={"encoding": b"json/plain"}, data=b"null"),
                  made(common_pb.Payload, metadata={"encoding": b"json/plain"}, data=b"[]")):  # fmt: skip
        gone = applied(before, "upsert_workflow_search_attributes", search_attributes={"indexed_fields": {"A": empty}})
        assert not gone.search_attributes
    kept = applied(before, "upsert_workflow_search_attributes", search_attributes={"indexed_fields": {
        "A": made(common_pb.Payload, data=b"[]")
    }})  # fmt: skip
    assert kept.search_attributes["A"].data == b"[]"


def test_options_that_are_changed() -> None:
    pinned: dict[str, Any] = {"pinned": {"behavior": 1, "version": {"deployment_name": "d", "build_id": "1"}}}
    update: dict[str, Any] = {"update_id": "u", "attached_request_id": "q", "attached_completion_callbacks": [CALLBACK]}
    state = applied(
        None, "workflow_execution_options_updated", attached_request_id="r", attached_completion_callbacks=[CALLBACK],
        workflow_update_options=[update], versioning_override=pinned, priority={"priority_key": 4},
    )  # fmt: skip
    kind = et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED
    assert dict(state.request_ids) == {"r": made(type(state.request_ids["r"]), event_type=kind, event_id=5)}
    assert list(state.completion_callbacks) == [CALLBACK, CALLBACK]
    assert [(info.registered_ns, info.request_id, info.update_id, info.event_type) for info in state.callback_infos] == [
        (ns(100), "r", "", 0), (ns(100), "q", "u", kind),
    ]  # fmt: skip
    assert state.priority.priority_key == 4
    assert state.versioning_info.versioning_override.pinned.version.build_id == "1"
    assert b"d:1" in state.search_attributes["TemporalWorkerDeploymentVersion"].data
    cleared = applied(state, "workflow_execution_options_updated", unset_versioning_override=True)
    assert not cleared.versioning_info.HasField("versioning_override")
    assert "TemporalWorkerDeploymentVersion" not in cleared.search_attributes
    assert applied(None, "workflow_execution_options_updated", unset_versioning_override=True) == MutableState()


# ---- workflow tasks --------------------------------------------------------------------------------------------------


def test_a_workflow_task_that_is_scheduled_and_started() -> None:
    before: dict[str, Any] = {
        "first_workflow_task_backoff_until_ns": 7,
        "workflow_task": {"started_event_id": 3, "started_event_written": True, "started_ns": 9, "stamp": 2},
    }
    state = applied(
        before, "workflow_task_scheduled", attempt=3, start_to_close_timeout={"seconds": 10}, task_queue={"name": "q"}
    )
    scheduled: dict[str, Any] = {
        "scheduled_event_id": 5, "attempt": 3, "timeout_ns": ns(10), "scheduled_ns": ns(100), "task_queue": "q",
        "write_events": True, "stamp": 2,
    }  # fmt: skip
    assert state == made(MutableState, workflow_task=scheduled)
    state.workflow_task.suggest_continue_as_new_reasons.append(1)
    started = applied(
        state, "workflow_task_started", event_id=6, request_id="r", identity="me", suggest_continue_as_new=True,
        suggest_continue_as_new_reasons=[2], history_size_bytes=70,
        worker_version={"build_id": "b", "use_versioning": True}, build_id_redirect_counter=2,
    )  # fmt: skip
    assert started.workflow_task == made(
        type(state.workflow_task), **scheduled, started_event_id=6, request_id="r", started_ns=ns(100), identity="me",
        suggest_continue_as_new=True, suggest_continue_as_new_reasons=[2], history_size_bytes=70,
        started_event_written=True, build_id="b", build_id_redirect_counter=2,
    )  # fmt: skip
    assert (started.assigned_build_id, started.build_id_redirect_counter) == ("b", 2)


PENDING = {
    "scheduled_event_id": 5, "started_event_id": 6, "attempt": 3, "attempts_since_last_success": 2, "stamp": 4,
    "original_scheduled_ns": 8, "build_id": "b", "timeout_ns": 9,
}  # fmt: skip


def test_a_task_that_is_cleared_keeps_its_stamp() -> None:
    for attempt, build_id in ((1, ""), (2, "b")):
        state = made(MutableState, workflow_task=PENDING, workflow_close_attempted=True)
        clear_workflow_task(state, attempt=attempt, attempts_since_last_success=7)
        assert state == made(MutableState, workflow_task={
            "stamp": 4, "original_scheduled_ns": 8, "attempt": attempt, "attempts_since_last_success": 7,
            "build_id": build_id,
        })  # fmt: skip


def test_a_workflow_task_that_is_completed() -> None:
    before: dict[str, Any] = {
        "workflow_task": PENDING,
        "last_workflow_task_failure": "x",
        "last_workflow_task_failure_cause": 3,
        "most_recent_worker_version_stamp": {"build_id": "old"},
    }
    state = applied(before, "workflow_task_completed", started_event_id=6, worker_deployment_name="d")
    assert state.last_completed_started_event_id == 6
    assert state.worker_deployment_name == "d"
    assert not state.HasField("most_recent_worker_version_stamp")
    assert (state.last_workflow_task_failure, state.last_workflow_task_failure_cause) == ("", 0)
    assert (state.workflow_task.attempt, state.workflow_task.attempts_since_last_success) == (1, 0)
    assert state.workflow_task.scheduled_event_id == 0
    [point] = state.reset_points.points
    assert (point.first_workflow_task_completed_id, point.create_time.seconds, point.resettable) == (5, 100, True)
    assert state.search_attributes["BuildIds"].data == b'["unversioned"]'
    versioned = applied(
        before, "workflow_task_completed", versioning_behavior=1, deployment_version={"build_id": "1"},
        binary_checksum="sum",
    )  # fmt: skip
    assert versioned.versioning_info.behavior == 1
    assert [(each.build_id, each.binary_checksum) for each in versioned.reset_points.points] == [("1", "sum")]
    assert versioned.search_attributes["BinaryChecksums"].data == b'["sum"]'
    with_child = MutableState()
    with_child.children[3].SetInParent()
    assert not applied(with_child, "workflow_task_completed").reset_points.points[0].resettable
    stamp: dict[str, Any] = {"build_id": "b", "use_versioning": True}
    assert applied(before, "workflow_task_completed", worker_version=stamp).most_recent_worker_version_stamp == made(
        common_pb.WorkerVersionStamp, **stamp
    )


@pytest.mark.parametrize("sticky", ["", "sticky"])
@pytest.mark.parametrize(
    ("kind", "fields", "counts", "failure", "attempt"),
    [
        ("failed", {"cause": fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND}, True,
         ("", fc.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND), 4),
        ("failed", {"cause": fc.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW}, True,
         ("", fc.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW), 1),
        ("timed_out", {"timeout_type": wf.TIMEOUT_TYPE_START_TO_CLOSE}, True, ("StartToClose", 0), 4),
        ("timed_out", {"timeout_type": wf.TIMEOUT_TYPE_SCHEDULE_TO_START}, False, ("before", 9), 1),
    ],
)  # fmt: skip
def test_a_workflow_task_that_fails(
    kind: str, fields: dict[str, Any], counts: bool, failure: tuple[str, int], attempt: int, sticky: str
) -> None:
    state = applied(
        {"workflow_task": PENDING, "sticky_task_queue": sticky, "last_workflow_task_failure": "before",
         "last_workflow_task_failure_cause": 9},
        f"workflow_task_{kind}", **fields,
    )  # fmt: skip
    assert state.sticky_task_queue == ""
    assert (state.last_workflow_task_failure, state.last_workflow_task_failure_cause) == failure
    assert state.workflow_task.attempt == (1 if sticky else attempt)
    assert state.workflow_task.attempts_since_last_success == (3 if counts and not sticky else 2)


# ---- activities, timers ----------------------------------------------------------------------------------------------


def test_an_activity_that_is_scheduled() -> None:
    fields: dict[str, Any] = {
        "activity_id": "a", "activity_type": {"name": "charge"}, "task_queue": {"name": "q"},
        "schedule_to_close_timeout": {"seconds": 60}, "schedule_to_start_timeout": {"seconds": 50},
        "start_to_close_timeout": {"seconds": 40}, "heartbeat_timeout": {"seconds": 30},
        "retry_policy": {"maximum_attempts": 5}, "priority": {"priority_key": 2}, "use_workflow_build_id": True,
    }  # fmt: skip
    expected: dict[str, Any] = {
        "scheduled_event_id": 5, "scheduled_event_batch_id": 4, "activity_id": "a", "activity_type": "charge",
        "task_queue": "q", "schedule_to_close_timeout_ns": ns(60), "schedule_to_start_timeout_ns": ns(50),
        "start_to_close_timeout_ns": ns(40), "heartbeat_timeout_ns": ns(30), "retry_policy": {"maximum_attempts": 5},
        "has_retry_policy": True, "priority": {"priority_key": 2}, "use_workflow_build_id": True,
        "first_scheduled_ns": ns(100), "scheduled_ns": ns(100), "attempt": 1,
    }  # fmt: skip
    state = applied(None, "activity_task_scheduled", **fields)
    assert state.activities[5] == made(type(state.activities[5]), **expected)
    assigned = applied({"assigned_build_id": "b"}, "activity_task_scheduled", **fields)
    assert assigned.activities[5].follows_assigned_build_id
    bare = applied({"assigned_build_id": "b"}, "activity_task_scheduled").activities[5]
    assert bare == made(
        type(bare),
        scheduled_event_id=5,
        scheduled_event_batch_id=4,
        first_scheduled_ns=ns(100),
        scheduled_ns=ns(100),
        attempt=1,
    )


def test_an_activity_that_is_started_and_cancelled() -> None:
    before = MutableState(assigned_build_id="a")
    before.activities[5].follows_assigned_build_id = True
    stamp: dict[str, Any] = {"build_id": "b", "use_versioning": True}
    fields: dict[str, Any] = {
        "scheduled_event_id": 5,
        "attempt": 3,
        "worker_version": stamp,
        "build_id_redirect_counter": 1,
    }
    state = applied(before, "activity_task_started", event_id=7, **fields)
    activity = state.activities[5]
    assert (activity.started_event_id, activity.started_ns, activity.attempt) == (7, ns(100), 3)
    assert (state.assigned_build_id, state.build_id_redirect_counter) == ("b", 1)
    before.activities[5].started_ns = 9
    before.activities[5].follows_assigned_build_id = False
    state = applied(before, "activity_task_started", event_id=7, **fields)
    assert (state.activities[5].started_ns, state.assigned_build_id) == (9, "a")
    state = applied(state, "activity_task_cancel_requested", event_id=8, scheduled_event_id=5)
    assert (state.activities[5].cancel_requested, state.activities[5].cancel_request_event_id) == (True, 8)
    assert applied(None, "activity_task_cancel_requested", scheduled_event_id=5) == MutableState()


MAPS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "activities": ("scheduled_event_id", "activity_task", ("completed", "failed", "timed_out", "canceled")),
    "nexus_operations": ("scheduled_event_id", "nexus_operation", ("completed", "failed", "timed_out", "canceled")),
    "children": (
        "initiated_event_id", "child_workflow_execution", ("completed", "failed", "timed_out", "canceled", "terminated")
    ),
}  # fmt: skip
OVER = [
    *((name, field, f"{prefix}_{end}") for name, (field, prefix, ends) in MAPS.items() for end in ends),
    ("children", "initiated_event_id", "start_child_workflow_execution_failed"),
    ("external_signals", "initiated_event_id", "external_workflow_execution_signaled"),
    ("external_signals", "initiated_event_id", "signal_external_workflow_execution_failed"),
    ("external_cancels", "initiated_event_id", "external_workflow_execution_cancel_requested"),
    ("external_cancels", "initiated_event_id", "request_cancel_external_workflow_execution_failed"),
]


@pytest.mark.parametrize(("name", "field", "kind"), OVER)
def test_what_is_over_is_pending_no_more(name: str, field: str, kind: str) -> None:
    state = MutableState()
    for event_id in (3, 4):
        getattr(state, name)[event_id].SetInParent()
    over = applied(state, kind, **{field: 3})
    assert list(getattr(over, name)) == [4]
    assert applied(over, kind, **{field: 3}) == over


def test_a_timer() -> None:
    for batch_id, fire_s, waits in ((4, 0.5, True), (4, 0.9, False), (0, 0.5, False)):
        duration = {"nanos": ns(fire_s)}
        state = applied(None, "timer_started", batch_id, timer_id="t", start_to_fire_timeout=duration)
        assert state.timers["t"] == type(state.timers["t"])(
            timer_id="t", started_event_id=5, fire_ns=ns(100 + fire_s),
            started_event_batch_id=batch_id if waits else 0,
            waits_until_ns=ns(100) + short_timers.MOST_WAIT_NS if waits else 0,
        )  # fmt: skip
    for kind in ("timer_fired", "timer_canceled"):
        assert applied(state, kind, timer_id="t", started_event_id=4).timers
        assert applied(state, kind, timer_id="u", started_event_id=5).timers
        assert not applied(state, kind, timer_id="t", started_event_id=5).timers


# ---- other executions ------------------------------------------------------------------------------------------------


def test_a_child() -> None:
    state = applied(
        {"run_id": "r"}, "start_child_workflow_execution_initiated", namespace="n", namespace_id="nid", workflow_id="w",
        workflow_type={"name": "T"}, parent_close_policy=2, priority={"priority_key": 3},
    )  # fmt: skip
    child = state.children[5]
    assert child == made(
        type(child), initiated_event_id=5, initiated_event_batch_id=4, namespace="n", namespace_id="nid",
        workflow_id="w", workflow_type="T", parent_close_policy=2, request_id="r:5:0", priority={"priority_key": 3},
    )  # fmt: skip
    started = applied(
        state, "child_workflow_execution_started", event_id=7, initiated_event_id=5, workflow_execution={"run_id": "cr"}
    ).children[5]
    assert (started.started_event_id, started.run_id) == (7, "cr")
    assert not applied(None, "start_child_workflow_execution_initiated").children[5].HasField("priority")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("external_signals", "signal_external_workflow_execution_initiated"),
        ("external_cancels", "request_cancel_external_workflow_execution_initiated"),
    ],
)
def test_a_request_to_another_execution_keeps_its_id_in_a_reset_run(name: str, kind: str) -> None:
    plain = getattr(applied({"run_id": "r"}, kind), name)[5]
    assert plain == made(type(plain), initiated_event_id=5, initiated_event_batch_id=4, request_id=derived_uuid("r", 5))
    for event_id, writer in ((2, "first"), (3, "second"), (5, "second"), (6, "r")):
        branches = [
            {"branch_id": "first", "first_event_id": 1, "next_event_id": 3},
            {"branch_id": "second", "first_event_id": 3, "next_event_id": 6},
            {"branch_id": "r", "first_event_id": 6},
        ]
        state = applied({"run_id": "r", "branches": branches}, kind, event_id=event_id)
        assert getattr(state, name)[event_id].request_id == derived_uuid(writer, event_id)
    assert [len(part) for part in derived_uuid("r", 5).split("-")] == [8, 4, 4, 4, 12]
    assert derived_uuid("r", 5) != derived_uuid("r", 6)


def test_a_nexus_operation() -> None:
    fields: dict[str, Any] = {
        "endpoint": "e", "endpoint_id": "eid", "service": "s", "operation": "o", "request_id": "q",
        "schedule_to_close_timeout": {"seconds": 60}, "schedule_to_start_timeout": {"seconds": 50},
        "start_to_close_timeout": {"seconds": 40},
    }  # fmt: skip
    state = applied(None, "nexus_operation_scheduled", **fields)
    expected: dict[str, Any] = {
        "scheduled_event_id": 5, "scheduled_event_batch_id": 4, "endpoint": "e", "endpoint_id": "eid", "service": "s",
        "operation": "o", "request_id": "q", "schedule_to_close_timeout_ns": ns(60),
        "schedule_to_start_timeout_ns": ns(50), "start_to_close_timeout_ns": ns(40), "scheduled_ns": ns(100),
    }  # fmt: skip
    operation = state.nexus_operations[5]
    assert operation == made(type(operation), **expected)
    asked = applied(state, "nexus_operation_cancel_requested", event_id=6, scheduled_event_id=5)
    assert asked.nexus_operations[5] == made(type(operation), **expected, cancel_requested_event_id=6)
    for before, more in ((state, {}), (asked, {"cancel_requested_event_id": 6, "cancel_requested_ns": ns(100)})):
        for names in ({"operation_token": "t"}, {"operation_id": "t"}, {"operation_token": "t", "operation_id": "x"}):
            started = applied(before, "nexus_operation_started", event_id=7, scheduled_event_id=5, **names)
            assert started.nexus_operations[5] == made(
                type(operation), **expected, **more, started_ns=ns(100), operation_token="t"
            )
    later = applied(started, "nexus_operation_cancel_requested", event_id=8, scheduled_event_id=5)
    assert later.nexus_operations[5].cancel_requested_ns == ns(100)
    assert later.nexus_operations[5].cancel_requested_event_id == 8
    for kind in ("nexus_operation_started", "nexus_operation_cancel_requested"):
        assert applied(None, kind, scheduled_event_id=5) == MutableState()


# ---- signals, updates ------------------------------------------------------------------------------------------------


def test_signals_are_counted_and_their_requests_noted() -> None:
    assert applied(None, "workflow_execution_signaled") == MutableState(signal_count=1)
    state = applied(None, "workflow_execution_signaled", request_id="r")
    kind = et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    assert (state.request_ids["r"].event_type, state.request_ids["r"].event_id) == (kind, 5)
    again = applied(state, "workflow_execution_signaled", event_id=6, request_id="r")
    assert (again.request_ids["r"].event_id, list(again.signal_request_ids), again.signal_count) == (6, [], 2)
    state.request_ids["r"].event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    started = applied(state, "workflow_execution_signaled", event_id=6, request_id="r")
    assert (started.request_ids["r"].event_id, list(started.signal_request_ids)) == (5, ["r"])


def test_an_update() -> None:
    request: dict[str, Any] = {"meta": {"update_id": "u"}, "request_id": "q", "completion_callbacks": [CALLBACK]}
    state = applied(None, "workflow_execution_update_admitted", request=request)
    update = state.updates["u"]
    assert update == made(type(update), update_id="u", stage=update.ADMITTED, request=request, admitted_event_id=5)
    admitted = et.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ADMITTED
    assert (state.request_ids["q"].event_type, state.request_ids["q"].event_id) == (admitted, 5)
    [info] = state.callback_infos
    assert (info.update_id, info.request_id, info.registered_ns, info.event_type) == ("u", "q", ns(100), admitted)
    fields: dict[str, Any] = {"accepted_request_message_id": "m", "accepted_request_sequencing_event_id": 3}
    accepted = applied(state, "workflow_execution_update_accepted", event_id=8, protocol_instance_id="u", **fields)
    known: dict[str, Any] = {"update_id": "u", "request_message_id": "m", "sequencing_event_id": 3}
    assert accepted.updates["u"] == made(
        type(update), **known, stage=update.ACCEPTED, accepted_event_id=8, admitted_event_id=5
    )
    assert accepted.request_ids["q"].event_id == 8
    assert accepted.update_count == 1
    assert len(accepted.callback_infos) == 1
    anew = applied(
        state,
        "workflow_execution_update_accepted",
        event_id=8,
        accepted_request={**request, "request_id": "p"},
        **fields,
    )
    assert anew.updates["u"].admitted_event_id == 0
    assert anew.request_ids["p"].event_id == 8
    assert [each.request_id for each in anew.callback_infos] == ["q", "p"]
    completed = applied(
        accepted, "workflow_execution_update_completed", event_id=9, meta={"update_id": "u"}, accepted_event_id=7
    )
    assert completed.updates["u"] == made(type(update),
        **known, stage=update.COMPLETED, accepted_event_id=7, admitted_event_id=5, completed_event_id=9,
        completed_event_batch_id=4,
    )  # fmt: skip


def test_a_request_that_is_known_for_something_else_stays_so() -> None:
    state = MutableState()
    state.request_ids["q"].event_type = et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    state.request_ids["q"].event_id = 1
    request: dict[str, Any] = {"meta": {"update_id": "u"}, "request_id": "q"}
    for kind, fields in (
        ("workflow_execution_update_admitted", {"request": request}),
        ("workflow_execution_update_accepted", {"accepted_request": request}),
    ):
        assert applied(state, kind, **fields).request_ids["q"].event_id == 1
        assert not applied(
            None, kind, **{name: {**value, "request_id": ""} for name, value in fields.items()}
        ).request_ids


# ---- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"time_skipping_config": {"enabled": True}}, {"config": {"enabled": True}}),
        ({"time_skipping_state_propagation": {"initial_skipped_duration": {"seconds": 7}, "initial_skip_count": 2}},
         {"skipped_ns": ns(7), "session_skips": 2}),
        ({"time_skipping_config": {"fast_forward_config": {"duration": {"seconds": 9}}}},
         {"config": {"fast_forward_config": {"duration": {"seconds": 9}}}, "fast_forward_target_ns": ns(109)}),
        ({"time_skipping_config": {"enabled": True, "fast_forward_config": {}},
          "time_skipping_state_propagation": {"fast_forward_target_time": {"seconds": 101}}},
         {"config": {"enabled": True, "fast_forward_config": {}}, "fast_forward_target_ns": ns(101)}),
        ({"time_skipping_config": {"enabled": True, "fast_forward_config": {}},
          "time_skipping_state_propagation": {"fast_forward_target_time": {"seconds": 100}}},
         {"config": {"enabled": False, "fast_forward_config": {}}, "fast_forward_target_ns": ns(100),
          "fast_forward_reached": True}),
    ],
)  # fmt: skip
def test_a_run_starts_with_its_own_clock(fields: dict[str, Any], expected: dict[str, Any] | None) -> None:
    state = applied(None, "workflow_execution_started", event_id=1, **fields)
    assert state.HasField("time_skipping") == (expected is not None)
    if expected is not None:
        assert state.time_skipping == made(TimeSkipping, **expected)


def test_another_configuration_begins_a_new_session() -> None:
    skips: dict[str, Any] = {
        "skipped_ns": 7,
        "session_skips": 3,
        "config": {"enabled": True},
        "fast_forward_target_ns": 9,
    }
    forward: dict[str, Any] = {"fast_forward_config": {"duration": {"seconds": MAX_DURATION_SECONDS}}}
    kind = "workflow_execution_options_updated"
    assert applied({"time_skipping": skips}, kind) == made(MutableState, time_skipping=skips)
    assert applied(None, kind, time_skipping_config_updated=True) == MutableState()
    none = applied({"time_skipping": skips}, kind, time_skipping_config_updated=True)
    assert none.time_skipping == TimeSkipping(skipped_ns=7)
    new = applied(
        {"time_skipping": skips}, kind, time_skipping_config_updated=True, time_skipping_config=forward
    ).time_skipping
    assert new == made(
        TimeSkipping, skipped_ns=7, config=forward,
        fast_forward_target_ns=min(LAST_SKIPPED_TO_NS, ns(100 + MAX_DURATION_SECONDS)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "most", "expected"),
    [
        ({"target_time": {"seconds": 107}}, 9, {"skipped_ns": ns(10), "session_skips": 2}),
        ({"target_time": {"seconds": 107}}, 2, {"skipped_ns": ns(10), "session_skips": 2, "enabled": False}),
        ({}, 9, {"skipped_ns": ns(3), "session_skips": 2}),
        ({"disabled_after_fast_forward": True}, 9,
         {"skipped_ns": ns(3), "session_skips": 2, "enabled": False, "fast_forward_reached": True}),
    ],
)  # fmt: skip
def test_time_is_skipped(fields: dict[str, Any], most: int, expected: dict[str, Any]) -> None:
    config: dict[str, Any] = {"enabled": True, "max_session_skip_count": most}
    before: dict[str, Any] = {"skipped_ns": ns(3), "session_skips": 1, "config": config, "fast_forward_target_ns": 9}
    state = applied({"time_skipping": before}, "workflow_execution_time_skipping_transitioned", **fields)
    config["enabled"] = expected.pop("enabled", True)
    assert state.time_skipping == made(TimeSkipping, config=config, fast_forward_target_ns=9, **expected)
    without: dict[str, Any] = {**before, "fast_forward_target_ns": 0}
    state = applied({"time_skipping": without}, "workflow_execution_time_skipping_transitioned", **fields)
    assert not state.time_skipping.fast_forward_reached


def _skipping(**fields: Any) -> MutableState:
    return made(MutableState, time_skipping=fields)


def test_a_clock_is_handed_on() -> None:
    Started = history_pb.WorkflowExecutionStartedEventAttributes  # noqa: N806 - a class
    Child = history_pb.StartChildWorkflowExecutionInitiatedEventAttributes  # noqa: N806
    forward: dict[str, Any] = {"enabled": True, "max_session_skip_count": 5, "fast_forward_config": {"id": "ff"}}
    for state, started, child in (
        (MutableState(), {}, {}),
        (_skipping(skipped_ns=ns(7)),
         {"time_skipping_state_propagation": {"initial_skipped_duration": {"seconds": 7}}},
         {"time_skipping_state_propagation": {"initial_skipped_duration": {"seconds": 7}}}),
        (_skipping(config=forward, session_skips=2, fast_forward_target_ns=ns(9)),
         {"time_skipping_config": forward, "time_skipping_state_propagation": {
             "initial_skip_count": 2, "fast_forward_target_time": {"seconds": 9}}},
         {"time_skipping_config": {"enabled": True, "max_session_skip_count": 5}}),
        (_skipping(config={**forward, "disable_propagation": True}, fast_forward_target_ns=ns(9), fast_forward_reached=True),
         {"time_skipping_config": {**forward, "disable_propagation": True}}, {}),
        (_skipping(config={**forward, "enabled": False}, session_skips=2), {}, {}),
    ):  # fmt: skip
        a, b = Started(), Child()
        time_skipping.hand_on_to_next_run(state, a)
        time_skipping.hand_on_to_child(state, b)
        assert a == made(Started, **started)
        assert b == made(Child, **child)


def test_a_fast_forward_is_shown() -> None:
    config: dict[str, Any] = {"enabled": True, "fast_forward_config": {"id": "ff", "duration": {"seconds": 3}}}
    for reached, enabled, deadline_ns in ((False, True, ns(9)), (True, True, 0), (False, False, 0)):
        state = _skipping(
            config={**config, "enabled": enabled}, fast_forward_target_ns=ns(9), fast_forward_reached=reached
        )
        assert time_skipping.fast_forward_deadline(state) == deadline_ns
        assert time_skipping.is_enabled(state) == enabled
        assert time_skipping.fast_forward_info(state) == made(
            common_pb.TimeSkippingFastForwardInfo, fast_forward_id="ff", has_completed=reached,
            fast_forward_duration={"seconds": 3}, target_time={"seconds": 9},
        )  # fmt: skip
    assert time_skipping.fast_forward_info(_skipping(config=config)) is None


@pytest.mark.parametrize(
    "value", [0, 1, -1, SECOND_NS, -SECOND_NS, SECOND_NS + 1, -SECOND_NS - 1, 2**62, 2**63 - 1 - 24 * 3600 * SECOND_NS]
)
def test_times_go_there_and_back(value: int) -> None:
    message = history_pb.HistoryEvent()
    set_timestamp(message.event_time, value)
    assert message.HasField("event_time")
    assert 0 <= message.event_time.nanos < SECOND_NS
    assert timestamp_ns(message.event_time) == value
    attributes = message.timer_started_event_attributes
    set_duration(attributes.start_to_fire_timeout, value)
    assert attributes.HasField("start_to_fire_timeout")
    assert duration_ns(attributes.start_to_fire_timeout) == value
    assert attributes.start_to_fire_timeout.seconds * attributes.start_to_fire_timeout.nanos >= 0


def test_times_beyond_the_range_of_64_bits_are_clamped() -> None:
    farthest = 2**63 - 1 - 24 * 3600 * SECOND_NS
    message = history_pb.HistoryEvent()
    for sign in (1, -1):
        message.event_time.seconds = sign * 10_000_000_000
        assert timestamp_ns(message.event_time) == sign * farthest
        duration = message.timer_started_event_attributes.start_to_fire_timeout
        duration.seconds = sign * 10_000_000_000
        assert duration_ns(duration) == sign * farthest
