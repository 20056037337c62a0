"""The notification queue on SQS, as moto has it: made, listened to, tidied up, deleted."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import boto3  # type: ignore[import-untyped]  # carries no types
import pytest
from moto import mock_aws

from tests.patience import PATIENCE_S
from whistlestop.bridge import BridgeConfig, RunningBridge, sqs
from whistlestop.bridge.counters import Counters
from whistlestop.bridge.sqs import SqsNotificationQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PREFIX = "stack-bridge-"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(sqs, "_RETRY_FIRST_S", 0.05)
    with mock_aws():
        yield boto3.client("sqs", region_name="eu-central-1")


class Ears:
    """A notification queue, and how often it woke."""

    def __init__(self, which: str = "auto") -> None:
        self.counters = Counters()
        self.queue = SqsNotificationQueue(which, counters=self.counters, region="eu-central-1", wait_s=0)
        self.queue.listen(self._heard)
        self.heard = asyncio.Event()

    def _heard(self) -> None:
        self.heard.set()

    async def wake(self) -> None:
        await asyncio.wait_for(self.heard.wait(), PATIENCE_S)
        self.heard.clear()


@pytest.fixture
async def ears(client: Any) -> AsyncIterator[Ears]:
    """Of a bridge whose target offered to wake it."""
    made = Ears()
    made.queue.start()
    made.queue.set_prefix(PREFIX)
    await made.wake()
    yield made
    await made.queue.close()


def names(client: Any) -> list[str]:
    return [url.rpartition("/")[2] for url in client.list_queues().get("QueueUrls", ())]


def url_of(client: Any, ears: Ears) -> str:
    return str(client.get_queue_url(QueueName=ears.queue.name)["QueueUrl"])


async def test_a_queue_is_created_when_a_target_returns_a_prefix(client: Any) -> None:
    ears = Ears()
    ears.queue.start()
    assert (names(client), ears.queue.name) == ([], "")
    ears.queue.set_prefix(PREFIX)
    ears.queue.set_prefix(PREFIX)
    await ears.wake()
    assert names(client) == [ears.queue.name]
    assert ears.queue.name.startswith(PREFIX)
    await ears.queue.close()
    assert names(client) == []


async def test_messages_live_shorter_than_they_hide(client: Any, ears: Ears) -> None:
    """So none has to be deleted, and none comes twice."""
    found = client.get_queue_attributes(QueueUrl=url_of(client, ears), AttributeNames=["All"])["Attributes"]
    assert int(found["MessageRetentionPeriod"]) < int(found["VisibilityTimeout"])


async def test_a_message_notifies_the_bridge(client: Any, ears: Ears) -> None:
    for _ in range(2):
        client.send_message(QueueUrl=url_of(client, ears), MessageBody="look")
        await ears.wake()
    assert ears.counters.sqs > 2
    assert ears.counters.total == 0


async def test_a_queue_that_was_deleted_is_replaced(client: Any, ears: Ears) -> None:
    """The bridge is told at once that it is deaf, and of the new name."""
    first = ears.queue.name
    client.delete_queue(QueueUrl=url_of(client, ears))
    while ears.queue.name in ("", first):
        await ears.wake()
    assert names(client) == [ears.queue.name]
    client.send_message(QueueUrl=url_of(client, ears), MessageBody="look")
    await ears.wake()


async def test_a_given_queue_is_used_and_not_deleted(client: Any) -> None:
    url = client.create_queue(QueueName="stack-bridge-mine")["QueueUrl"]
    ears = Ears(url)
    ears.queue.start()
    await ears.wake()
    assert ears.queue.name == "stack-bridge-mine"
    ears.queue.set_prefix("another-prefix-")
    client.send_message(QueueUrl=url, MessageBody="look")
    await ears.wake()
    for _ in range(30000):
        if (left := _held(client, url)) == ("0", "0"):
            break
        await asyncio.sleep(0.01)
    assert left == ("0", "0"), "what was heard does not come again"
    await ears.queue.close()
    assert names(client) == ["stack-bridge-mine"]


def _held(client: Any, url: str) -> tuple[str, str]:
    """Messages there, and those that somebody has received."""
    wanted = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    found = client.get_queue_attributes(QueueUrl=url, AttributeNames=list(wanted))["Attributes"]
    return found[wanted[0]], found[wanted[1]]


async def test_missing_permission_to_delete_messages_is_logged_once(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    url = client.create_queue(QueueName="stack-bridge-mine")["QueueUrl"]

    class Reader:
        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def delete_message_batch(self, **_: Any) -> Any:
            raise PermissionError("AccessDenied")

    queue = SqsNotificationQueue(url, make_client=Reader, wait_s=0)
    heard = asyncio.Event()
    queue.listen(heard.set)
    queue.start()
    for _ in range(3):
        await asyncio.wait_for(heard.wait(), PATIENCE_S)
        heard.clear()
        client.send_message(QueueUrl=url, MessageBody="look")
    await asyncio.wait_for(heard.wait(), PATIENCE_S)
    await queue.close()
    assert caplog.text.count("can't be deleted") == 1


async def test_old_queues_of_killed_bridges_are_deleted(
    client: Any, ears: Ears, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what is in use, and not what others named otherwise."""
    for name in ("stack-bridge-left", "payroll"):
        client.create_queue(QueueName=name)
    ears.queue._sweep()
    assert len(names(client)) == 3
    monkeypatch.setattr(time, "time", lambda now=time.time() + sqs.STALE_S + 60: now)
    ears.queue._sweep()
    assert sorted(names(client)) == ["payroll", ears.queue.name]


async def test_a_queue_in_use_is_touched(client: Any, ears: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time what it says changes, which is when SQS notes a new date."""
    seen = set()
    for half_day in range(2):
        monkeypatch.setattr(time, "time", lambda now=half_day * sqs.TOUCH_S: now)
        ears.queue._keep_alive()
        found = client.get_queue_attributes(QueueUrl=url_of(client, ears), AttributeNames=["All"])["Attributes"]
        seen.add(found["MessageRetentionPeriod"])
    assert seen == {"60", "61"}


async def test_without_permission_to_create_a_queue_the_bridge_only_probes(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Forbidden:
        def create_queue(self, **_: Any) -> Any:
            raise PermissionError("AccessDenied")

    queue = SqsNotificationQueue("auto", make_client=Forbidden)
    queue.start()
    queue.set_prefix(PREFIX)
    for _ in range(30000):
        if caplog.records:
            break
        await asyncio.sleep(0.01)
    assert "the notification queue can't be read" in caplog.text
    assert queue.name == ""
    await queue.close()


async def test_a_running_bridge_takes_auto_or_a_url(client: Any) -> None:
    with pytest.raises(ValueError, match="notification queue"):
        RunningBridge(BridgeConfig("http://127.0.0.1:1", notification_queue="mine"))
    async with RunningBridge(BridgeConfig("http://127.0.0.1:1", notification_queue="auto", region="eu-central-1")):
        assert names(client) == []
