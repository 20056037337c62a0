"""Every command family, so that `completion.HANDLERS` is full once this module is imported."""

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
