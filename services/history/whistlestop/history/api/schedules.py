"""The RPCs of schedules, which are imported at first use because most cold starts do without them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.history.api import METHODS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.history.service import History


def _served(method: str) -> Callable[[History, Any, CallContext], Awaitable[Reply]]:
    async def serve(service: History, request: Any, context: CallContext) -> Reply:
        from whistlestop.history.schedule.rpcs import SERVED

        return await SERVED[method](service, request, context)

    return serve


for _method in (
    "CreateSchedule", "DescribeSchedule", "UpdateSchedule", "PatchSchedule", "DeleteSchedule",
    "ListScheduleMatchingTimes",
):  # fmt: skip
    METHODS[_method] = _served(_method)
