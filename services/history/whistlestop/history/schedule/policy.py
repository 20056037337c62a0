"""The decisions of a schedule on its data: which times are due, and what to do about overlaps.

Rules of this file, which are Temporal's:
- A time that is due becomes a buffered start. A paused schedule, or one without remaining actions, skips its times.
- A time that was missed by more than the catch-up window is counted and dropped.
- The overlap policy is read when a buffered start is processed, so that a change of policy applies to it.
- At most one run that may not overlap is open; those of ALLOW_ALL are not tracked, and neither provide nor receive a
  last result.
- Triggers and backfills ignore pause, limit and catch-up window.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import schedule_pb2 as schedule_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.schedule.v1 import message_pb2 as schedule_pb

from whistlestop.common.errors import failed_precondition
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.history.core.times import SECOND_NS, duration_ns, set_duration, set_timestamp, timestamp_ns
from whistlestop.history.schedule import spec as times
from whistlestop.history.schedule.ranges import SpecError
from whistlestop.history.schedule.schedule_pb2 import BufferedStart, ScheduleData

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.schedule.spec import CompiledSpec, Next

DAY_NS = 24 * 3600 * SECOND_NS
DEFAULT_CATCHUP_NS = 365 * DAY_NS
MIN_CATCHUP_NS = 10 * SECOND_NS
RETENTION_NS = 7 * DAY_NS
"""How long an idle schedule is retained."""
MAX_BUFFER = 1000
MAX_BACKFILLS = 1000
MAX_BACKFILLS_AT_ONCE = 100
"""The maximum with a request that adds some. A schedule of release 0.1.0 may have more."""
BACKFILLS_AT_ONCE = 10
BACKFILL_PAUSE_NS = SECOND_NS
MAX_CATCHUP_AT_ONCE = 1000
"""The maximum of times processed at once; processing continues right after."""
STARTS_AT_ONCE = 10
"""The maximum of runs started in one commit."""
RECENT = 10
FUTURE = 10
LISTED = 5
LISTED_SPECS = 10
MAX_MATCHING_TIMES = 1000
MAX_REQUEST_IDS = 100

SKIP = schedule_enums.SCHEDULE_OVERLAP_POLICY_SKIP
BUFFER_ONE = schedule_enums.SCHEDULE_OVERLAP_POLICY_BUFFER_ONE
BUFFER_ALL = schedule_enums.SCHEDULE_OVERLAP_POLICY_BUFFER_ALL
CANCEL_OTHER = schedule_enums.SCHEDULE_OVERLAP_POLICY_CANCEL_OTHER
TERMINATE_OTHER = schedule_enums.SCHEDULE_OVERLAP_POLICY_TERMINATE_OTHER
ALLOW_ALL = schedule_enums.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL
_RUNNING = wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING
_FAILED = wf_enums.WORKFLOW_EXECUTION_STATUS_FAILED
_TIMED_OUT = wf_enums.WORKFLOW_EXECUTION_STATUS_TIMED_OUT


@dataclass(slots=True)
class Taken:
    """What is to be done now with the buffered starts."""

    starts: list[tuple[BufferedStart, bool]] = field(default_factory=list)
    """Each with True if it is tracked: no other tracked run may be open at the same time."""
    cancel: bool = False
    terminate: bool = False


# ---- the schedule itself --------------------------------------------------------------------------------------------


def create(
    schedule_id: str, schedule: schedule_pb.Schedule, patch: schedule_pb.SchedulePatch | None, now_ns: int
) -> ScheduleData:
    """Return the data of a new schedule, after the patch if there is one. `schedule` has a canonical spec."""
    data = ScheduleData(schedule_id=schedule_id, conflict_token=1, processed_ns=now_ns)
    data.schedule.CopyFrom(schedule)
    set_timestamp(data.info.create_time, now_ns)
    if patch is not None:
        data.initial_patch.CopyFrom(patch)
    fill_defaults(data)
    return data


def fill_defaults(data: ScheduleData) -> None:
    """Fill the schedule's empty fields with their defaults, so that they are shown."""
    schedule = data.schedule
    for name in ("spec", "action", "policies", "state"):
        getattr(schedule, name).SetInParent()
    policies = schedule.policies
    policies.overlap_policy = policies.overlap_policy or SKIP
    window_ns = duration_ns(policies.catchup_window)
    set_duration(policies.catchup_window, max(window_ns, MIN_CATCHUP_NS) if window_ns > 0 else DEFAULT_CATCHUP_NS)


