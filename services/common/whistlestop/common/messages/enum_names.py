"""Names of enum values. A caller may send an unknown number, which is shown in digits, as in Go."""

from __future__ import annotations

from typing import Any


def enum_name(kind: Any, number: int) -> str:
    """Return the name of a value of a protobuf enum, or the number in digits if it has none."""
    try:
        return str(kind.Name(number))
    except ValueError:
        return str(number)
