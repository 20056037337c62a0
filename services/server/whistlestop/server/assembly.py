"""The three services of one process, or those that it has and clients of the others: the one place that knows them all.

Rules of this file: construction only. Nothing here decides anything about workflows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from whistlestop.common.clock import SystemClock
from whistlestop.common.http_client import HttpClient
from whistlestop.common.ids import RandomIds
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.metrics import NO_METRICS, Metrics
from whistlestop.common.outbound import Named, Outbound
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.service import Frontend
from whistlestop.history.core.limits import Limits
from whistlestop.history.service import History
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.service import Matching
from whistlestop.server.dynamic_config import FRONTEND_KEYS, LIMIT_KEYS, MATCHING_KEYS
from whistlestop.server.internal_door import credential
from whistlestop.server.offers import RemoteOffers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply, ServiceClient
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.notify import Notifier
    from whistlestop.frontend.auth.config import AuthConfig
    from whistlestop.server.config import ServerConfig
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import MatchingTask

T = TypeVar("T")


class _Late:
    """Stands for a service that is made later: matching and history need each other."""

    def __init__(self) -> None:
        self.service: ServiceClient | None = None

    async def call(self, method: str, request: Message, context: CallContext) -> Reply:
        assert self.service is not None
        return await self.service.call(method, request, context)


@dataclass(frozen=True, slots=True)
class Services:
    """What a process serves with. History or matching is None where others serve it."""

    store: Store
    notifier: Notifier
    clock: Clock
    ids: Ids
    frontend: Frontend
    history: History | None
    matching: Matching | None
    offers: RemoteOffers | None = None
    """To matching elsewhere."""
    clients: tuple[HttpClient, ...] = ()

    async def close(self) -> None:
        """End what goes on in the background, history first: what it commits is still offered."""
        if self.history is not None:
            await self.history.close()
        if self.offers is not None:
            await self.offers.close()
        if self.matching is not None:
            await self.matching.close()
        for client in self.clients:
            client.close()


def assemble(
    config: ServerConfig, store: Store, notifier: Notifier, metrics: Metrics = NO_METRICS, *, time: Clock | None = None
) -> Services:
    """Wire the services over an open store."""
    clock, ids = SystemClock(), RandomIds()
    alone = not config.store.database_url
    late = _Late()
    at_history = _elsewhere("history", config.history_urls, config, clock)
    at_matching = _elsewhere("matching", config.matching_urls, config, clock)
    outbound = _outbound(config)
    matching = offers = history = None
    if at_matching is None:
        settings = MatchingConfig(
            host=config.broadcast_address or f"{config.ip}:{config.port}",
            hear_others=not alone,
            share_pollers=not alone,
        )
        settings = config.dynamic.apply(settings, MATCHING_KEYS)
        matching = Matching(store, at_history or late, clock, ids, notifier, settings, outbound=outbound)
    elif at_history is None:
        offers = RemoteOffers(at_matching, clock)
    to_matching: ServiceClient = at_matching or _made(matching)
    if at_history is None:
        listener = offers or _made(matching).offer
        late.service = history = History(
            store,
            to_matching,
            time or clock,
            ids,
            notifier,
            limits=config.dynamic.apply(Limits(), LIMIT_KEYS),
            task_listener=_listener(listener, metrics),
            exclusive=alone,
            wall=clock,
            outbound=outbound,
        )
    frontend_config = config.dynamic.apply(
        FrontendConfig(persistence_store=config.store.kind, auth=_auth(config)),
        FRONTEND_KEYS,
    )
    frontend = Frontend(
        store, at_history or _made(history), to_matching, clock, ids, frontend_config,
        namespaces=history.namespaces if history is not None else None,
    )  # fmt: skip
    clients = tuple(client for client in (at_history, at_matching) if client is not None)
    return Services(store, notifier, clock, ids, frontend, history, matching, offers, clients)


def _outbound(config: ServerConfig) -> Outbound:
    """Requests to addresses of callers. Hosts that `allowedAddresses` name one by one are named for all of them."""
    patterns = (
        *config.dynamic.apply(FrontendConfig(), FRONTEND_KEYS).callback_allowed_addresses,
        *config.dynamic.apply(MatchingConfig(), MATCHING_KEYS).push_webhook_addresses,
    )
    return Outbound(Named.parse(config.allow_outbound) | Named.by_patterns(pattern for pattern, _ in patterns))


def _auth(config: ServerConfig) -> AuthConfig | None:
    """With client certificates, the names that TLS has checked may be known like keys."""
    if config.auth is None or config.tls is None or not config.tls.client_ca:
        return config.auth
    return replace(config.auth, certificates=True)


def _elsewhere(name: str, urls: Sequence[str], config: ServerConfig, clock: Clock) -> HttpClient | None:
    """The processes that serve `name`, when others do."""
    if not urls:
        return None
    doors = [f"{url.rstrip('/')}/{name}" for url in urls]
    return HttpClient(doors, clock, credential(config.internal_secrets()), name=f"the {name} service", resend=False)


def _made(service: T | None) -> T:
    """What must live in this process, since nobody else was named for it."""
    assert service is not None
    return service


def _listener(
    offer: Callable[[Sequence[MatchingTask]], None], metrics: Metrics
) -> Callable[[Sequence[MatchingTask]], None]:
    if metrics is NO_METRICS:
        return offer

    def listen(tasks: Sequence[MatchingTask]) -> None:
        for task in tasks:
            metrics.tasks_added(task.key.task_type, 1)
        offer(tasks)

    return listen
