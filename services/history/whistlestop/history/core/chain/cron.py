"""Cron chains of workflows: the wait before the next run.

Rules of this file, which are Temporal's: waits are whole seconds, rounded up; `@every` counts from the whole second in
which the last run began to execute.
"""

from __future__ import annotations

from whistlestop.common.timing.cron import next_after, parse
from whistlestop.history.core.times import SECOND_NS


def first_backoff(expression: str, now_ns: int) -> int:
    """Return the nanoseconds from `now_ns` to the first run."""
    return next_backoff(expression, now_ns, now_ns)


def next_backoff(expression: str, start_ns: int, close_ns: int) -> int:
    """Return the nanoseconds from `close_ns` to the next run; the last run began to execute at `start_ns`.

    Raise ValueError for an invalid expression.
    """
    every_ns = parse(expression).every_ns
    if every_ns:
        every_ns = max(every_ns // SECOND_NS * SECOND_NS, SECOND_NS)
        base_ns = start_ns // SECOND_NS * SECOND_NS
        deadline_ns = base_ns + max(_ceiling(close_ns - base_ns, every_ns), 1) * every_ns
    else:
        deadline_ns = next_after(expression, start_ns, max(start_ns, close_ns))
    return _ceiling(max(deadline_ns - close_ns, 0), SECOND_NS) * SECOND_NS


def _ceiling(span_ns: int, unit_ns: int) -> int:
    return -(-span_ns // unit_ns)
