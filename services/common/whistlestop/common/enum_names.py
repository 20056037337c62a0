"""Names of enum values. A caller may send any number, and it is shown as a number, as Go shows it."""

from __future__ import annotations

from typing import Any


def enum_name(kind: Any, number: int) -> str:
    """Return the name of a value of a protobuf enum, or the number in digits if it has none."""
    try:
        return str(kind.Name(number))
    except ValueError:
        return str(number)
