"""An instance of the matching function.

Nothing is remembered between calls: task rows are the truth, and poller rows tell who polls. Polls are short, and each
lets history fire the timers that are due.

The environment variables are those of MatchingSettings (`functions.settings`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.common.ids import RandomIds
from whistlestop.common.notify import RecheckNotifier
from whistlestop.common.proto.deployment_pb2 import PushWorkersResponse
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.functions.bootstrap import serve_event
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.service import Matching
from whistlestop.matching.timer_scan import StoredTimerScan
from whistlestop.net.outbound import Named, Outbound

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Rpc
    from whistlestop.functions.bootstrap import Environment, Invocation
    from whistlestop.functions.settings import MatchingSettings

_POLLS = {
    "fresh": "PollsServed", "backlogged": "PollsServedFromBacklog", "empty": "PollsEmpty", "stale": "TasksStale",
    "failed": "PollsFailed",
}  # fmt: skip


class MatchingInstance:
    """The objects with which an instance serves calls."""

    rpcs = MatchingService.rpcs

    def __init__(self, environment: Environment[MatchingSettings]) -> None:
        settings, clock, store = environment.settings, environment.clock, environment.store
        history = environment.client("history", settings.history_function, settings.history_url)
        config = MatchingConfig(
            remote_notifications=False, notification_queue_prefix=settings.notification_queue_prefix
        )
        outbound = Outbound(Named.parse(settings.allow_outbound))
        if settings.dynamic_config:
            config = _configured(config, settings.dynamic_config, outbound)
        self.matching = Matching(
            store,
            history,
            clock,
            RandomIds(),
            RecheckNotifier(clock),
            config,
            timer_scan=StoredTimerScan(store, HistoryService(history), clock),
            outbound=outbound,
        )
        self._environment = environment

    async def serve(self, event: dict[str, Any], invocation: Invocation) -> dict[str, Any]:
        """Serve the envelope of another function; return the reply envelope, which may hold a ServiceError."""
        answer = await serve_event(self, event, self._environment.clock, invocation.latest_ns)
        await self.matching.settle()
        await self._environment.heartbeat.renew()
        metrics = self._environment.metrics
        if metrics is not None:
            polls = self.matching.counters
            metrics.count_growth("polls", {name: getattr(polls, name) for name in _POLLS}, _POLLS)
            metrics.flush()
        return answer

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        """Call matching, and count the workers that it started. Raise ServiceError."""
        reply = await self.matching.call(rpc, request, context)
        metrics = self._environment.metrics
        if metrics is not None and isinstance(reply, PushWorkersResponse):
            metrics.count("WorkersStarted", reply.started)
        return reply


def _configured(config: MatchingConfig, given: str, outbound: Outbound) -> MatchingConfig:
    """Return the configuration with the values of the dynamic one, and let `outbound` reach the addresses in it."""
    # Imported where it is needed: a cold start pays for every module.
    from whistlestop.common.dynamic_config import allowed_addresses
    from whistlestop.functions.dynamic import read_document
    from whistlestop.matching.dynamic_keys import MATCHING_KEYS

    dynamic = read_document(given, MATCHING_KEYS)
    outbound.allow(allowed_addresses(dynamic))
    return dynamic.apply(config, MATCHING_KEYS)
