"""Building one statement out of common table expressions, with numbered parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

FEW_ROWS = 4
"""Up to here rows are written out (cheap to plan and to send); more go as arrays, so that shapes stay few."""


class Statement:
    """A statement in the making. The same sequence of calls gives the same text, so the server can keep its plan."""

    __slots__ = ("parameters", "parts")

    def __init__(self) -> None:
        self.parameters: list[Any] = []
        self.parts: list[str] = []

    def add(self, *values: Any) -> str:
        """Parameters; their places, comma-separated."""
        parameters = self.parameters
        start = len(parameters) + 1
        parameters += values
        return ", ".join([f"${n}" for n in range(start, start + len(values))])

    def expression(self, name: str, sql: str) -> None:
        """One more `WITH name AS (sql)`."""
        self.parts.append(f"{name} AS ({sql})")

    def rows(self, types: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
        """A relation that gives these rows; to be selected from with `*`."""
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
        """`name AS (INSERT INTO into SELECT rows, if the transition is ok, after)`."""
        relation = self.rows(types, rows)
        self.expression(name, f"INSERT INTO {into} SELECT * FROM {relation} WHERE EXISTS (SELECT 1 FROM ok) {after}")

    def text(self, select: str) -> bytes:
        """All of it."""
        return f"WITH {', '.join(self.parts)} {select}".encode()


def numbered(sql: str, mark: str = "%s") -> str:
    """Places as `$1`, `$2` ...; no user's text stands in the SQL."""
    first, *rest = sql.split(mark)
    return first + "".join([f"${n}{part}" for n, part in enumerate(rest, 1)])
