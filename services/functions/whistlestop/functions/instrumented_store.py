"""A wrapper that counts a store's commits and traces its calls; it is left out when neither is wanted."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

from whistlestop.storage.errors import CurrentConflict, VersionConflict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.common.metrics import Metrics
    from whistlestop.functions.traces import Traces
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import Transition


async def counted(commit: Callable[[Transition], Awaitable[None]], transition: Transition, metrics: Metrics) -> None:
    """Commit, and count the outcome in `metrics`. Raise what `commit` raises."""
    try:
        await commit(transition)
    except VersionConflict:
        metrics.conflict("version")
        raise
    except CurrentConflict:
        metrics.conflict("current")
        raise
    metrics.transition()


def instrumented(store: Store, metrics: Metrics | None, traces: Traces | None) -> Store:
    """Return the store wrapped for metrics and traces, or `store` itself when both are None."""
    return store if metrics is None and traces is None else cast("Store", _InstrumentedStore(store, metrics, traces))


class _InstrumentedStore:
    """Pass every attribute through to the store, including those that are set."""

    def __init__(self, store: Store, metrics: Metrics | None, traces: Traces | None) -> None:
        object.__setattr__(self, "_inner", (store, metrics, traces))

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._inner[0], name, value)

    def __getattr__(self, name: str) -> Any:
        store, metrics, traces = self._inner
        found = getattr(store, name)
        if not inspect.iscoroutinefunction(found):
            return found
        call = found
        if name == "commit" and metrics is not None:

            async def call(transition: Transition) -> None:
                await counted(found, transition, metrics)
                for write in transition.writes:
                    for task in write.tasks_added:
                        metrics.tasks_added(task.key.task_type, 1)

        if traces is None:
            return call

        async def traced(*arguments: Any, **named: Any) -> Any:
            with traces.subsegment(f"storage.{name}"):
                return await call(*arguments, **named)

        return traced
