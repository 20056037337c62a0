"""The alarm on AWS: SQS delays within their fifteen minutes, one-time EventBridge schedules beyond.

Rules of this file, on top of those of `alarm`:

    - A wake looks at everything and arms for what is due next. So one wake stands for all that is due after it, and an
      instance that knows of one arms only for what comes before it.
    - A schedule is exact to a minute only. It is set so that it comes early, never late, and what wakes then arms
      again, by the exact delay of a message.
    - A schedule is named by its minute, so many instances that arm for the same minute have one schedule together.
    - Arming may fail. The commit that asked for it stands, and the recurring schedule finds what no wake reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from whistlestop.common import aws
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.clock import Clock
    from whistlestop.common.doors.counts import Counts

MOST_DELAY_S = 900
"""Of an SQS message."""
MINUTE_NS = 60 * SECOND_NS
NEARLY_NS = 5 * SECOND_NS
"""A wake as near as this may be taken already, by an instance whose clock is ahead, before it saw what is due now."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WakeTarget:
    """Where wakes go: a queue whose messages invoke history, and how schedules reach it."""

    queue_url: str
    queue_arn: str
    schedule_group: str
    role_arn: str
    """The role by which EventBridge Scheduler sends to the queue."""


class AwsAlarm:
    """Arms wakes. `sqs` and `scheduler` are as boto3's clients, made at the first use when not given."""

    def __init__(
        self, target: WakeTarget, clock: Clock, sqs: Any = None, scheduler: Any = None, counts: Counts | None = None
    ) -> None:
        self._target = target
        self._clock = clock
        self._sqs = sqs
        self._scheduler = scheduler
        self._counts = counts
        self._armed: list[int] = []
        """Wakes to come that this instance knows of, the next one last: each was armed for being before the others."""

    async def arm(self, at_ns: int) -> None:
        now_ns = self._clock.now_ns()
        if self._stands(at_ns, now_ns):
            return
        delay_s = max(-(-(at_ns - now_ns) // SECOND_NS), 0)
        wake_ns = now_ns + delay_s * SECOND_NS if delay_s <= MOST_DELAY_S else scheduled_ns(at_ns)
        try:
            if delay_s <= MOST_DELAY_S:
                await asyncio.to_thread(self._send, delay_s, at_ns)
            else:
                await asyncio.to_thread(self._schedule, wake_ns, at_ns)
        except aws.AwsError as error:
            self._count("WakesFailed")
            _log.warning("no wake could be armed, the recurring schedule has to find what is due: %r", error)
            return
        self._count("WakesArmed")
        self._armed.append(wake_ns)

    def _stands(self, at_ns: int, now_ns: int) -> bool:
        """Whether a wake that this instance knows of comes in time, and late enough to be sure that it is to come."""
        while self._armed and self._armed[-1] < now_ns + NEARLY_NS:
            self._armed.pop()
        return bool(self._armed) and self._armed[-1] // SECOND_NS <= at_ns // SECOND_NS

    def _count(self, name: str) -> None:
        if self._counts is not None:
            self._counts.count(name)

    def _send(self, delay_s: int, at_ns: int) -> None:
        if self._sqs is None:
            self._sqs = aws.client("sqs")
        self._sqs.send_message(QueueUrl=self._target.queue_url, DelaySeconds=delay_s, MessageBody=_message(at_ns))

    def _schedule(self, wake_ns: int, at_ns: int) -> None:
        if self._scheduler is None:
            self._scheduler = aws.client("scheduler")
        minute = datetime.fromtimestamp(wake_ns // SECOND_NS, UTC)
        try:
            self._scheduler.create_schedule(
                Name=f"wake-{minute:%Y%m%dT%H%M}",
                GroupName=self._target.schedule_group,
                ScheduleExpression=f"at({minute:%Y-%m-%dT%H:%M:%S})",
                ScheduleExpressionTimezone="UTC",
                FlexibleTimeWindow={"Mode": "OFF"},
                ActionAfterCompletion="DELETE",
                Target={
                    "Arn": self._target.queue_arn, "RoleArn": self._target.role_arn, "Input": _message(at_ns),
                },
            )  # fmt: skip
        except aws.AwsError as error:
            if error.code != "ConflictException":  # another commit armed for that minute
                raise


def scheduled_ns(at_ns: int) -> int:
    """The full minute for which a schedule is set, to have fired by `at_ns` even at the end of its minute."""
    return (at_ns - MINUTE_NS) // MINUTE_NS * MINUTE_NS


def lateness_ms(event: Mapping[str, Any], now_ns: int) -> list[float]:
    """How late messages of the queue came for what they were armed for; nothing of a schedule's or another's event."""
    late: list[float] = []
    for record in event.get("Records", ()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            due = datetime.fromisoformat(json.loads(record["body"])["due"])
            late.append(max(now_ns / 1e6 - due.timestamp() * 1000, 0.0))
    return late


def _message(at_ns: int) -> str:
    """What people see in the queue. The wake itself takes nothing from it."""
    at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_ns // 1000)
    return json.dumps({"wake": "timers", "due": at.isoformat(timespec="milliseconds")})
