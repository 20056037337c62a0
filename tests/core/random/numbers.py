"""Random choices, read from a list of small numbers, so that failures shrink well."""

from __future__ import annotations

from typing import Any


class Numbers:
    """Choices read from a list of small numbers; 0 once it is used up."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = iter(numbers)

    def below(self, limit: int) -> int:
        return next(self._numbers, 0) % limit

    def of(self, *choices: Any) -> Any:
        return choices[self.below(len(choices))]
