"""Notifications of workers that sleep until there is a task for them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.history.notifications.worker_notifications import WorkerNotifications
from whistlestop.net.aws import AwsError

NEAR = "https://sqs.eu-central-1.amazonaws.com/123456789012/stack-wakes"


class FakeSqs:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.errors: dict[str, AwsError] = {}
        self.gate: threading.Event | None = None

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> dict[str, Any]:  # noqa: N803 - AWS's names
        assert MessageBody
        if self.gate is not None:
            self.gate.wait(10)
        folder, _, name = QueueUrl.rpartition("/")
        assert folder == NEAR.rpartition("/")[0]
        self.sent.append(name)
        if name in self.errors:
            raise self.errors[name]
        return {}


async def test_each_queue_gets_one_message_for_what_happens_at_once() -> None:
    client = FakeSqs()
    wakes = WorkerNotifications(NEAR, FakeClock(), client)
    wakes.notify(["a", "b"])
    wakes.notify(["a"])
    await wakes.settle()
    assert sorted(client.sent) == ["a", "b"]


async def test_a_task_added_while_a_message_is_sent_causes_another_message() -> None:
    """The worker may have looked before it happened."""
    client = FakeSqs()
    client.gate = threading.Event()
    wakes = WorkerNotifications(NEAR, FakeClock(), client)
    wakes.notify(["a"])
    await asyncio.sleep(0.02)
    wakes.notify(["a"])
    client.gate.set()
    await wakes.settle()
    assert client.sent == ["a", "a"]


async def test_a_queue_that_does_not_exist_is_skipped_for_a_minute() -> None:
    clock, client = FakeClock(), FakeSqs()
    client.errors["a"] = AwsError("QueueDoesNotExist", "gone")
    wakes = WorkerNotifications(NEAR, clock, client)
    for _ in range(3):
        wakes.notify(["a", "b"])
        await wakes.settle()
    assert client.sent.count("a") == 1
    assert client.sent.count("b") == 3
    await clock.advance(61)
    assert clock.now_ns() > 61 * SECOND_NS
    wakes.notify(["a"])
    await wakes.settle()
    assert client.sent.count("a") == 2


async def test_a_failure_to_notify_affects_no_call() -> None:
    client = FakeSqs()
    client.errors["a"] = AwsError("Unreachable", "no")
    wakes = WorkerNotifications(NEAR, FakeClock(), client)
    wakes.notify(["a"])
    await wakes.settle()
    wakes.notify(["a"])
    await wakes.settle()
    assert (client.sent, wakes.sent) == (["a", "a"], 0)
