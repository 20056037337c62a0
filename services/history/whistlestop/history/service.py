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
from whistlestop.history.engine.waiting_callers import WaitingCallers
from whistlestop.history.timers.processor import EVERYTHING, TimerProcessor
from whistlestop.history.transfers.misplaced_tasks import MisplacedTasks
from whistlestop.history.transfers.processor import TransferProcessor
from whistlestop.history.transfers.push import Pushes
from whistlestop.net.outbound import Outbound
from whistlestop.storage.errors import StorageError
from whistlestop.storage.namespaces import NamespaceCache
from whistlestop.storage.status import service_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.protobuf.message import Message
    from temporalio.api.rules.v1 import message_pb2 as rules_pb

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.common.rpcs.rpc import Channel, Rpc
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import MatchingTask, TimerTask, TransferTask
    from whistlestop.storage.visibility import AttributeType


class History:
    """Serve executions. `start` begins the background processors of a long-lived process; functions never call it."""

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
        self.engine = Engine(store, clock, ids, notifier, self.limits, exclusive=exclusive)
        self.namespaces = namespaces or NamespaceCache(store, clock)
        self.engine.retention_of = self._retention_of
        self.engine.attribute_types_of = self._attribute_types_of
        self.engine.rules_of = self._rules_of
        self.aside = self.engine.aside
        self.timers = TimerProcessor(self.engine)
        self.timers.handlers["schedule"] = self._fire_schedule
        self.transfers = TransferProcessor(self)
        self.completion_pages = CompletionPages(self.limits, clock)
        self.push = Pushes(self)
        self.timers.handlers["push"] = self.push.fire
        self.engine.effects = _ServerEffects(self, task_listener)
        if task_listener is not None:
            self.engine.misplaced_tasks = MisplacedTasks(self.engine.deployments, clock, self._reroute)
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

    async def _reroute(
        self, namespace_id: str, task_queue: str, task_type: int, deployments: NamespaceDeployments
    ) -> None:
        from whistlestop.history.api.deployments import reroute

        await reroute(self, namespace_id, task_queue, task_type, deployments)

    async def _retention_of(self, namespace_id: str) -> int:
        namespace = await self.namespaces.by_id(namespace_id)
        return namespace.retention_ns if namespace is not None else 0

    def _rules_of(self, namespace_id: str) -> Sequence[rules_pb.WorkflowRule]:
        namespace = self.namespaces.peek_id(namespace_id)
        return namespace.workflow_rules if namespace is not None else ()

    async def _attribute_types_of(self, namespace_id: str) -> Mapping[str, AttributeType]:
        namespace = await self.namespaces.by_id(namespace_id)
        return namespace.custom_search_attributes if namespace is not None else {}

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


class _ServerEffects(Effects):
    """Pass each commit to matching and to the processors."""

    def __init__(self, service: History, listener: Callable[[Sequence[MatchingTask]], None] | None) -> None:
        self._service = service
        self._listener = listener
        self.sees_tasks = listener is not None

    def tasks(self, tasks: Sequence[MatchingTask]) -> None:
        if self._listener is not None:
            self._listener(tasks)

    def timer(self, timer: TimerTask) -> None:
        self._service.timers.notify(timer)

    def transfers(self, transfers: Sequence[TransferTask]) -> None:
        self._service.transfers.notify(transfers)
