"""The run's own clock: how events change it, and how it is read.

A run that skips time has a clock that is ahead of the server's by `skipped_ns`. All times in its mutable state and its
history are by that clock; only its timer row, its matching tasks and its retention are by the server's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as et

from whistlestop.history.core.times import LAST_SKIPPED_TO_NS, duration_ns, set_duration, set_timestamp, timestamp_ns

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState, TimeSkipping
    from whistlestop.history.core.transition.apply import Applier


def is_enabled(state: MutableState) -> bool:
    """Return whether the run skips time when it is idle."""
    return state.time_skipping.config.enabled


def fast_forward_deadline(state: MutableState) -> int:
    """Return when, in nanoseconds by the run's clock, the current fast-forward ends; 0 without one."""
    skipping = state.time_skipping
    if not skipping.config.enabled or skipping.fast_forward_reached:
        return 0
    return skipping.fast_forward_target_ns


# ---- applying --------------------------------------------------------------------------------------------------------


def note_start(
    state: MutableState, a: history_pb.WorkflowExecutionStartedEventAttributes, event: history_pb.HistoryEvent
) -> None:
    """Set the configuration with which the run starts, and how far its clock is ahead of the server's."""
    propagated = a.time_skipping_state_propagation
    initial_ns = duration_ns(propagated.initial_skipped_duration)
    if not a.HasField("time_skipping_config") and initial_ns <= 0:
        return
    skipping = state.time_skipping
    skipping.skipped_ns = initial_ns
    skipping.session_skips = propagated.initial_skip_count
    if a.HasField("time_skipping_config"):
        skipping.config.CopyFrom(a.time_skipping_config)
    target_ns = timestamp_ns(propagated.fast_forward_target_time)
    _aim(skipping, timestamp_ns(event.event_time), target_ns)


def note_options(
    state: MutableState,
    a: history_pb.WorkflowExecutionOptionsUpdatedEventAttributes,
    event: history_pb.HistoryEvent,
) -> None:
    """Take over a new configuration (or none), which starts a new session."""
    if not a.time_skipping_config_updated:
        return
    if not state.HasField("time_skipping") and not a.HasField("time_skipping_config"):
        return
    skipping = state.time_skipping
    skipping.ClearField("config")
    if a.HasField("time_skipping_config"):
        skipping.config.CopyFrom(a.time_skipping_config)
    skipping.session_skips = 0
    _aim(skipping, timestamp_ns(event.event_time), 0)


def _aim(skipping: TimeSkipping, now_ns: int, target_ns: int) -> None:
    """Set the target of a fast-forward: the previous run's if it had one, else the configured duration from now."""
    skipping.fast_forward_target_ns = 0
    skipping.fast_forward_reached = False
    if not skipping.config.HasField("fast_forward_config"):
        return
    wanted_ns = now_ns + duration_ns(skipping.config.fast_forward_config.duration)
    skipping.fast_forward_target_ns = target_ns or min(wanted_ns, LAST_SKIPPED_TO_NS)
    if target_ns and target_ns <= now_ns:
        skipping.fast_forward_reached = True
        skipping.config.enabled = False


def _transitioned(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    """Advance the clock, or end the fast-forward, or both."""
    a = event.workflow_execution_time_skipping_transitioned_event_attributes
    skipping = state.time_skipping
    if a.HasField("target_time"):
        skipping.skipped_ns += timestamp_ns(a.target_time) - timestamp_ns(event.event_time)
    if a.disabled_after_fast_forward and skipping.fast_forward_target_ns:
        skipping.fast_forward_reached = True
        skipping.config.enabled = False
    skipping.session_skips += 1
    if skipping.session_skips >= skipping.config.max_session_skip_count:
        skipping.config.enabled = False


APPLIERS: Final[dict[int, Applier]] = {et.EVENT_TYPE_WORKFLOW_EXECUTION_TIME_SKIPPING_TRANSITIONED: _transitioned}


# ---- inheritance -----------------------------------------------------------------------------------------------------


def hand_on_to_next_run(state: MutableState, a: history_pb.WorkflowExecutionStartedEventAttributes) -> None:
    """Pass the clock and the configuration, with its fast-forward, on to the next run of the chain."""
    skipping = state.time_skipping
    if skipping.skipped_ns > 0:
        set_duration(a.time_skipping_state_propagation.initial_skipped_duration, skipping.skipped_ns)
    if not skipping.config.enabled:
        return
    a.time_skipping_config.CopyFrom(skipping.config)
    if skipping.session_skips:
        a.time_skipping_state_propagation.initial_skip_count = skipping.session_skips
    fast_forward_ns = fast_forward_deadline(state)
    if fast_forward_ns:
        set_timestamp(a.time_skipping_state_propagation.fast_forward_target_time, fast_forward_ns)


def hand_on_to_child(state: MutableState, a: history_pb.StartChildWorkflowExecutionInitiatedEventAttributes) -> None:
    """Pass the clock and the configuration on to a child; a fast-forward is not passed on."""
    skipping = state.time_skipping
    if skipping.skipped_ns > 0:
        set_duration(a.time_skipping_state_propagation.initial_skipped_duration, skipping.skipped_ns)
    if skipping.config.enabled and not skipping.config.disable_propagation:
        a.time_skipping_config.enabled = True
        a.time_skipping_config.max_session_skip_count = skipping.config.max_session_skip_count


# ---- description -----------------------------------------------------------------------------------------------------


def fast_forward_info(state: MutableState) -> common_pb.TimeSkippingFastForwardInfo | None:
    """Return the configured fast-forward and whether it has ended; None without one."""
    skipping = state.time_skipping
    if not skipping.fast_forward_target_ns:
        return None
    info = common_pb.TimeSkippingFastForwardInfo(
        fast_forward_id=skipping.config.fast_forward_config.id, has_completed=skipping.fast_forward_reached
    )
    info.fast_forward_duration.CopyFrom(skipping.config.fast_forward_config.duration)
    set_timestamp(info.target_time, skipping.fast_forward_target_ns)
    return info


def show(info: common_pb.TimeSkippingInfo, state: MutableState, now_ns: int) -> None:
    """Fill the description; `now_ns` is by the run's clock."""
    skipping = state.time_skipping
    set_timestamp(info.current_time, now_ns)
    if skipping.HasField("config"):
        info.effective_config.CopyFrom(skipping.config)