def update(data: ScheduleData, schedule: schedule_pb.Schedule, now_ns: int) -> None:
    """Replace spec, action, policies and state at `now_ns`; the conflict token is incremented."""
    data.schedule.CopyFrom(schedule)
    fill_defaults(data)
    set_timestamp(data.info.update_time, now_ns)
    data.conflict_token += 1


def check_room(data: ScheduleData, change: schedule_pb.SchedulePatch) -> None:
    """Raise FAILED_PRECONDITION when the patch would exceed the maximum of concurrent backfills."""
    more = len(change.backfill_request) + change.HasField("trigger_immediately")
    if len(data.backfills) + more > MAX_BACKFILLS_AT_ONCE:
        raise failed_precondition("too many concurrent backfillers")


def patch(data: ScheduleData, change: schedule_pb.SchedulePatch, now_ns: int) -> None:
    """Apply a patch: trigger, backfill, pause and unpause."""
    if change.HasField("trigger_immediately"):
        trigger = change.trigger_immediately
        at_ns = timestamp_ns(trigger.scheduled_time) or now_ns
        wanted = trigger.overlap_policy
        _buffer(data, BufferedStart(nominal_ns=at_ns, actual_ns=at_ns, overlap_policy=wanted, manual=True))
    for request in change.backfill_request:
        if len(data.backfills) >= MAX_BACKFILLS:
            data.info.buffer_dropped += 1
            continue
        # The start of the range is included.
        data.backfills.add(
            after_ns=timestamp_ns(request.start_time) - 1_000_000,
            end_ns=timestamp_ns(request.end_time),
            overlap_policy=request.overlap_policy,
        )
    for paused, note in ((True, change.pause), (False, change.unpause)):
        if note:
            data.schedule.state.paused = paused
            data.schedule.state.notes = note
            data.conflict_token += 1


def is_repeated(data: ScheduleData, request_id: str) -> bool:
    """Return whether a request of that id was processed before; the id is remembered."""
    if not request_id:
        return False
    if request_id in data.request_ids:
        return True
    data.request_ids.append(request_id)
    del data.request_ids[:-MAX_REQUEST_IDS]
    return False


def compiled(data: ScheduleData, namespace_id: str) -> CompiledSpec | None:
    """Return the compiled spec; None when this version can't read it (for example because a time zone is gone)."""
    try:
        return times.compiled_spec(data.schedule.spec, f"{namespace_id}-{data.schedule_id}")
    except SpecError:
        return None


def overlap_policy(data: ScheduleData, wanted: int) -> int:
    """Return the overlap policy of a buffered start, or else the schedule's."""
    return wanted or data.schedule.policies.overlap_policy or SKIP


def can_act(data: ScheduleData) -> bool:
    """Return whether the schedule is not paused and has actions left."""
    state = data.schedule.state
    return not state.paused and (not state.limited_actions or state.remaining_actions > 0)


def spend(data: ScheduleData, start: BufferedStart) -> bool:
    """Take one of the limited actions for the start; return False when the start must not take place."""
    if start.manual:
        return True
    if not can_act(data):
        return False
    if data.schedule.state.limited_actions:
        data.schedule.state.remaining_actions -= 1
        data.conflict_token += 1
    return True


# ---- from times to buffered starts ----------------------------------------------------------------------------------


