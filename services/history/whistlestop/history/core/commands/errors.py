"""The error of a command that is invalid."""

from __future__ import annotations

from whistlestop.common.messages.error_size import MAX_MESSAGE_BYTES, cut
from whistlestop.history.core.workflow_task.causes import Cause, cause_name


class BadCommand(Exception):
    """A command or message is invalid: the workflow task fails with `cause`."""

    def __init__(self, cause: Cause, reason: str = "", *, terminate: bool = False) -> None:
        super().__init__(reason)
        self.cause = cause
        self.reason = reason
        self.terminate = terminate
        """Whether the workflow is terminated, because a later attempt would fail as well (sizes over their limits)."""

    @property
    def message(self) -> str:
        """Temporal's message, the cause's short name and the reason. It is also written into history."""
        name = cause_name(self.cause)
        return cut(f"{name}: {self.reason}", MAX_MESSAGE_BYTES) if self.reason else name
