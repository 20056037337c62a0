"""Retry policies get these defaults in fields left empty. The pauses of the server's own retries stand here, too."""

from __future__ import annotations

from whistlestop.common.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryDefaults:
    """Temporal's defaults, which dynamic configuration may change for activities and for workflows."""

    initial_interval_ns: int = 1_000_000_000
    maximum_interval_factor: int = 100
    """The maximum interval, as a multiple of the initial one."""
    backoff_coefficient: float = 2.0
    maximum_attempts: int = 0


@dataclass(frozen=True, slots=True)
class RetryIntervals:
    """The pauses between the attempts of a request of the server: each is twice as long as the one before it."""

    initial_ns: int = 1_000_000_000
    maximum_ns: int = 3_600_000_000_000