def advance(data: ScheduleData, spec: CompiledSpec | None, now_ns: int) -> None:
    """Buffer a start for each time that has become due by `now_ns`; none without a spec."""
    if spec is None or not can_act(data):
        # Times that pass meanwhile are not made up for.
        data.processed_ns = max(data.processed_ns, now_ns)
        return
    updated_ns = timestamp_ns(data.info.update_time)
    window_ns = duration_ns(data.schedule.policies.catchup_window)
    for n, time in enumerate(_times(spec, data.processed_ns)):
        if time.actual_ns > now_ns or n >= MAX_CATCHUP_AT_ONCE:
            return
        data.processed_ns = time.actual_ns
        if time.actual_ns < updated_ns:
            continue
        if now_ns - time.actual_ns > window_ns:
            data.info.missed_catchup_window += 1
            continue
        _buffer(data, BufferedStart(nominal_ns=time.nominal_ns, actual_ns=time.actual_ns))


def backfill(data: ScheduleData, spec: CompiledSpec | None) -> None:
    """Buffer some of the times to backfill, leaving room for times that become due; none without a spec."""
    left = BACKFILLS_AT_ONCE
    while data.backfills and left > 0 and len(data.buffered) < MAX_BUFFER // 2:
        request = data.backfills[0]
        following = next(_times(spec, request.after_ns), None) if spec is not None else None
        if following is None or following.actual_ns > request.end_ns:
            del data.backfills[0]
            continue
        request.after_ns = following.actual_ns
        left -= 1
        _buffer(
            data,
            BufferedStart(
                nominal_ns=following.nominal_ns,
                actual_ns=following.actual_ns,
                overlap_policy=request.overlap_policy,
                manual=True,
            ),
        )


def _times(spec: CompiledSpec, after_ns: int) -> Iterator[Next]:
    """Yield the schedule's times in order.

    They end at too many exclusions: then the schedule takes no further action.
    """
    try:
        while (found := spec.next_after(after_ns)) is not None:
            yield found
            after_ns = found.actual_ns
    except times.TooManyExclusions:
        return


def _buffer(data: ScheduleData, start: BufferedStart) -> None:
    if len(data.buffered) >= MAX_BUFFER:
        data.info.buffer_dropped += 1
    else:
        data.buffered.append(start)


# ---- from buffered starts to runs -----------------------------------------------------------------------------------


def take(data: ScheduleData, most: int) -> Taken:
    """Apply the overlap policies to the buffer; at most `most` runs are started at once."""
    taken = Taken()
    overlapping: list[BufferedStart] = []
    alone: BufferedStart | None = None
    kept: list[BufferedStart] = []
    is_running = len(data.info.running_workflows) > 0
    for start in data.buffered:
        policy = overlap_policy(data, start.overlap_policy)
        if policy == ALLOW_ALL:
            overlapping.append(start)
        elif not is_running and alone is None:
            alone = start
        elif policy == BUFFER_ALL or (policy == BUFFER_ONE and not kept):
            kept.append(start)
        elif policy in (CANCEL_OTHER, TERMINATE_OTHER):
            if is_running:
                taken.cancel = taken.cancel or policy == CANCEL_OTHER
                taken.terminate = taken.terminate or policy == TERMINATE_OTHER
                kept.append(start)
            else:
                alone = start  # replaces the one that has not begun
        else:
            data.info.overlap_skipped += 1
    if taken.cancel or taken.terminate:
        overlapping = []
    room = most - (alone is not None)
    taken.starts = [(start, False) for start in overlapping[:room]]
    if alone is not None:
        taken.starts.append((alone, True))
    _refill(data, [*overlapping[room:], *kept], taken.starts)
    return taken


def _refill(data: ScheduleData, left: Sequence[BufferedStart], starts: list[tuple[BufferedStart, bool]]) -> None:
    """Replace the buffer by `left`. Its field owns its messages, so those that are still needed are copied."""
    starts[:] = [(_copy(start), tracked) for start, tracked in starts]
    copies = [_copy(start) for start in left]
    del data.buffered[:]
    data.buffered.extend(copies)


