"""Import every command family, so that `completion.HANDLERS` is complete."""

from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.child import decide as children
from whistlestop.history.core.external import decide as external
from whistlestop.history.core.nexus import commands as nexus_commands
from whistlestop.history.core.timer import decide as user_timers
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.workflow import close, continue_as_new, markers

__all__ = [
    "activity", "children", "close", "continue_as_new", "external", "markers", "nexus_commands", "update",
    "user_timers",
]  # fmt: skip
