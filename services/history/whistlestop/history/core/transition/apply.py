"""Apply an event to the state: the only way in which what history records is changed.

Rules: an applier reads the event and the state, and writes the state. It decides nothing, checks nothing and has no
other effect, so a mutable state can be rebuilt by applying a run's history to an empty one: *rebuilt == stored*, except
for the fields that history does not carry. Each concept has its appliers in its `state.py`; `core/appliers.py` has all
of them. They are registered, and not imported, since this file is below everything that decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState

Applier: TypeAlias = "Callable[[MutableState, history_pb.HistoryEvent, int], None]"
"""Takes the state, the event, and the first event id of the event's batch (0 while it is buffered)."""
BUFFERED_EVENT_ID: Final = -123
"""The id of a buffered event, which has none yet (Temporal's number)."""
FIRST_TASK_ID = 1 << 20
"""The `task_id`s of events begin here, as Temporal's do; SDKs only compare them. They continue from run to run of a
chain."""
_appliers: dict[int, Applier] = {}


def register(appliers: Mapping[int, Applier]) -> None:
    """Set the appliers by event type. `core/appliers.py` calls this once, with all of them."""
    _appliers.update(appliers)


def apply_event(state: MutableState, event: history_pb.HistoryEvent, batch_id: int) -> None:
    """Change `state` as `event` says. `batch_id` is the first event id of the event's batch (0 while buffered).

    An event without an applier changes no state. Raise RuntimeError if no appliers were registered at all.
    """
    applier = _appliers.get(event.event_type)
    if applier is not None:
        applier(state, event, batch_id)
    elif not _appliers:
        raise RuntimeError(
            "no appliers are registered: import whistlestop.history.core.appliers before events are applied"
        )
