"""Import every command family, so that `completion.HANDLERS` is complete."""

from whistlestop.history.core import (
    activity,
    children,
    close,
    continue_as_new,
    external,
    markers,
    nexus_commands,
    update,
    user_timers,
)

__all__ = [
    "activity", "children", "close", "continue_as_new", "external", "markers", "nexus_commands", "update",
    "user_timers",
]  # fmt: skip
