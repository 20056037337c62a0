"""Offers new tasks to the matching processes that hold the polls, when other processes serve matching.

An offer may be lost: the notification through the database reaches matching as well. One request per commit would be
many, so tasks that are committed while an offer is being sent are sent together with the next one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.matching.offers import request_of
from whistlestop.net.internal.routing import queue_route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.common.clock import Clock
    from whistlestop.net.internal.http_client import HttpClient
    from whistlestop.storage.records import MatchingTask

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Maximum number of tasks that wait to be offered; the others are left to notifications."""
_AT_ONCE = 500
_DEADLINE_NS = 2 * SECOND_NS


class RemoteOffers:
    """Call it with the tasks of a commit."""

    def __init__(self, matching: HttpClient, clock: Clock) -> None:
        self._matching = matching
        self._clock = clock
        self._waiting: dict[str, list[MatchingTask]] = {}
        """Tasks by the routing key of their queues' owner."""
        self._count = 0
        self._sending: dict[str, asyncio.Task[None]] = {}

    def __call__(self, tasks: Sequence[MatchingTask]) -> None:
        for task in tasks:
            if self._count >= MAX_WAITING:
                return
            key = task.key
            route = f"{key.namespace_id}/{queue_route(key.task_queue)}"
            self._waiting.setdefault(route, []).append(task)
            self._count += 1
            if route not in self._sending:
                self._sending[route] = asyncio.create_task(self._send(route), name="offers")

    async def close(self) -> None:
        """Stop sending."""
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, route: str) -> None:
        try:
            while waiting := self._waiting.pop(route, None):
                self._count -= len(waiting)
                for first in range(0, len(waiting), _AT_ONCE):
                    await self._offer(route, waiting[first : first + _AT_ONCE])
        finally:
            del self._sending[route]

    async def _offer(self, route: str, tasks: Sequence[MatchingTask]) -> None:
        context = CallContext(deadline_ns=self._clock.steady_ns() + _DEADLINE_NS)
        try:
            await self._matching.call_at(route, MatchingService.OfferTasks, request_of(tasks), context)
        except ServiceError as error:
            log.debug("%d tasks were not offered: %s", len(tasks), error.message)
