"""Rate-limited warnings about what callers do, so that the log stays readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    import logging

    from whistlestop.common.clock import Clock


class ThrottledWarnings:
    """Logs up to `per_s` warnings a second and drops the others."""

    def __init__(self, log: logging.Logger, clock: Clock, per_s: int = 4) -> None:
        self._log = log
        self._clock = clock
        self._per_s = per_s
        self._second = -1
        self._logged = 0

    def __call__(self, text: str, *values: object) -> None:
        """Log a warning, with the arguments of `Logger.warning`."""
        second = self._clock.steady_ns() // SECOND_NS
        if second != self._second:
            self._second, self._logged = second, 0
        self._logged += 1
        if self._logged <= self._per_s:
            self._log.warning(text, *values)