def _copy(start: BufferedStart) -> BufferedStart:
    copy = BufferedStart()
    copy.CopyFrom(start)
    return copy


def record_start(
    data: ScheduleData, start: BufferedStart, workflow_id: str, run_id: str, now_ns: int, *, tracked: bool
) -> None:
    """Record that a run was started at `now_ns`. With `tracked`, it counts as running until it closes."""
    info = data.info
    info.action_count += 1
    result = info.recent_actions.add(start_workflow_status=_RUNNING)
    set_timestamp(result.schedule_time, start.actual_ns)
    set_timestamp(result.actual_time, now_ns)
    result.start_workflow_result.workflow_id = workflow_id
    result.start_workflow_result.run_id = run_id
    del info.recent_actions[:-RECENT]
    if tracked:
        info.running_workflows.add(workflow_id=workflow_id, run_id=run_id)


def record_closed(
    data: ScheduleData,
    workflow_id: str,
    first_run_id: str,
    status: wf_enums.WorkflowExecutionStatus.ValueType,
    event: history_pb.HistoryEvent | None,
) -> None:
    """Record that the chain of a start has closed; `event` is its closing event, or None if unknown."""
    for action in data.info.recent_actions:
        if action.start_workflow_result.run_id == first_run_id:
            action.start_workflow_status = status
    running = data.info.running_workflows
    index = next((n for n, each in enumerate(running) if each.run_id == first_run_id), None)
    if index is None:
        return
    del running[index]
    if data.schedule.policies.pause_on_failure and status in (_FAILED, _TIMED_OUT) and not data.schedule.state.paused:
        data.schedule.state.paused = True
        if status == _FAILED:
            message = "" if event is None else event.workflow_execution_failed_event_attributes.failure.message
            data.schedule.state.notes = f"paused due to workflow failure: {workflow_id}: {message}"
        else:
            data.schedule.state.notes = f"paused due to workflow timeout: {workflow_id}"
        data.conflict_token += 1
    if event is None:
        return
    if event.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
        completed = event.workflow_execution_completed_event_attributes
        if completed.HasField("result"):
            data.last_completion_result.CopyFrom(completed.result)
            data.ClearField("continued_failure")
    elif event.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
        failed = event.workflow_execution_failed_event_attributes
        if failed.HasField("failure"):
            data.continued_failure.CopyFrom(failed.failure)


# ---- the next time ---------------------------------------------------------------------------------------------------


def next_check(data: ScheduleData, spec: CompiledSpec | None, now_ns: int) -> int:
    """Return when the schedule has to be processed next (nanoseconds since the epoch); 0: after a change."""
    checks = []
    if data.HasField("initial_patch"):
        checks.append(now_ns)
    if any(overlap_policy(data, start.overlap_policy) == ALLOW_ALL for start in data.buffered):
        checks.append(now_ns + 1)
    if data.backfills and len(data.buffered) < MAX_BUFFER // 2:
        checks.append(now_ns + BACKFILL_PAUSE_NS)
    following = next(_times(spec, data.processed_ns), None) if spec is not None and can_act(data) else None
    if following is not None:
        checks.append(max(following.actual_ns, now_ns + 1))
    elif not checks and is_idle(data):
        checks.append(retention_ends(data))
    return min(checks, default=0)


def is_idle(data: ScheduleData) -> bool:
    """Return whether the schedule is idle. A paused one waits for its user, one with a running action for its end."""
    info = data.info
    waits = data.schedule.state.paused or data.HasField("initial_patch")
    return not (waits or data.backfills or data.buffered or info.running_workflows)


def retention_ends(data: ScheduleData) -> int:
    """Return when an idle schedule is to be closed, in nanoseconds: some time after its last activity."""
    info = data.info
    newest = [timestamp_ns(info.recent_actions[-1].actual_time)] if info.recent_actions else []
    return max(*newest, timestamp_ns(info.create_time), timestamp_ns(info.update_time)) + RETENTION_NS


