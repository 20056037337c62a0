"""Build one statement from common table expressions, with numbered parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

FEW_ROWS = 4
"""Up to this many rows are written out (cheap to plan and to send); more are sent as arrays, so that few shapes
exist."""


class Statement:
    """A statement under construction.

    The same sequence of calls gives the same text, so the server can keep its plan.
    """

    __slots__ = ("parameters", "parts")

    def __init__(self) -> None:
        self.parameters: list[Any] = []
        self.parts: list[str] = []

    def add(self, *values: Any) -> str:
        """Add parameters; return their placeholders, comma-separated."""
        parameters = self.parameters
        start = len(parameters) + 1
        parameters += values
        return ", ".join([f"${n}" for n in range(start, start + len(values))])

    def expression(self, name: str, sql: str) -> None:
        """Add one `WITH name AS (sql)`."""
        self.parts.append(f"{name} AS ({sql})")

    def rows(self, types: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
        """Add the rows as parameters; return a relation of them, from which `*` can be selected."""
        if len(rows) > FEW_ROWS:
            columns = zip(types, zip(*rows, strict=True), strict=True)
            places = [f"{self.add(list(column))}::{kind}[]" for kind, column in columns]
            return f"unnest({', '.join(places)}) AS r"
        lines = []
        for row in rows:
            places = self.add(*row).split(", ")
            lines.append(f"({', '.join([f'{p}::{kind}' for p, kind in zip(places, types, strict=True)])})")
        return f"(VALUES {', '.join(lines)}) AS r"

    def insert(
        self, name: str, into: str, types: Sequence[str], rows: Sequence[Sequence[Any]], after: str = ""
    ) -> None:
        """Add `name AS (INSERT INTO into SELECT rows, if the transition is ok, after)`."""
        relation = self.rows(types, rows)
        self.expression(name, f"INSERT INTO {into} SELECT * FROM {relation} WHERE EXISTS (SELECT 1 FROM ok) {after}")

    def text(self, select: str) -> bytes:
        """Return the whole statement, ending with `select`."""
        return f"WITH {', '.join(self.parts)} {select}".encode()


def numbered(sql: str, mark: str = "%s") -> str:
    """Replace each `mark` by `$1`, `$2`, ...; the SQL contains no user's text."""
    first, *rest = sql.split(mark)
    return first + "".join([f"${n}{part}" for n, part in enumerate(rest, 1)])
