"""The command `whistlestop`.

Commands import what they need when they run, because test suites start `server start-dev` often. An error that the
user can fix is one line on standard error and exit code 1 (2 for a wrong flag).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from whistlestop.server.cli.start import quick_start

    given = list(sys.argv[1:] if arguments is None else arguments)
    code = quick_start.run(given)
    if code is None:
        from whistlestop.server.cli.app import run

        code = run(given)
    sys.exit(code)
