"""Back-off: pauses between attempts, which double with each failure in a row."""

from __future__ import annotations

from typing import TypeVar

Span = TypeVar("Span", int, float)

_MAX_DOUBLINGS = 40
"""Keeps the numbers small; every limit is reached before."""


def backoff(first: Span, failures: int, longest: Span) -> Span:
    """Return the pause after `failures` failures in a row, in the unit of `first` and `longest`.

    After one failure (or none) it is `first`; each further one doubles it, up to `longest`.
    """
    pause: Span = first * 2 ** min(max(failures - 1, 0), _MAX_DOUBLINGS)
    return min(pause, longest)
