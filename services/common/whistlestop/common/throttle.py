"""Warnings about what callers do: as many a second as somebody can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    import logging

    from whistlestop.common.clock import Clock


class ThrottledWarnings:
    """Logs warnings, but for what goes beyond `per_s` a second."""

    def __init__(self, log: logging.Logger, clock: Clock, per_s: int = 4) -> None:
        self._log = log
        self._clock = clock
        self._per_s = per_s
        self._second = -1
        self._said = 0

    def __call__(self, text: str, *values: object) -> None:
        """One warning, as for `Logger.warning`."""
        second = self._clock.steady_ns() // SECOND_NS
        if second != self._second:
            self._second, self._said = second, 0
        self._said += 1
        if self._said <= self._per_s:
            self._log.warning(text, *values)
