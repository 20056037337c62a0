"""Cron chains of workflows: how long the next run waits."""

from __future__ import annotations

from whistlestop.common.cron import next_after


def first_backoff(expression: str, now_ns: int) -> int:
    """Nanoseconds from `now_ns` to the first run."""
    return max(next_after(expression, now_ns, now_ns) - now_ns, 0)


def next_backoff(expression: str, start_ns: int, close_ns: int) -> int:
    """Nanoseconds from `close_ns` to the next run of a chain whose last run began to execute at `start_ns`."""
    return max(next_after(expression, start_ns, close_ns) - close_ns, 0)
