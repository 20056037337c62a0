"""Wake-ups on AWS: SQS delays within their fifteen minutes, one-time EventBridge schedules beyond.

Rules of this file, on top of those of `wake_ups`:

    - A wake-up handles everything due and sets the next one. So one wake-up covers everything that is due after it, and
      an instance that knows of one only sets earlier ones.
    - A schedule is exact only to a minute. It is set to fire early, never late, and then the wake-up sets the exact
      delay of a message.
    - A schedule is named after its minute, so instances that set one for the same minute share it.
    - Setting a wake-up may fail. The commit stays valid, and the recurring schedule finds what no wake-up reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.net import aws

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.clock import Clock
    from whistlestop.functions.metrics import FunctionMetrics

MOST_DELAY_S = 900
"""The longest delay of an SQS message."""
MINUTE_NS = 60 * SECOND_NS
NEARLY_NS = 5 * SECOND_NS
"""A wake-up this near may have been taken already, by an instance whose clock is ahead, before it saw what is due
now."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WakeUpTarget:
    """The queue whose messages invoke history, and how schedules reach it."""

    queue_url: str
    queue_arn: str
    schedule_group: str
    role_arn: str
    """The role with which EventBridge Scheduler sends to the queue."""


class AwsWakeUps:
    """Set wake-ups. `sqs` and `scheduler` are like boto3's clients; by default they are created at first use."""

    def __init__(
        self,
        target: WakeUpTarget,
        clock: Clock,
        sqs: Any = None,
        scheduler: Any = None,
        metrics: FunctionMetrics | None = None,
    ) -> None:
        self._target = target
        self._clock = clock
        self._sqs = sqs
        self._scheduler = scheduler
        self._metrics = metrics
        self._armed: list[int] = []
        """The future wake-ups that this instance has set, the next one last."""

    async def arm(self, at_ns: int) -> None:
        """Invoke the function at or soon after `at_ns` (nanoseconds since the Unix epoch).

        A failure is logged: then due timers wait for the recurring schedule.
        """
        now_ns = self._clock.now_ns()
        if self._stands(at_ns, now_ns):
            return
        delay_s = max(-(-(at_ns - now_ns) // SECOND_NS), 0)
        wake_up_ns = now_ns + delay_s * SECOND_NS if delay_s <= MOST_DELAY_S else scheduled_ns(at_ns)
        try:
            if delay_s <= MOST_DELAY_S:
                await asyncio.to_thread(self._send, delay_s, at_ns)
            else:
                await asyncio.to_thread(self._schedule, wake_up_ns, at_ns)
        except aws.AwsError as error:
            self._count("WakesFailed")
            _log.warning("no wake-up could be set, so due timers wait for the recurring schedule: %r", error)
            return
        self._count("WakesArmed")
        self._armed.append(wake_up_ns)

    def _stands(self, at_ns: int, now_ns: int) -> bool:
        """Return whether a known wake-up comes in time, and late enough to be certainly still ahead."""
        while self._armed and self._armed[-1] < now_ns + NEARLY_NS:
            self._armed.pop()
        return bool(self._armed) and self._armed[-1] // SECOND_NS <= at_ns // SECOND_NS

    def _count(self, name: str) -> None:
        if self._metrics is not None:
            self._metrics.count(name)

    def _send(self, delay_s: int, at_ns: int) -> None:
        if self._sqs is None:
            self._sqs = aws.client("sqs")
        self._sqs.send_message(QueueUrl=self._target.queue_url, DelaySeconds=delay_s, MessageBody=_message(at_ns))

    def _schedule(self, wake_up_ns: int, at_ns: int) -> None:
        if self._scheduler is None:
            self._scheduler = aws.client("scheduler")
        minute = datetime.fromtimestamp(wake_up_ns // SECOND_NS, UTC)
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
            if error.code != "ConflictException":  # another commit set one for that minute
                raise


def scheduled_ns(at_ns: int) -> int:
    """Return the full minute for which a schedule is set, so that it fires by `at_ns` even at the end of its minute.

    In nanoseconds since the Unix epoch.
    """
    return (at_ns - MINUTE_NS) // MINUTE_NS * MINUTE_NS


def lateness_ms(event: Mapping[str, Any], now_ns: int) -> list[float]:
    """Return by how many milliseconds the queue's messages in `event` came late; empty for any other event."""
    late: list[float] = []
    for record in event.get("Records", ()):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            deadline = datetime.fromisoformat(json.loads(record["body"])["due"])
            late.append(max(now_ns / 1e6 - deadline.timestamp() * 1000, 0.0))
    return late


def _message(at_ns: int) -> str:
    """Return the message's text, which is for operators; the wake-up does not use it."""
    at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_ns // 1000)
    return json.dumps({"wake": "timers", "due": at.isoformat(timespec="milliseconds")})
