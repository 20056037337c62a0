"""The official command line prints the same, and leaves with the same code, on the real dev server and on ours."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli import scenarios, tree
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from tests.cli.conftest import Stage
    from tests.cli.scenarios import Play

pytestmark = [pytest.mark.parity, pytest.mark.timeout(2 * PATIENCE_S)]

# Path, or its beginning: why no scenario calls it.
NOT_CALLED = {
    "completion": "prints a script for a shell; no server is asked",
    "config": "edits a file of the user's",
    "env": "edits a file of the user's",
    "options": "prints help",
    "server": "starts Temporal's own server",
    "workflow fix-history-json": "turns one file into another",
}


def test_output_of_the_commands(stage: Stage, play: Play) -> None:
    expected, actual = stage.both(play)
    assert "broken off" not in expected[-1], f"the scenario does not run on the real server:\n{_text(expected)}"
    if expected != actual:
        lines = difflib.unified_diff(_text(expected).splitlines(), _text(actual).splitlines(), "real", "ours", n=8)
        pytest.fail("\n".join(line.rstrip("\n") for line in lines), pytrace=False)


def test_every_command_is_called_or_excluded_with_a_reason() -> None:
    """A release of the command line with a new command fails here."""
    leaves = tree.leaves()
    left_out = {leaf for leaf in leaves if any(f"{leaf} ".startswith(f"{path} ") for path in NOT_CALLED)}
    assert scenarios.commands() == leaves - left_out


def _text(entries: list[Any]) -> str:
    return json.dumps(entries, indent=1, ensure_ascii=False, sort_keys=True)
