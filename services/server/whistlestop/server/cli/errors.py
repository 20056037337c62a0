"""How commands report errors."""

from __future__ import annotations

import sys

from whistlestop.server.cli.escaping import escaped


class CommandError(Exception):
    """Ends the command with its message on standard error."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def complain(message: str) -> None:
    """Write an error message to standard error, each line of it escaped."""
    lines = [escaped(" ".join(line.split())) for line in message.splitlines() if line.strip()]
    print("Error: " + "\n       ".join(lines), file=sys.stderr)
