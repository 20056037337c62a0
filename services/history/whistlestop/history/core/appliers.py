"""The appliers of all events: how each changes the state of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from whistlestop.history.core.activity import state as activity
from whistlestop.history.core.child import state as child
from whistlestop.history.core.external import state as external
from whistlestop.history.core.nexus import state as nexus
from whistlestop.history.core.signal import state as signal
from whistlestop.history.core.timer import state as timer
from whistlestop.history.core.timeskip import state as time_skipping_state
from whistlestop.history.core.transition import apply
from whistlestop.history.core.update import state as update
from whistlestop.history.core.workflow import state as workflow
from whistlestop.history.core.workflow_task import state as workflow_task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.history.core.transition.apply import Applier

APPLIERS: Final[Mapping[int, Applier]] = {
    **workflow.APPLIERS,
    **workflow_task.APPLIERS,
    **signal.APPLIERS,
    **update.APPLIERS,
    **activity.APPLIERS,
    **timer.APPLIERS,
    **child.APPLIERS,
    **external.APPLIERS,
    **nexus.APPLIERS,
    **time_skipping_state.APPLIERS,
}
"""By event type. What is not here, such as EVENT_TYPE_MARKER_RECORDED, changes no state."""

apply.register(APPLIERS)
