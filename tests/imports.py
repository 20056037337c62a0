"""What importing a handler costs, as a ratio to the imports that it cannot avoid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_RATIO = {"sqlite": 5.5, "postgres": 2.2}
"""By the store of the handler. Measured when this was written: 3.1 (matching) to 4.2 (history), and 1.5 to 1.7."""
MOST_RUNS = 12


class Compared(NamedTuple):
    """The least of each measure over all runs; others on the machine add to a measure and take nothing away."""

    ratio: float
    memory_mb: float
    modules: int


def compare(
    handler: Callable[[], dict[str, Any]], unavoidable: Callable[[], dict[str, Any]], most_ratio: float
) -> Compared:
    """Measure both in turns until the ratio of their CPU times is below `most_ratio`, at most `MOST_RUNS` times.

    Each measurement is a dictionary with `cpu_ms`, `modules` (their names) and, of the handler, `memory_mb`.
    """
    handlers: list[dict[str, Any]] = []
    references: list[dict[str, Any]] = []
    ratio = float("inf")
    while ratio >= most_ratio and len(handlers) < MOST_RUNS:
        references.append(unavoidable())
        handlers.append(handler())
        ratio = min(run["cpu_ms"] for run in handlers) / min(run["cpu_ms"] for run in references)
    memory_mb = min(run.get("memory_mb", 0.0) for run in handlers)
    return Compared(round(ratio, 2), round(memory_mb, 1), len(handlers[0]["modules"]))
