"""The real server's transcripts, kept as test data: one file for each scenario, one entry on each line.

They were taken from Temporal's dev server, release `SERVER`, by `make record-parity`. Text is kept as ASCII, so that control
characters in a transcript harm no terminal and no editor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = "1.32.0"
FOLDER = Path(__file__).with_name("recorded")


def path(scenario: str) -> Path:
    """Return where the transcript of a scenario (`area/name`) is kept."""
    return FOLDER / f"{scenario}.jsonl"


def read(scenario: str) -> list[Any]:
    """Return the entries of a scenario. Raises FileNotFoundError when it was never recorded."""
    return [json.loads(line) for line in path(scenario).read_text(encoding="ascii").splitlines()]


def write(scenario: str, entries: list[Any]) -> None:
    """Keep the entries of a scenario in place of those that were kept before."""
    file = path(scenario)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(entry, sort_keys=True, separators=(",", ":")) for entry in entries]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def recorded() -> Iterator[str]:
    """Yield the names of all scenarios that have a recording."""
    for file in sorted(FOLDER.glob("*/*.jsonl")):
        yield f"{file.parent.name}/{file.stem}"
