"""History as a Lambda function: called by the other two, and invoked by schedules and queues to fire timers.

Rules of this file: other instances are unknown, and nothing runs after a call is answered. So the effects of a call's
commits are performed before the answer; what is due later is in the store, and a wake-up may be set for it. What an
instance keeps between calls is only a cache.

The environment variables are those of HistorySettings (`functions.settings`). Without a wake queue, only polls and
the recurring schedule invoke history; with a prefix for workers' wake queues, workers are notified of tasks by queues
beside it.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any, Self

from whistlestop.common.clock import SECOND_NS, FunctionClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError
from whistlestop.common.ids import RandomIds
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.notify import RecheckNotifier
from whistlestop.common.proto import internal_pb2
from whistlestop.functions import lambda_shell
from whistlestop.functions.counts import counts_of
from whistlestop.functions.database import database_password, database_url
from whistlestop.functions.settings import HistorySettings, read
from whistlestop.functions.traces import traces_of
from whistlestop.functions.watched import watched
from whistlestop.history.engine.engine import Effects
from whistlestop.history.service import History
from whistlestop.history.timers.wake_ups import EarliestWakeUp, NoWakeUps
from whistlestop.net.outbound import Named, Outbound
from whistlestop.storage.outreach import Outreach
from whistlestop.storage.presence import Presence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.common.notify import Subscription
    from whistlestop.functions.counts import Counts
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.notifications.worker_notifications import WorkerNotifications
    from whistlestop.history.timers.wake_ups import WakeUps
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import TimerTask, TransferTask

_FIRE_WHILE_WAITING_NS = SECOND_NS // 2
_PAGE = 200
_PURGE_PAGE = 500
_log = logging.getLogger(__name__)
_clock = FunctionClock()
_instances: list[Instance] = []


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Serve the envelope of another function, or a wake-up (any other event)."""
    _clock.resume()
    return lambda_shell.run(_serve(event, context))


async def _serve(event: dict[str, Any], context: Any) -> dict[str, Any]:
    instance = await _instance()
    latest_ns = lambda_shell.latest_ns(context, _clock)
    if lambda_shell.is_call(event):
        answer = await lambda_shell.serve_event(instance.history, event, _clock, latest_ns)
    else:
        if instance.counts is not None:
            _count_lateness(instance.counts, event)
        answer = await _fire_timers(instance, latest_ns)
        if instance.counts is not None:
            instance.counts.count("TimersFired", answer["timers"])
    await instance.settle(latest_ns)
    if instance.counts is not None:
        instance.counts.grown("aside", {"failed": instance.history.aside.counted}, {"failed": "RowsFailed"})
        instance.counts.flush()
    return answer


async def _fire_timers(instance: Instance, latest_ns: int | None) -> dict[str, Any]:
    """Fire timers page by page while there is time, and delete expired queries.

    The next deadline is noted for a wake-up, which covers everything due after it.
    """
    history = instance.history
    timers = transfers = 0
    more, next_due_ns = True, 0
    while more and (latest_ns is None or _clock.steady_ns() < latest_ns):
        reply = await history.call(
            "FireDue", internal_pb2.FireDueRequest(limit=_PAGE), CallContext(deadline_ns=latest_ns, can_hold=False)
        )
        assert isinstance(reply, internal_pb2.FireDueResponse)
        timers, transfers, more = timers + reply.timers, transfers + reply.transfers, reply.more
        next_due_ns = reply.next_due_ns
    instance.earliest_wake_up.note(_clock.now_ns() if more else next_due_ns)
    purged = await history.store.purge_queries(_clock.now_ns(), _PURGE_PAGE)
    await history.aside.tidy()
    return {"timers": timers, "transfers": transfers, "queries": purged}


def _count_lateness(counts: Counts, event: dict[str, Any]) -> None:
    from whistlestop.history.timers.aws_wake_ups import lateness_ms

    for milliseconds in lateness_ms(event, _clock.now_ns()):
        counts.span("WakeLateness", milliseconds)


@dataclass(frozen=True, slots=True)
class Instance:
    """The objects with which this instance serves calls."""

    history: History
    earliest_wake_up: EarliestWakeUp
    wake_ups: WakeUps
    presence: Presence
    worker_notifications: WorkerNotifications | None = None
    counts: Counts | None = None

    async def settle(self, latest_ns: int | None) -> None:
        """Finish the call's work: deliver transfer tasks, set a wake-up, renew the membership row, notify workers."""
        await self.history.transfers.drain(latest_ns)
        await self.earliest_wake_up.arm(self.wake_ups)
        await self.presence.note()
        if self.worker_notifications is not None:
            await self.worker_notifications.settle()


