"""How a command tells a person what went wrong."""

from __future__ import annotations


class CommandError(Exception):
    """Ends the command with this one line on standard error."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
