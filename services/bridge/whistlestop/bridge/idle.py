"""End a worker that has nothing to do, for workers that are started on demand and billed while they run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from temporalio.worker import ActivityInboundInterceptor, Interceptor, Plugin

from whistlestop.common.clock import SECOND_NS, SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from temporalio.worker import (
        ExecuteActivityInput,
        Replayer,
        ReplayerConfig,
        Worker,
        WorkerConfig,
        WorkflowReplayResult,
    )

    from whistlestop.bridge.counters import Counters
    from whistlestop.common.clock import Clock

_CHECK_S = 0.25


class EndsWhenIdle(Plugin):
    """Shuts the worker down after `most_idle_s` seconds without a task or a running activity."""

    def __init__(self, counters: Counters, most_idle_s: float, clock: Clock | None = None) -> None:
        self._counters = counters
        self._most_idle_ns = int(most_idle_s * SECOND_NS)
        self._clock = clock or SystemClock()
        self._busy = _Busy()

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add an interceptor that counts activities to the configuration, in place, and return it."""
        config["interceptors"] = [*config.get("interceptors", ()), self._busy]
        return config

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:  # noqa: A002 - the SDK's name
        """Run the worker by `next` until it ends or was idle for the configured time. Raise what `next` raises."""
        watching = asyncio.create_task(self._end(worker), name="end when idle")
        try:
            await next(worker)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _end(self, worker: Worker) -> None:
        seen, since_ns = self._state(), self._clock.steady_ns()
        while self._busy.running or self._clock.steady_ns() - since_ns < self._most_idle_ns:
            await self._clock.sleep(_CHECK_S)
            if seen != (seen := self._state()):
                since_ns = self._clock.steady_ns()
        await worker.shutdown()

    def _state(self) -> tuple[int, int]:
        return self._counters.tasks, self._busy.ended

    def configure_replayer(self, config: ReplayerConfig) -> ReplayerConfig:
        """Return the configuration unchanged: a replayer is never idle."""
        return config

    def run_replayer(
        self,
        replayer: Replayer,
        histories: Any,
        next: Callable[..., Any],  # noqa: A002 - the SDK's name
    ) -> AbstractAsyncContextManager[AsyncIterator[WorkflowReplayResult]]:
        """Return the next plugin's replay results unchanged."""
        found: AbstractAsyncContextManager[AsyncIterator[WorkflowReplayResult]] = next(replayer, histories)
        return found


class _Busy(Interceptor):
    """Counts activities."""

    def __init__(self) -> None:
        self.running = 0
        self.ended = 0

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        return _Activity(next, self)


class _Activity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, busy: _Busy) -> None:  # noqa: A002 - the SDK's name
        super().__init__(next)
        self._busy = busy

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        self._busy.running += 1
        try:
            return await super().execute_activity(input)
        finally:
            self._busy.running -= 1
            self._busy.ended += 1
