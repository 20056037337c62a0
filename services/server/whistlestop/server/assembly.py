"""The three services in one process: the one place that knows all of them.

Rules of this file: construction only. Nothing here decides anything about workflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from whistlestop.common.clock import SystemClock
from whistlestop.common.ids import RandomIds
from whistlestop.common.metrics import NO_METRICS, Metrics
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.service import Frontend
from whistlestop.history.core.limits import Limits
from whistlestop.history.service import History
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.service import Matching
from whistlestop.server.dynamic_config import FRONTEND_KEYS, LIMIT_KEYS, MATCHING_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply, ServiceClient
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier
    from whistlestop.server.config import ServerConfig
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import MatchingTask


class _Late:
    """Stands for a service that is made later: matching and history need each other."""

    def __init__(self) -> None:
        self.service: ServiceClient | None = None

    async def call(self, method: str, request: Message, context: CallContext) -> Reply:
        assert self.service is not None
        return await self.service.call(method, request, context)


@dataclass(frozen=True, slots=True)
class Services:
    """What a process serves with."""

    store: Store
    notifier: Notifier
    clock: Clock
    ids: Ids
    frontend: Frontend
    history: History
    matching: Matching


def assemble(config: ServerConfig, store: Store, notifier: Notifier, metrics: Metrics = NO_METRICS) -> Services:
    """Wire the three services over an open store."""
    clock, ids = SystemClock(), RandomIds()
    alone = not config.store.database_url
    matching_config = MatchingConfig(
        host=config.broadcast_address or f"{config.ip}:{config.port}", hear_others=not alone, share_pollers=not alone
    )
    late = _Late()
    matching = Matching(store, late, clock, ids, notifier, config.dynamic.apply(matching_config, MATCHING_KEYS))
    history = History(
        store,
        matching,
        clock,
        ids,
        notifier,
        limits=config.dynamic.apply(Limits(), LIMIT_KEYS),
        task_listener=_listener(matching, metrics),
        exclusive=alone,
    )
    late.service = history
    frontend_config = FrontendConfig(
        persistence_store=config.store.kind, auth=config.auth, dynamic=dict(config.dynamic.values)
    )
    frontend = Frontend(store, history, matching, clock, ids, config.dynamic.apply(frontend_config, FRONTEND_KEYS))
    return Services(store, notifier, clock, ids, frontend, history, matching)


def _listener(matching: Matching, metrics: Metrics) -> Callable[[Sequence[MatchingTask]], None]:
    offer = matching.offer
    if metrics is NO_METRICS:
        return offer

    def listen(tasks: Sequence[MatchingTask]) -> None:
        for task in tasks:
            metrics.tasks_added(task.key.task_type, 1)
        offer(tasks)

    return listen
