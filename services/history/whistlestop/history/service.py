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
from whistlestop.history.ports import HistoryPorts
from whistlestop.history.timers.processor import EVERYTHING, TimerProcessor
from whistlestop.history.transfers import deliveries, failed_deliveries
from whistlestop.history.transfers.misplaced_tasks import MisplacedTasks
from whistlestop.history.transfers.processor import TransferProcessor
from whistlestop.history.transfers.push import Pushes
from whistlestop.net.outbound import Outbound
from whistlestop.storage.deployments import Deployments
from whistlestop.storage.errors import StorageError
from whistlestop.storage.namespaces import NamespaceCache
from whistlestop.storage.status import service_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.common.rpcs.rpc import Channel, Rpc
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.transfers.outcomes import Rest
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
        limits, outbound = limits or Limits(), outbound or Outbound()
        namespaces = namespaces or NamespaceCache(store, clock)
        deployments = Deployments(store, clock)
        policies = NamespacePolicies(namespaces, deployments, retains_closed_runs=retains_closed_runs)
        self._closing = False
        self.engine = engine = Engine(
            store,
            clock,
            ids,
            notifier,
            limits,
            policies,
            effects=_Effects(self, task_listener, timer_listener),
            watch=watch,
            misplaced_tasks=None if task_listener is None else MisplacedTasks(deployments, clock, self._reroute),
            exclusive=exclusive,
        )
        self.store = store
        self.namespaces = namespaces
        self.aside = engine.aside
        self.transfers = TransferProcessor(
            store, clock, engine.aside, self._deliver, self._give_up, postponed=timer_listener
        )
        to_matching, itself = MatchingService(matching), HistoryService(self)
        push = Pushes(engine, to_matching, itself, namespaces, self.transfers)
        self.timers = TimerProcessor(
            engine, {"schedule": self._fire_schedule, "push": push.fire}, postponed=timer_listener
        )
        wall = wall or clock
        self.ports = HistoryPorts(
            engine=engine,
            store=store,
            matching=to_matching,
            itself=itself,
            clock=clock,
            wall=wall,
            ids=ids,
            notifier=notifier,
            limits=limits,
            namespaces=namespaces,
            outbound=outbound,
            waiting_callers=WaitingCallers(wall),
            completion_pages=CompletionPages(limits, clock),
            timers=self.timers,
            transfers=self.transfers,
            push=push,
            is_closing=lambda: self._closing,
        )

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        """Serve an RPC of HistoryService and return its reply. Raise ServiceError."""
        handler = HANDLERS.find(rpc.method)
        if handler is None:
            raise unimplemented(f"unknown method {rpc.method} of the history service")
        try:
            return await handler(self.ports, request, context)
        except StorageError as error:
            raise service_error(error) from error
        except DecodeError as error:
            # Requests were parsed earlier, so this is about stored data.
            raise data_loss(f"{rpc.method} found stored data that can't be read: {error}") from error

    async def _fire_schedule(self, timer: TimerTask) -> None:
        from whistlestop.history.schedule import driver

        await driver.fire(self.ports, timer)

    def _deliver(self, task: TransferTask) -> Awaitable[Rest | None]:
        return deliveries.deliver(self.ports, task)

    def _give_up(self, task: TransferTask, error: Exception) -> Awaitable[None]:
        return failed_deliveries.give_up(self.ports, task, error)

    async def _reroute(
        self, namespace_id: str, task_queue: str, task_type: int, deployments: NamespaceDeployments
    ) -> None:
        from whistlestop.history.api.deployments import reroute

        await reroute(self.ports, namespace_id, task_queue, task_type, deployments)

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
        self._closing = True
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
