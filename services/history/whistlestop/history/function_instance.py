"""An instance of the history function: serves calls of the other two, and wake-ups, by which it fires timers.

Rules of this file: other instances are unknown, and nothing runs after a call is answered. So the effects of a call's
commits are performed before the answer; what is due later is in the store, and a wake-up may be set for it. What an
instance keeps between calls is only a cache.

The environment variables are those of HistorySettings (`functions.settings`). Without a wake-up queue, only polls and
the recurring schedule invoke history; with a prefix for the notification queues of workers, workers are notified of
tasks by these queues as well.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Any, Self

from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError
from whistlestop.common.ids import RandomIds
from whistlestop.common.notify import RecheckNotifier
from whistlestop.common.proto import internal_pb2
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.functions.bootstrap import is_call, serve_event
from whistlestop.history.service import History
from whistlestop.history.timers.wake_ups import EarliestWakeUp, NoWakeUps
from whistlestop.net.outbound import Named, Outbound
from whistlestop.storage.notifications import Notifications

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.common.clock import Clock
    from whistlestop.common.notify import Subscription
    from whistlestop.functions.bootstrap import Environment, Invocation
    from whistlestop.functions.metrics import FunctionMetrics
    from whistlestop.functions.settings import HistorySettings
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.notifications.worker_notifications import WorkerNotifications
    from whistlestop.history.timers.wake_ups import WakeUps

_FIRE_WHILE_WAITING_NS = SECOND_NS // 2
_PAGE = 200
_PURGE_PAGE = 500
_log = logging.getLogger(__name__)


class HistoryInstance:
    """The objects with which an instance serves calls."""

    def __init__(self, environment: Environment[HistorySettings]) -> None:
        settings, clock, store = environment.settings, environment.clock, environment.store
        matching = environment.client("matching", settings.matching_function, settings.matching_url)
        self._earliest_wake_up = EarliestWakeUp()
        outbound, limits = Outbound(Named.parse(settings.allow_outbound)), None
        if settings.dynamic_config:
            limits = _limits(settings.dynamic_config, outbound)
        self.history = History(
            store, matching, clock, RandomIds(), _Waits(clock, self._fire_for), limits=limits, exclusive=False,
            outbound=outbound, timer_listener=self._earliest_wake_up.note,
        )  # fmt: skip
        self._wake_ups = _wake_ups_of(settings, clock, environment.metrics)
        self._worker_notifications = _worker_notifications_of(settings, clock)
        # Aurora DSQL has no NOTIFY, so no server can listen on it.
        sender = "" if settings.dsql_host else secrets.token_urlsafe(6)
        store.notifications = Notifications(
            None if self._worker_notifications is None else self._worker_notifications.notify, sender
        )
        self._environment = environment
        self._clock = clock

    async def serve(self, event: dict[str, Any], invocation: Invocation) -> dict[str, Any]:
        """Serve the envelope of another function, or a wake-up (any other event).

        Return the reply envelope; ServiceErrors are in it.
        """
        latest_ns, metrics = invocation.latest_ns, self._environment.metrics
        if is_call(event):
            answer = await serve_event(self.history, event, self._clock, latest_ns)
        else:
            if metrics is not None:
                self._count_lateness(metrics, event)
            answer = await self._fire_timers(latest_ns)
            if metrics is not None:
                metrics.count("TimersFired", answer["timers"])
        await self.settle(latest_ns)
        if metrics is not None:
            metrics.count_growth("aside", {"failed": self.history.aside.counted}, {"failed": "RowsFailed"})
            metrics.flush()
        return answer

    async def settle(self, latest_ns: int | None) -> None:
        """Finish the call's work: deliver transfer tasks, set a wake-up, renew the membership row, notify workers.

        From `latest_ns` (steady clock; None: no limit) on, no delivery is started. Failures are logged.
        """
        await self.history.transfers.drain(latest_ns)
        await self._earliest_wake_up.arm(self._wake_ups)
        await self._environment.heartbeat.renew()
        if self._worker_notifications is not None:
            await self._worker_notifications.settle()

    async def _fire_timers(self, latest_ns: int | None) -> dict[str, Any]:
        """Fire timers page by page while there is time, and delete expired queries.

        The next deadline is noted for a wake-up, which covers everything due after it.
        """
        history = self.history
        timers = transfers = 0
        more, next_deadline_ns = True, 0
        while more and (latest_ns is None or self._clock.steady_ns() < latest_ns):
            context = CallContext(deadline_ns=latest_ns, can_long_poll=False)
            answer = await HistoryService(history).FireTimers(internal_pb2.FireTimersRequest(limit=_PAGE), context)
            reply = decoded(answer, internal_pb2.FireTimersResponse)
            timers, transfers, more = timers + reply.timers, transfers + reply.transfers, reply.more
            next_deadline_ns = reply.next_due_ns
        self._earliest_wake_up.note(self._clock.now_ns() if more else next_deadline_ns)
        purged = await history.store.purge_queries(self._clock.now_ns(), _PURGE_PAGE)
        await history.aside.tidy()
        return {"timers": timers, "transfers": transfers, "queries": purged}

    async def _fire_for(self, deadline_ns: int) -> None:
        """Fire a page of timers while a caller waits, as a poll does."""
        context = CallContext(deadline_ns=deadline_ns, can_long_poll=False)
        try:
            await HistoryService(self.history).FireTimers(internal_pb2.FireTimersRequest(), context)
        except ServiceError as error:
            _log.warning("expired timers and transfer tasks could not be processed: %r", error)

    def _count_lateness(self, metrics: FunctionMetrics, event: dict[str, Any]) -> None:
        from whistlestop.history.timers.aws_wake_ups import lateness_ms

        for milliseconds in lateness_ms(event, self._clock.now_ns()):
            metrics.span("WakeLateness", milliseconds)


class _Waits(RecheckNotifier):
    """A notifier whose waiting callers also fire timers, as polls do."""

    def __init__(self, clock: Clock, fire: Callable[[int], Awaitable[None]]) -> None:
        super().__init__(clock)
        self._steady = clock
        self._fire = fire

    def subscribe(self, *topics: str) -> Subscription:
        return _Wait(super().subscribe(*topics), self._fire, self._steady)


class _Wait:
    remote = True
    """A function has no cache that could be used instead of a read."""

    def __init__(self, waiting: Subscription, fire: Callable[[int], Awaitable[None]], clock: Clock) -> None:
        self._waiting = waiting
        self._fire = fire
        self._clock = clock
        self._fired_ns = 0

    async def wait(self, deadline_ns: int) -> bool:
        notified = await self._waiting.wait(deadline_ns)
        now_ns = self._clock.steady_ns()
        if notified and now_ns - self._fired_ns >= _FIRE_WHILE_WAITING_NS:
            self._fired_ns = now_ns
            await self._fire(deadline_ns)
        return notified

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


def _wake_ups_of(settings: HistorySettings, clock: Clock, metrics: FunctionMetrics | None) -> WakeUps:
    if not settings.wake_up_queue_url:
        return NoWakeUps()
    from whistlestop.history.timers.aws_wake_ups import AwsWakeUps, WakeUpTarget

    target = WakeUpTarget(
        settings.wake_up_queue_url,
        settings.wake_up_queue_arn,
        settings.wake_up_schedule_group,
        settings.wake_up_role_arn,
    )
    return AwsWakeUps(target, clock, metrics=metrics)


def _worker_notifications_of(settings: HistorySettings, clock: Clock) -> WorkerNotifications | None:
    if not settings.wake_up_queue_url or not settings.notification_queue_prefix:
        return None
    from whistlestop.history.notifications.worker_notifications import WorkerNotifications

    return WorkerNotifications(settings.wake_up_queue_url, clock)


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