def is_over(data: ScheduleData, spec: CompiledSpec | None, now_ns: int) -> bool:
    """Return whether the schedule has nothing left to do, and has been idle for its retention.

    Without a spec, there are no further times.
    """
    if not is_idle(data):
        return False
    if retention_ends(data) > now_ns:
        return False
    return not can_act(data) or spec is None or next(_times(spec, data.processed_ns), None) is None


# ---- description -----------------------------------------------------------------------------------------------------


def future_times(data: ScheduleData, spec: CompiledSpec | None, most: int) -> list[int]:
    """Return the next action times, at most `most`, in nanoseconds since the Unix epoch; none without a spec."""
    state = data.schedule.state
    if spec is None:
        return []
    if state.limited_actions:
        most = min(most, state.remaining_actions)
    found: list[int] = []
    updated_ns = timestamp_ns(data.info.update_time)
    if most <= 0:
        return found
    for each in _times(spec, data.processed_ns):
        if each.actual_ns >= updated_ns:
            found.append(each.actual_ns)
        if len(found) >= most:
            break
    return found


def describe(data: ScheduleData, spec: CompiledSpec | None) -> tuple[schedule_pb.Schedule, schedule_pb.ScheduleInfo]:
    """Return what DescribeSchedule answers with; without a spec, no future action times."""
    schedule = schedule_pb.Schedule()
    schedule.CopyFrom(data.schedule)
    times.filled(schedule.spec)
    info = schedule_pb.ScheduleInfo()
    info.CopyFrom(data.info)
    info.buffer_size = len(data.buffered)
    _add_times(info.future_action_times, future_times(data, spec, FUTURE))
    return schedule, info


def listed(data: ScheduleData, spec: CompiledSpec | None) -> schedule_pb.ScheduleListInfo:
    """Return what lists show of the schedule; without a spec, no future action times."""
    schedule = data.schedule
    info = schedule_pb.ScheduleListInfo(
        notes=schedule.state.notes,
        paused=schedule.state.paused,
        recent_actions=data.info.recent_actions[-LISTED:],
    )
    info.spec.CopyFrom(schedule.spec)
    info.spec.ClearField("timezone_data")
    del info.spec.structured_calendar[LISTED_SPECS:]
    del info.spec.interval[LISTED_SPECS:]
    del info.spec.exclude_structured_calendar[LISTED_SPECS:]
    if schedule.action.start_workflow.HasField("workflow_type"):
        info.workflow_type.CopyFrom(schedule.action.start_workflow.workflow_type)
    times.filled(info.spec)
    _add_times(info.future_action_times, future_times(data, spec, LISTED))
    return info


def matching_times(spec: CompiledSpec, after_ns: int, end_ns: int) -> list[int]:
    """Return the times after `after_ns` and up to `end_ns`, at most a thousand. Raise TooManyExclusions."""
    found: list[int] = []
    checks = times.SearchBudget(spec)
    checks.left += MAX_MATCHING_TIMES
    while len(found) < MAX_MATCHING_TIMES:
        following = spec.next_of(after_ns, checks)
        if following is None or following.actual_ns > end_ns:
            break
        after_ns = following.actual_ns
        found.append(after_ns)
    return found


def _add_times(target: _Timestamps, instants_ns: Sequence[int]) -> None:
    for instant_ns in instants_ns:
        set_timestamp(target.add(), instant_ns)


def executions(data: ScheduleData) -> list[common_pb.WorkflowExecution]:
    """Return the tracked runs, as a new list; empty without any."""
    running = data.info.running_workflows
    return [common_pb.WorkflowExecution(workflow_id=each.workflow_id, run_id=each.run_id) for each in running]


if TYPE_CHECKING:
    from typing import Protocol

    class _Timestamps(Protocol):
        def add(self) -> Timestamp: ...
