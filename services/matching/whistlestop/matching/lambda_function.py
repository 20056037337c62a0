"""Matching as a Lambda function, called by the other two functions.

Nothing is remembered between calls: task rows are the truth, and poller rows tell who polls. Polls are short, and each
lets history fire the timers that are due.

The environment variables are those of MatchingSettings (`functions.settings`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.common.clock import FunctionClock
from whistlestop.common.ids import RandomIds
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.notify import RecheckNotifier
from whistlestop.common.proto.deployment_pb2 import PushWorkersResponse
from whistlestop.functions import lambda_shell
from whistlestop.functions.counts import counts_of
from whistlestop.functions.database import database_password, database_url
from whistlestop.functions.settings import MatchingSettings, read
from whistlestop.functions.traces import traces_of
from whistlestop.functions.watched import watched
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.due import DueRows
from whistlestop.matching.service import Matching
from whistlestop.net.outbound import Named, Outbound
from whistlestop.storage.presence import Presence

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.functions.counts import Counts
    from whistlestop.storage.interface import Store

_clock = FunctionClock()
_instances: list[Instance] = []
_POLLS = {
    "fresh": "PollsServed", "backlogged": "PollsServedFromBacklog", "empty": "PollsEmpty", "stale": "TasksStale",
    "failed": "PollsFailed",
}  # fmt: skip


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Serve the envelope of another function; return the reply envelope."""
    _clock.resume()
    return lambda_shell.run(_serve(event, context))


async def _serve(event: dict[str, Any], context: Any) -> dict[str, Any]:
    instance = await _instance()
    answer = await lambda_shell.serve_event(instance, event, _clock, lambda_shell.latest_ns(context, _clock))
    await instance.matching.settle()
    await instance.presence.note()
    if instance.counts is not None:
        polls = instance.matching.counters
        instance.counts.grown("polls", {name: getattr(polls, name) for name in _POLLS}, _POLLS)
        instance.counts.flush()
    return answer


@dataclass(frozen=True, slots=True)
class Instance:
    """The objects with which this instance serves calls."""

    matching: Matching
    presence: Presence
    counts: Counts | None

    async def call(self, method: str, request: Message, context: CallContext) -> Reply:
        """Call matching, and count the workers that it started."""
        reply = await self.matching.call(method, request, context)
        if self.counts is not None and isinstance(reply, PushWorkersResponse):
            self.counts.count("WorkersStarted", reply.started)
        return reply


async def _instance() -> Instance:
    """Return this instance's objects, created by its first call."""
    if not _instances:
        settings = read(MatchingSettings)
        lambda_shell.log_through_powertools("matching", settings.log_level)
        counts, traces = counts_of("matching", settings), traces_of(_clock, settings)
        store = watched(_store(settings), counts, traces)
        await store.open()
        history = lambda_shell.other_function(settings.history_function, settings.history_url, _clock)
        if traces is not None:
            history = traces.client(history, "history")
        config = MatchingConfig(hear_others=False, wake_queue_prefix=settings.worker_wake_prefix)
        outbound = Outbound(Named.parse(settings.allow_outbound))
        if settings.dynamic_config:
            config = _configured(config, settings.dynamic_config, outbound)
        matching = Matching(
            store, history, _clock, RandomIds(), RecheckNotifier(_clock), config, due=DueRows(store, history, _clock),
            outbound=outbound,
        )  # fmt: skip
        presence = Presence(store, _clock, lambda_shell.instance_name(), "matching")
        _instances.append(Instance(matching, presence, counts))
    return _instances[0]


def _configured(config: MatchingConfig, given: str, outbound: Outbound) -> MatchingConfig:
    """Return the configuration with the values of the dynamic one, and let `outbound` reach the addresses in it."""
    # Imported where it is needed: a cold start pays for every module.
    from whistlestop.common.dynamic_config import allowed_addresses
    from whistlestop.functions.dynamic import read_document
    from whistlestop.matching.dynamic_keys import MATCHING_KEYS

    dynamic = read_document(given, MATCHING_KEYS)
    outbound.allow(allowed_addresses(dynamic))
    return dynamic.apply(config, MATCHING_KEYS)


def _store(settings: MatchingSettings) -> Store:
    url = database_url(settings)
    if url:
        from whistlestop.storage.postgres.store import PostgresStore

        return PostgresStore(url, pool_size=1, prepare=False, password=database_password(settings, url))
    from whistlestop.storage.sqlite.store import SqliteStore

    return SqliteStore(settings.sqlite_path)
