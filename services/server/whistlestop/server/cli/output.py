"""Tables for people, JSON for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from whistlestop.server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Output = Annotated[str, typer.Option("--output", "-o", help="table or json.")]


def wants_json(output: str) -> bool:
    """Whether `--output` asks for JSON. Raises CommandError for an unknown form."""
    if output not in ("table", "text", "json"):
        raise CommandError(f'--output "{output}" is not one of table, json', 2)
    return output == "json"


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """A table as wide as the terminal; unwrapped when the output goes to a file or pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    if not console.is_terminal:
        console.width = max(console.measure(table).maximum, 40)
    console.print(table)


def instant(ns: int) -> str:
    """Nanoseconds since the epoch as UTC to the second; empty for 0."""
    import datetime as dt

    if ns <= 0:
        return ""
    return dt.datetime.fromtimestamp(ns / 1e9, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
