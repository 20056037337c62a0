"""Add completion callbacks to the state, as the events say that registered them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history.core.times import timestamp_ns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState


def add_callbacks(
    state: MutableState, callbacks: Iterable[common_pb.Callback], registered_ns: int, request_id: str = ""
) -> None:
    """Add completion callbacks of the run, registered at `registered_ns` (since the Unix epoch)."""
    for callback in callbacks:
        state.completion_callbacks.add().CopyFrom(callback)
        state.callback_infos.add(registered_ns=registered_ns, request_id=request_id)


def add_update_callbacks(
    state: MutableState,
    event: history_pb.HistoryEvent,
    update_id: str,
    request_id: str,
    callbacks: Iterable[common_pb.Callback],
) -> None:
    """Add completion callbacks of an update, registered at the event's time."""
    for callback in callbacks:
        state.completion_callbacks.add().CopyFrom(callback)
        state.callback_infos.add(
            registered_ns=timestamp_ns(event.event_time),
            request_id=request_id,
            update_id=update_id,
            event_type=event.event_type,
        )
