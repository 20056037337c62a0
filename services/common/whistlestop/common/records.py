"""Dataclasses for hot paths: frozen for the type checker, mutable at run time.

A frozen dataclass sets each field by a call. A workflow start makes records with about a hundred fields, which was 4
% of its CPU.
"""

from __future__ import annotations

from dataclasses import field
from typing import TypeVar, dataclass_transform

from whistlestop.common.lazy_dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(kind: type[T]) -> type[T]:
    """Make a dataclass with slots, equality and a hash. mypy refuses assignments to its fields."""
    return dataclass(slots=True, unsafe_hash=True)(kind)
