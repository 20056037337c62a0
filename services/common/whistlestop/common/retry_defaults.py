"""What a retry policy has for the fields that a caller leaves empty."""

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