class _FunctionEffects(Effects):
    """Deliver new transfer tasks within the call, and note timers for a wake-up; polls find matching tasks."""

    def __init__(self, history: History, earliest_wake_up: EarliestWakeUp) -> None:
        self._history = history
        self._earliest_wake_up = earliest_wake_up

    def timer(self, timer: TimerTask) -> None:
        self._earliest_wake_up.note(timer.fire_at_ns)

    def transfers(self, transfers: Sequence[TransferTask]) -> None:
        self._history.transfers.notify(transfers)


class _Waits(RecheckNotifier):
    """A notifier whose waiting callers also fire timers, as polls do."""

    history: History

    def subscribe(self, *topics: str) -> Subscription:
        return _Wait(super().subscribe(*topics), self.history)


class _Wait:
    elsewhere = True
    """A function has no cache that could be used instead of a read."""

    def __init__(self, waiting: Subscription, history: History) -> None:
        self._waiting = waiting
        self._history = history
        self._fired_ns = 0

    async def wait(self, deadline_ns: int) -> bool:
        notified = await self._waiting.wait(deadline_ns)
        now_ns = _clock.steady_ns()
        if notified and now_ns - self._fired_ns >= _FIRE_WHILE_WAITING_NS:
            self._fired_ns = now_ns
            context = CallContext(deadline_ns=deadline_ns, can_hold=False)
            try:
                await self._history.call("FireDue", internal_pb2.FireDueRequest(), context)
            except ServiceError as error:
                _log.warning("due timers and transfer tasks could not be processed: %r", error)
        return notified

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


async def _instance() -> Instance:
    """Return this instance's objects, created by its first call."""
    if not _instances:
        settings = read(HistorySettings)
        lambda_shell.log_through_powertools("history", settings.log_level)
        counts, traces = counts_of("history", settings), traces_of(_clock, settings)
        store = watched(_store(settings), counts, traces)
        await store.open()
        matching = lambda_shell.other_function(settings.matching_function, settings.matching_url, _clock)
        waits = _Waits(_clock)
        outbound, limits = Outbound(Named.parse(settings.allow_outbound)), None
        if settings.dynamic_config:
            limits = _limits(settings.dynamic_config, outbound)
        history = History(
            store, matching if traces is None else traces.client(matching, "matching"), _clock, RandomIds(), waits,
            limits=limits, exclusive=False, outbound=outbound,
        )  # fmt: skip
        waits.history = history
        earliest_wake_up = EarliestWakeUp()
        history.engine.effects = _FunctionEffects(history, earliest_wake_up)
        history.transfers.postponed = history.timers.postponed = earliest_wake_up.note
        presence = Presence(store, _clock, lambda_shell.instance_name(), "history")
        worker_notifications = _worker_notifications_of(settings)
        # Aurora DSQL has no NOTIFY, so no server can listen on it.
        sender = "" if settings.dsql_host else secrets.token_urlsafe(6)
        store.outreach = Outreach(None if worker_notifications is None else worker_notifications.notify, sender)
        _instances.append(
            Instance(history, earliest_wake_up, _wake_ups_of(settings, counts), presence, worker_notifications, counts)
        )
    return _instances[0]


def _limits(given: str, outbound: Outbound) -> Limits:
    """Return the limits by the dynamic configuration, and let `outbound` reach the addresses in it."""
    # Imported where it is needed: a cold start pays for every module.
    from whistlestop.common.dynamic_config import allowed_addresses
    from whistlestop.functions.dynamic import read_document
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.dynamic_keys import LIMIT_KEYS

    dynamic = read_document(given, LIMIT_KEYS)
    outbound.allow(allowed_addresses(dynamic))
    return dynamic.apply(Limits(), LIMIT_KEYS)


def _wake_ups_of(settings: HistorySettings, counts: Counts | None) -> WakeUps:
    if not settings.wake_queue_url:
        return NoWakeUps()
    from whistlestop.history.timers.aws_wake_ups import AwsWakeUps, WakeUpTarget

    target = WakeUpTarget(
        settings.wake_queue_url, settings.wake_queue_arn, settings.wake_schedule_group, settings.wake_role_arn
    )
    return AwsWakeUps(target, _clock, counts=counts)


def _worker_notifications_of(settings: HistorySettings) -> WorkerNotifications | None:
    if not settings.wake_queue_url or not settings.worker_wake_prefix:
        return None
    from whistlestop.history.notifications.worker_notifications import WorkerNotifications

    return WorkerNotifications(settings.wake_queue_url, _clock)


def _store(settings: HistorySettings) -> Store:
    url = database_url(settings)
    if url:
        from whistlestop.storage.postgres.store import PostgresStore

        return PostgresStore(url, pool_size=1, prepare=False, password=database_password(settings, url))
    from whistlestop.storage.sqlite.store import SqliteStore

    return SqliteStore(settings.sqlite_path)
