"""Records that are made on hot paths: frozen for the type checker, ordinary when the program runs.

A frozen dataclass sets each of its fields by a call. A start makes records of some hundred fields, and that was 4 % of
its CPU.
"""

from __future__ import annotations

from dataclasses import field
from typing import TypeVar, dataclass_transform

from whistlestop.common.lazy_dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(kind: type[T]) -> type[T]:
    """Make a dataclass with slots, equality and a hash. mypy refuses to set a field of an instance."""
    return dataclass(slots=True, unsafe_hash=True)(kind)
