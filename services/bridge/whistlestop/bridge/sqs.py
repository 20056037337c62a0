"""The notification queue on SQS: one queue per bridge, to which functions send a message when there is a task.

- Waiting is SQS's long poll of twenty seconds, three requests a minute; it invokes no function.
- A message of an `auto` queue is never deleted: its visibility timeout exceeds its retention, which saves a request
  for each notification. In a queue created by somebody else it could come back for days, so it is deleted there.
- `auto` creates a queue as soon as a target returns the required prefix of names, and deletes it in the end. The
  queue
  of a killed bridge is deleted by another one, which recognises it by its age: a live queue is touched twice a day.
- Calls block, so they are made on a daemon thread.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from whistlestop.common.timing.backoff import backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.bridge.counters import Counters

log = logging.getLogger(__name__)

AUTO: Final = "auto"
WAIT_S: Final = 20
RETENTION_S: Final = 60
VISIBILITY_TIMEOUT_S: Final = 120
TOUCH_S: Final = 12 * 3600.0
STALE_S: Final = 48 * 3600.0
_BATCHING_S = 0.05
"""Messages that arrive within this time are one notification."""
_RETRY_FIRST_S, _RETRY_MOST_S = 1.0, 60.0
_MAX_HOST_LENGTH = 8


class SqsNotificationQueue:
    """Receives notifications. `queue` is `auto` or the URL of an existing queue. Start it on the event loop."""

    def __init__(
        self,
        queue: str,
        *,
        counters: Counters | None = None,
        region: str = "",
        make_client: Callable[[], Any] | None = None,
        wait_s: int = WAIT_S,
    ) -> None:
        self._queue = queue
        self._region = region
        self._make_client = make_client or self._client
        self._counters = counters
        self._wait_s = wait_s
        self._listeners: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._sqs: Any = None
        self._url = ""
        self._prefix = ""
        self._touched_s = 0.0
        self._touches = 0
        self._has_warned = False
        self.name = ""

    def listen(self, notify: Callable[[], None]) -> None:
        """Call `notify` for each message, and when the queue gets or loses its name."""
        self._listeners.append(notify)

    def start(self) -> None:
        """Start to listen; with `auto`, wait until a target has returned the prefix of names."""
        self._loop = asyncio.get_running_loop()
        if self._queue != AUTO:
            self._run()

    def set_prefix(self, prefix: str) -> None:
        """Take the prefix of queue names to which a target sends notifications; empty when it sends none."""
        if self._queue == AUTO and not self._prefix:
            self._prefix = prefix
            self._run()

    async def close(self) -> None:
        """Stop listening, and delete the queue if it was created here."""
        self._stopping.set()
        self._listeners.clear()
        if self._queue == AUTO and self._url:
            await asyncio.to_thread(self._delete, self._url)

    def _run(self) -> None:
        self._thread = threading.Thread(target=self._receive_for_ever, name="notification queue", daemon=True)
        self._thread.start()

    # Methods that run on the thread.

    def _receive_for_ever(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                if not self._url:
                    self._open()
                messages = self._receive()
                if self._queue == AUTO and time.monotonic() - self._touched_s > TOUCH_S:
                    self._keep_alive()
            except Exception as error:  # noqa: BLE001 - the bridge works without it meanwhile, and this retries
                failures = self._failed(error, failures)
                continue
            failures = 0
            self._set_name(self._url.rpartition("/")[2])
            if messages:
                self._schedule_notification()
                if self._queue != AUTO:
                    self._delete_messages(messages)
                self._stopping.wait(_BATCHING_S)

    def _client(self) -> Any:
        import boto3  # type: ignore[import-untyped]  # carries no types

        return boto3.client("sqs", region_name=self._region or None)

    def _open(self) -> None:
        if self._sqs is None:
            self._sqs = self._make_client()
        if self._queue != AUTO:
            self._url = self._queue
            return
        host = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:_MAX_HOST_LENGTH]
        name = f"{self._prefix}{host}-{secrets.token_hex(4)}"
        attributes = {"MessageRetentionPeriod": str(RETENTION_S), "VisibilityTimeout": str(VISIBILITY_TIMEOUT_S)}
        self._url = self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        self._touched_s = time.monotonic()
        log.info("notification queue %s was created", name)
        self._sweep()

    def _receive(self) -> list[Any]:
        if self._counters is not None:
            self._counters.sqs += 1
        # Do not wait the first time, to find out quickly whether the queue can be read at all.
        wait_s = self._wait_s if self.name else 0
        answer = self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=wait_s)
        return list(answer.get("Messages", ()))

    def _delete_messages(self, messages: list[Any]) -> None:
        """Delete messages, because a message that is kept comes again and costs a check each time."""
        if self._counters is not None:
            self._counters.sqs += 1
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(messages)
        ]
        try:
            failed = self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries).get("Failed", ())
        except Exception as error:  # noqa: BLE001 - the notification itself has been received
            failed = [repr(error)]
        if failed and not self._has_warned:
            self._has_warned = True
            log.warning(
                "messages of the notification queue can't be deleted, so they will be received again: %s", failed[0]
            )

    def _failed(self, error: Exception, failures: int) -> int:
        if self._stopping.is_set():
            return failures
        if failures == 0:
            log.warning(
                "the notification queue can't be read: %r; probing without notifications, and trying again", error
            )
        self._set_name("")
        if self._queue == AUTO and "NonExistentQueue" in repr(error):
            self._url = ""
        self._stopping.wait(backoff(_RETRY_FIRST_S, failures + 1, _RETRY_MOST_S))
        return min(failures + 1, 10)

    def _keep_alive(self) -> None:
        """Touch the queue to show that it is in use: SQS records the time only when an attribute changes."""
        self._touched_s = time.monotonic()
        self._touches += 1
        retention_s = RETENTION_S + self._touches % 2
        self._sqs.set_queue_attributes(QueueUrl=self._url, Attributes={"MessageRetentionPeriod": str(retention_s)})
        self._sweep()

    def _sweep(self) -> None:
        """Delete queues of killed bridges. Without permission to list queues, leave that to other bridges."""
        try:
            for url in self._sqs.list_queues(QueueNamePrefix=self._prefix).get("QueueUrls", ()):
                names = ["LastModifiedTimestamp"]
                found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
                if url != self._url and time.time() - float(found[names[0]]) > STALE_S:
                    self._delete(url)
        except Exception as error:  # noqa: BLE001 - failing to clean up must not stop listening
            log.info("old notification queues could not be listed: %r", error)

    def _delete(self, url: str) -> None:
        try:
            self._sqs.delete_queue(QueueUrl=url)
        except Exception as error:  # noqa: BLE001 - another bridge deletes it later
            log.warning("notification queue %s could not be deleted: %r", url.rpartition("/")[2], error)

    def _set_name(self, name: str) -> None:
        if name != self.name:
            self.name = name
            self._schedule_notification()

    def _schedule_notification(self) -> None:
        loop = self._loop
        if loop is not None and not self._stopping.is_set():
            try:
                loop.call_soon_threadsafe(self._notify_listeners)
            except RuntimeError:  # the loop has ended
                self._stopping.set()

    def _notify_listeners(self) -> None:
        for notify in self._listeners:
            notify()
