"""SQS and EventBridge Scheduler as the functions of `small_lambda` find them: in the test's own process, counted, faulty.

Wakes invoke history, as the real queue does. `Faults` says how many are lost, doubled or late; time may be sped up.
Wake queues of bridges are plain queues: `client()` is what a bridge is given for boto3's client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

WAKES = "http://aws/123456789012/stack-wakes"
BRIDGE_PREFIX = "stack-bridge-"
ENVIRONMENT = {
    "WHISTLESTOP_WAKE_UP_QUEUE_URL": WAKES,
    "WHISTLESTOP_WAKE_UP_QUEUE_ARN": "arn:aws:sqs:eu-central-1:123456789012:stack-wakes",
    "WHISTLESTOP_WAKE_UP_SCHEDULE_GROUP": "stack-wakes",
    "WHISTLESTOP_WAKE_UP_ROLE_ARN": "arn:aws:iam::123456789012:role/scheduler",
    "WHISTLESTOP_NOTIFICATION_QUEUE_PREFIX": BRIDGE_PREFIX,
}
_NAMES_OF_0_1_0 = {
    "WAKE_UP_QUEUE_URL": "WAKE_QUEUE_URL", "WAKE_UP_QUEUE_ARN": "WAKE_QUEUE_ARN", "WAKE_UP_ROLE_ARN": "WAKE_ROLE_ARN",
    "WAKE_UP_SCHEDULE_GROUP": "WAKE_SCHEDULE_GROUP", "NOTIFICATION_QUEUE_PREFIX": "WORKER_WAKE_PREFIX",
}  # fmt: skip
for _new, _old in _NAMES_OF_0_1_0.items():
    ENVIRONMENT[f"WHISTLESTOP_{_old}"] = ENVIRONMENT[f"WHISTLESTOP_{_new}"]
"""As the stack sets them: under both names, since functions of release 0.1.0 may run with this environment."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of messages, each between 0 and 1."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    late_s: float = 3.0


@dataclass(slots=True)
class FakeAws:
    """Use `serving` as a context. `wake` invokes history with a batch of messages."""

    folder: Path
    wake: Callable[[list[str]], Awaitable[object]]
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    faults: Faults = Faults()
    wake_faults: Faults = Faults()
    """Of the queues of bridges."""
    counts: Counter[str] = field(default_factory=Counter)
    _queues: dict[str, queue.SimpleQueue[str]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._answer, str(self.folder / "aws.sock"))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        self.counts[f"{asked['service']}.{asked['operation']}"] += 1
        answer = getattr(self, asked["operation"])(**asked["fields"])
        with contextlib.suppress(ConnectionError):  # who asked was killed
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    # What functions do.

    def send_message(self, *, QueueUrl: str, MessageBody: str, DelaySeconds: float = 0) -> dict[str, Any]:  # noqa: N803
        if QueueUrl == WAKES:
            self._deliver(self.faults, DelaySeconds, lambda: self._woken(MessageBody))
            return {}
        name = QueueUrl.rpartition("/")[2]
        if name not in self._queues:
            return {"code": "QueueDoesNotExist"}
        self._deliver(self.wake_faults, 0, lambda: self._queued(name, MessageBody))
        return {}

    def create_schedule(self, *, Name: str, ScheduleExpression: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        at = datetime.fromisoformat(ScheduleExpression.removeprefix("at(").rstrip(")")).replace(tzinfo=UTC)
        self._deliver(self.faults, at.timestamp() - time.time(), lambda: self._woken(Name))
        return {}

    def _deliver(self, faults: Faults, delay_s: float, deliver: Callable[[], Awaitable[None]]) -> None:
        if self.chance.random() < faults.lost:
            self.counts["lost"] += 1
            return
        times = 1
        if self.chance.random() < faults.doubled:
            self.counts["doubled"] += 1
            times = 2
        for _ in range(times):
            late_s = self.chance.uniform(0, faults.late_s) if self.chance.random() < faults.late else 0.0
            self.counts["late"] += bool(late_s)
            task = asyncio.get_running_loop().create_task(self._after(max(delay_s, 0) + late_s, deliver))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _after(self, delay_s: float, deliver: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(delay_s)
        await deliver()

    async def _woken(self, body: str) -> None:
        self.counts["wakes"] += 1
        await self.wake([body])

    async def _queued(self, name: str, body: str) -> None:
        if name in self._queues:
            self._queues[name].put(body)

    # What a bridge does, on a thread of its own.

    def client(self) -> BridgeSqs:
        return BridgeSqs(self._queues, self.counts)


class BridgeSqs:
    """The part of boto3's client that a bridge uses."""

    def __init__(self, queues: dict[str, queue.SimpleQueue[str]], counts: Counter[str]) -> None:
        self._queues = queues
        self._counts = counts

    def create_queue(self, *, QueueName: str, Attributes: object) -> dict[str, str]:  # noqa: N803 - AWS's names
        self._queues[QueueName] = queue.SimpleQueue()
        return {"QueueUrl": f"http://aws/123456789012/{QueueName}"}

    def receive_message(self, *, QueueUrl: str, WaitTimeSeconds: int, **_: object) -> dict[str, Any]:  # noqa: N803
        self._counts["sqs.receive_message"] += 1
        found = self._queues[QueueUrl.rpartition("/")[2]]
        try:
            messages = [found.get(timeout=WaitTimeSeconds or 0.001)]
        except queue.Empty:
            return {}
        while not found.empty() and len(messages) < 10:
            messages.append(found.get())
        return {"Messages": [{"Body": body} for body in messages]}

    def list_queues(self, **_: object) -> dict[str, Any]:
        return {}

    def delete_queue(self, *, QueueUrl: str) -> None:  # noqa: N803
        self._queues.pop(QueueUrl.rpartition("/")[2], None)
