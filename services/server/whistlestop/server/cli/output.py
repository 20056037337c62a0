"""Output of commands: tables and summaries for people, JSON for programs.

- An id is never wrapped or shortened, so that it can be copied. A table wider than the terminal first drops the
  columns
  that its caller marks as optional; after that, its lines are longer than the terminal is wide.
- Text from outside (ids, names, messages) is escaped: a control character never reaches the terminal.
- A file or a pipe gets every column as plain text. Colours follow NO_COLOR and the terminal, as rich does it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from whistlestop.common.log_text import CONTROLS
from whistlestop.server.cli.errors import CommandError
from whistlestop.server.cli.escaping import escaped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from google.protobuf.message import Message

Output = Annotated[str, typer.Option("--output", "-o", help="table, json, jsonl or none.")]

_JSON_PLAIN = base64.b64encode(b"json/plain").decode()
_FORMS = ("table", "json", "jsonl", "none")
_PADDING = 2


def form_of(output: str) -> str:
    """Return the output format of `--output`. Raises CommandError for an unknown one."""
    form = "table" if output == "text" else output
    if form not in _FORMS:
        raise CommandError(f'--output "{output}" is not one of {", ".join(_FORMS)}', 2)
    return form


def wants_json(output: str) -> bool:
    """Return whether `--output` asks for a JSON document. Raises CommandError for an unsupported format."""
    form = form_of(output)
    if form in ("jsonl", "none"):
        raise CommandError(f'--output "{output}" is not one of table, json here', 2)
    return form == "json"


def print_json(value: object) -> None:
    """Print a JSON document on standard output."""
    print(_dumped(value, indent=2))


def print_json_lines(values: Iterable[object]) -> None:
    """Print one JSON document per line."""
    for value in values:
        print(_dumped(value))


def _dumped(value: object, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    # JSON escapes characters below a space; other characters on which a terminal might act are escaped here.
    return CONTROLS.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def as_json(message: Message) -> object:
    """Return the message as Temporal's JSON, with payloads and search attributes as their values."""
    from whistlestop.frontend.endpoints.payload_json import to_json

    return _with_values(json.loads(to_json(message, shorthand=True, pretty=False)))


def _with_values(tree: object) -> object:
    """Return the JSON with the payloads of search attributes, which also have a type, as their values."""
    if isinstance(tree, list):
        return [_with_values(each) for each in tree]
    if not isinstance(tree, dict):
        return tree
    metadata = tree.get("metadata")
    if isinstance(metadata, dict) and metadata.keys() == {"encoding", "type"} and metadata["encoding"] == _JSON_PLAIN:
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(base64.b64decode(tree.get("data", "")))
    return {key: _with_values(value) for key, value in tree.items()}


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", optional: Collection[str] = ()
) -> None:
    """Print a table; on a narrow terminal without the `optional` columns, dropping the last of them first."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    cells = [["" if cell is None else escaped(cell) for cell in row] for row in rows]
    widths = [max([cell_len(name), *(cell_len(row[index]) for row in cells)]) for index, name in enumerate(columns)]
    visible = list(range(len(columns)))
    for index in reversed(range(len(columns))):
        if console.is_terminal and columns[index] in optional and _width(widths, visible) > console.width:
            visible.remove(index)
    console.width = max(console.width if console.is_terminal else 0, _width(widths, visible), cell_len(title), 40)
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for index in visible:
        table.add_column(columns[index], no_wrap=True, overflow="ignore", min_width=widths[index])
    for row in cells:
        table.add_row(*(Text(row[index]) for index in visible))
    console.print(table)


def _width(widths: Sequence[int], visible: Sequence[int]) -> int:
    return sum(widths[index] for index in visible) + _PADDING * len(visible) + 2


def print_fields(title: str, fields: Iterable[tuple[str, object]]) -> None:
    """Print a title, and a line for each field that has a value."""
    print(escaped(title))
    for name, value in fields:
        if value not in ("", None):
            print(f"  {name}: {escaped(value)}")


def remark(text: str) -> None:
    """Print on standard error what is not a result, such as that nothing was found."""
    print(escaped(text), file=sys.stderr)


def instant(ns: int) -> str:
    """Return nanoseconds since the epoch as UTC to the second; empty for 0."""
    import datetime as dt

    if ns <= 0:
        return ""
    return dt.datetime.fromtimestamp(ns / 1e9, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
