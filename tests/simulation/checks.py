"""What has to hold at the end of a simulation, as functions of the histories and of what callers were told.

Each check counts exactly; what it allows beyond "once" is named by evidence in the histories (a reset that copied
events, another run of the sender) or in the log of calls (a try whose outcome the caller did not learn). No id, program
or operation is let off as a whole.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from temporalio.api.enums.v1 import failed_cause_pb2 as fc

from whistlestop.common.clock import SECOND_NS
from whistlestop.history.core.times import duration_ns, timestamp_ns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb
    from temporalio.api.update.v1 import message_pb2 as update_pb

    from whistlestop.history.core.state_pb2 import MutableState

Events: TypeAlias = "Sequence[history_pb.HistoryEvent]"
Histories: TypeAlias = "Mapping[tuple[str, str], Events]"
"""The events of each run, by workflow id and run id."""

PING = "ping "
"""How the names of signals begin that workflows send: `ping <workflow id> <run id> <number>`."""


# ---- signals --------------------------------------------------------------------------------------------------------


def check_signals(histories: Histories, tries: Mapping[str, int], acknowledged: Sequence[tuple[str, str]]) -> None:
    """No acknowledged signal is lost, none is received more often than it was sent, and none was sent by nobody.

    `tries` counts, for each signal of a client, the calls that may have been applied: those that were acknowledged, and
    those whose outcome the client did not learn. `acknowledged` has workflow ids and names.
    """
    taken = taken_signals(histories)
    received = Counter((workflow_id, name) for (workflow_id, _), names in _names(histories) for name in names)
    for key in acknowledged:
        assert received[key], f"the acknowledged signal {key} is lost"
    senders = Counter(name for events in histories.values() for name in _pings_sent(events))
    for name, count in sorted(taken.items()):
        # A sender that is reset between the two events of a signal sends it again, under the same request id: a target
        # that has gone on in another run meanwhile takes it there, too.
        most = senders[name] if name.startswith(PING) else tries.get(name, 0)
        assert count <= most, f"{name} was received {count} times and sent {most} times"


def taken_signals(histories: Histories) -> Counter[str]:
    """How often each signal was taken, without the copies that a reset makes. A run takes each once."""
    named = dict(_names(histories))
    taken: Counter[str] = Counter()
    for key, names in named.items():
        counts = Counter(names)
        doubled = [name for name, count in counts.items() if count > 1]
        assert not doubled, f"{key[0]}, run {key[1]}: received twice: {doubled}"
        copied = {name for origin in copied_from(histories, key) for name in named[origin]}
        taken.update(name for name in counts if name not in copied)
    return taken


def _names(histories: Histories) -> Iterator[tuple[tuple[str, str], list[str]]]:
    for key, events in histories.items():
        yield (
            key,
            [
                event.workflow_execution_signaled_event_attributes.signal_name
                for event in events
                if event.HasField("workflow_execution_signaled_event_attributes")
            ],
        )


def _pings_sent(events: Events) -> list[str]:
    return [
        event.signal_external_workflow_execution_initiated_event_attributes.signal_name
        for event in events
        if event.HasField("signal_external_workflow_execution_initiated_event_attributes")
    ]


def copied_from(histories: Histories, key: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """The runs whose signals a reset put into this one: the base, and those that continued it as new."""
    base = base_of(histories[key], key[1])
    while base:
        origin = key[0], base
        if origin not in histories:
            return
        yield origin
        last = histories[origin][-1]
        base = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id


def base_of(events: Events, run_id: str) -> str:
    """The run that this one was reset from; empty when it was not made by a reset."""
    for event in events:
        failed = event.workflow_task_failed_event_attributes
        if failed.cause == fc.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW and failed.new_run_id == run_id:
            return failed.base_run_id
    return ""


# ---- updates and activities -----------------------------------------------------------------------------------------


def check_update(events: Events, update_id: str, outcome: update_pb.Outcome | None) -> None:
    """What the caller was told of an update is what history says. `outcome`: None when it was told "accepted"."""
    accepted = [
        event
        for event in events
        if event.workflow_execution_update_accepted_event_attributes.protocol_instance_id == update_id
    ]
    outcomes = [
        event.workflow_execution_update_completed_event_attributes.outcome
        for event in events
        if event.workflow_execution_update_completed_event_attributes.meta.update_id == update_id
    ]
    if outcome is not None and outcome.HasField("failure"):
        assert not outcomes, f"{update_id} was refused, and then completed"
        assert not accepted or is_over(events), f"{update_id} was refused, though it is accepted and may go on"
        return
    assert len(accepted) == 1, f"the acknowledged {update_id} is lost: accepted {len(accepted)} times"
    if outcome is not None:
        assert outcomes == [outcome], f"the outcome of {update_id} is lost"


def check_activity(events: Events, activity_id: str, result: common_pb.Payloads) -> None:
    """An acknowledged result stands in history."""
    scheduled = {
        event.event_id for event in events if event.activity_task_scheduled_event_attributes.activity_id == activity_id
    }
    results = [
        event.activity_task_completed_event_attributes.result
        for event in events
        if event.activity_task_completed_event_attributes.scheduled_event_id in scheduled
    ]
    assert results == [result], f"the acknowledged result of {activity_id} is lost: {results}"


def is_over(events: Events) -> bool:
    """The run is closed."""
    kind = events[-1].WhichOneof("attributes") or ""
    return kind.startswith("workflow_execution_") and kind.removeprefix("workflow_execution_").startswith(
        ("completed", "failed", "timed_out", "terminated", "canceled", "continued_as_new")
    )


# ---- timers ---------------------------------------------------------------------------------------------------------

LATEST_FIRE_NS = 130 * SECOND_NS
"""Two sweeps of a process that has just come up, after one that died with the timer in its hands."""


def check_timers(events: Events, run_id: str, clocks_ns: int, crashes_ns: Sequence[int] = ()) -> None:
    """No timer fired early, or absurdly late: after it was due, or after the reset that made this run of it.

    `clocks_ns`: by how much the clocks of processes may differ. `crashes_ns`: when processes were killed. Each kill before
    the timer had to be fired may have met the one that was about to.
    """
    due: dict[int, int] = {}
    reset_ns = 0
    for event in events:
        if event.workflow_task_failed_event_attributes.new_run_id == run_id:
            reset_ns = timestamp_ns(event.event_time)
        if event.HasField("timer_started_event_attributes"):
            span_ns = duration_ns(event.timer_started_event_attributes.start_to_fire_timeout)
            due[event.event_id] = timestamp_ns(event.event_time) + span_ns
        elif event.HasField("timer_fired_event_attributes"):
            fired_ns, due_ns = timestamp_ns(event.event_time), due[event.timer_fired_event_attributes.started_event_id]
            assert fired_ns >= due_ns, f"a timer fired {(due_ns - fired_ns) / SECOND_NS} s early"
            from_ns = max(due_ns, reset_ns)
            for crash_ns in crashes_ns:
                if from_ns < crash_ns <= from_ns + LATEST_FIRE_NS:
                    from_ns = crash_ns
            late_ns = fired_ns - from_ns
            assert late_ns <= LATEST_FIRE_NS + clocks_ns, f"a timer fired {late_ns / SECOND_NS} s late"


# ---- runs that stay open --------------------------------------------------------------------------------------------


def may_wait_in_vain(state: MutableState) -> bool:
    """The run waits for its children, and for nothing else."""
    pending = state.workflow_task.scheduled_event_id or state.activities or state.timers
    return bool(state.children) and not pending


def waits_in_vain(state: MutableState, histories: Histories) -> bool:
    """Whether this open run can't end, and may not: it was reset, and its children told their end to another run.

    A child tells its end once, to the run that goes on for its parent at that moment. A run that a reset makes later
    from a point before that does not hear of it; Temporal does the same.
    """
    if not may_wait_in_vain(state) or not base_of(histories[state.workflow_id, state.run_id], state.run_id):
        return False
    for child in state.children.values():
        run = histories.get((child.workflow_id, child.run_id))
        if run is None or not is_over(run):
            return False
        if run[0].workflow_execution_started_event_attributes.parent_workflow_execution.run_id == state.run_id:
            return False
    return True
