"""The history service: one table of methods over one engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from whistlestop.common.errors import data_loss, unimplemented
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.history.api import HANDLERS
from whistlestop.history.core import completion as _completion  # noqa: F401 - loaded here, not by the first answer
from whistlestop.history.core.limits import Limits
from whistlestop.history.engine.completion_pages import CompletionPages
from whistlestop.history.engine.engine import Effects, Engine
from whistlestop.history.engine.namespace_policies import NamespacePolicies
from whistlestop.history.engine.waiting_callers import WaitingCallers
from whistlestop.history.timers.processor import EVERYTHING, TimerProcessor
from whistlestop.history.transfers.misplaced_tasks import MisplacedTasks
from whistlestop.history.transfers.processor import TransferProcessor
from whistlestop.history.transfers.push import Pushes
from whistlestop.net.outbound import Outbound
from whistlestop.storage.deployments import Deployments
from whistlestop.storage.errors import StorageError
from whistlestop.storage.namespaces import NamespaceCache
from whistlestop.storage.status import service_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.common.rpcs.rpc import Channel, Rpc
    from whistlestop.history.core.transition.run import Run
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import MatchingTask, TimerTask, TransferTask


class History:
    """Serve executions. `start` begins the background processors of a long-lived process; functions never call it.

    `task_listener` gets the matching tasks of each commit. `timer_listener` gets the time of each timer row that is
    written, and of each failed row that is tried again later. `watch` gets every run that was committed. With
    `retains_closed_runs` none is deleted after its retention.
    """

    rpcs = HistoryService.rpcs

    def __init__(
        self,
        store: Store,
        matching: Channel,
        clock: Clock,
        ids: Ids,
        notifier: Notifier,
        *,
        limits: Limits | None = None,
        task_listener: Callable[[Sequence[MatchingTask]], None] | None = None,
        exclusive: bool = True,
        wall: Clock | None = None,
        outbound: Outbound | None = None,
        namespaces: NamespaceCache | None = None,
        retains_closed_runs: bool = False,
        watch: Callable[[Run], None] | None = None,
        timer_listener: Callable[[int], None] | None = None,
    ) -> None:
        self.store = store
        self.matching = MatchingService(matching)
        self.clock = clock
        self.wall = wall or clock
        """The machine's clock: `clock` is ahead of it where time is skipped, which must not affect waiting callers."""
        self.waiting_callers = WaitingCallers(self.wall)
        self.ids = ids
        self.notifier = notifier
        self.limits = limits or Limits()
        self.outbound = outbound or Outbound()
        """The HTTP client for callbacks and external endpoints."""
        self.namespaces = namespaces or NamespaceCache(store, clock)
        deployments = Deployments(store, clock)
        self.engine = Engine(
            store,
            clock,
            ids,
            notifier,
            self.limits,
            NamespacePolicies(self.namespaces, deployments, retains_closed_runs=retains_closed_runs),
            effects=_Effects(self, task_listener, timer_listener),
            watch=watch,
            misplaced_tasks=None if task_listener is None else MisplacedTasks(deployments, clock, self._reroute),
            exclusive=exclusive,
        )
        self.aside = self.engine.aside
        handlers = {"schedule": self._fire_schedule, "push": self._fire_push}
        self.timers = TimerProcessor(self.engine, handlers, timer_listener)
        self.transfers = TransferProcessor(self, timer_listener)
        self.completion_pages = CompletionPages(self.limits, clock)
        self.push = Pushes(self)
        self.closing = False

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        """Serve an RPC of HistoryService and return its reply. Raise ServiceError."""
        handler = HANDLERS.find(rpc.method)
        if handler is None:
            raise unimplemented(f"unknown method {rpc.method} of the history service")
        try:
            return await handler(self, request, context)
        except StorageError as error:
            raise service_error(error) from error
        except DecodeError as error:
            # Requests were parsed earlier, so this is about stored data.
            raise data_loss(f"{rpc.method} found stored data that can't be read: {error}") from error

    async def _fire_schedule(self, timer: TimerTask) -> None:
        from whistlestop.history.schedule import driver

        await driver.fire(self, timer)

    async def _fire_push(self, timer: TimerTask) -> None:
        await self.push.fire(timer)

    async def _reroute(
        self, namespace_id: str, task_queue: str, task_type: int, deployments: NamespaceDeployments
    ) -> None:
        from whistlestop.history.api.deployments import reroute

        await reroute(self, namespace_id, task_queue, task_type, deployments)

    async def start(self, spans: Sequence[tuple[int, int]] = EVERYTHING) -> None:
        """Begin to fire timers and deliver transfer tasks: those of these slots, and all committed in this process."""
        self.timers.start(spans)
        self.transfers.start(spans)

    def scan(self, spans: Sequence[tuple[int, int]]) -> None:
        """Change the slots that this process scans: spans of slots, first included and last excluded."""
        self.timers.scan(spans)
        self.transfers.scan(spans)

    async def close(self) -> None:
        """Stop the background processors; unfinished work stays in the store."""
        self.closing = True
        if self.engine.misplaced_tasks is not None:
            await self.engine.misplaced_tasks.close()
        await self.timers.close()
        await self.transfers.close()


class _Effects(Effects):
    """Pass each commit to matching and to the processors."""

    def __init__(
        self,
        service: History,
        task_listener: Callable[[Sequence[MatchingTask]], None] | None,
        timer_listener: Callable[[int], None] | None,
    ) -> None:
        self._service = service
        self._task_listener = task_listener
        self._timer_listener = timer_listener
        self.sees_tasks = task_listener is not None

    def tasks(self, tasks: Sequence[MatchingTask]) -> None:
        if self._task_listener is not None:
            self._task_listener(tasks)

    def timer(self, timer: TimerTask) -> None:
        self._service.timers.notify(timer)
        if self._timer_listener is not None:
            self._timer_listener(timer.fire_at_ns)

    def transfers(self, transfers: Sequence[TransferTask]) -> None:
        self._service.transfers.notify(transfers)
