"""The wake queue on SQS: one queue per bridge, on which functions leave a message when there is a task.

Rules of this file:

    - Waiting is SQS's long poll of twenty seconds, three requests a minute; it runs no function.
    - A message of an `auto` queue is never deleted: it hides for longer than it lives. That saves a request per wake.
      In a queue that somebody else made it would come back for days, so it is deleted there.
    - `auto` makes a queue as soon as a target tells how names must begin, and deletes it in the end. What a bridge left
      behind that was killed is deleted by another one, which knows it by its age: a live queue is touched twice a day.
    - Calls block, so they are made on a thread of their own, which does not keep the process alive.
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.bridge.counters import Counters

log = logging.getLogger(__name__)

AUTO: Final = "auto"
WAIT_S: Final = 20
LIVES_S: Final = 60
HIDES_S: Final = 120
TOUCH_S: Final = 12 * 3600.0
STALE_S: Final = 48 * 3600.0
_TOGETHER_S = 0.05
"""Messages that come as close together as this are one wake."""
_RETRY_FIRST_S, _RETRY_MOST_S = 1.0, 60.0
_LONGEST_HOST = 8


class SqsWakeQueue:
    """`which` is `auto` or the URL of a queue that somebody made. Start it on the event loop that is to be woken."""

    def __init__(
        self,
        which: str,
        *,
        counters: Counters | None = None,
        region: str = "",
        make_client: Callable[[], Any] | None = None,
        wait_s: int = WAIT_S,
    ) -> None:
        self._which = which
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
        self._has_complained = False
        self.name = ""

    def listen(self, wake: Callable[[], None]) -> None:
        self._listeners.append(wake)

    def start(self) -> None:
        """Begin to listen; `auto` once a target has told how names begin."""
        self._loop = asyncio.get_running_loop()
        if self._which != AUTO:
            self._run()

    def offered(self, prefix: str) -> None:
        if self._which == AUTO and not self._prefix:
            self._prefix = prefix
            self._run()

    async def close(self) -> None:
        """Stop listening, and delete the queue if it was made here."""
        self._stopping.set()
        self._listeners.clear()
        if self._which == AUTO and self._url:
            await asyncio.to_thread(self._delete, self._url)

    def _run(self) -> None:
        self._thread = threading.Thread(target=self._receive_for_ever, name="wake queue", daemon=True)
        self._thread.start()

    # On the thread.

    def _receive_for_ever(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                if not self._url:
                    self._open()
                messages = self._receive()
                if self._which == AUTO and time.monotonic() - self._touched_s > TOUCH_S:
                    self._tend()
            except Exception as error:  # noqa: BLE001 - whatever it is: the bridge looks without it, and it tries again
                failures = self._failed(error, failures)
                continue
            failures = 0
            self._set_name(self._url.rpartition("/")[2])
            if messages:
                self._tell()
                if self._which != AUTO:
                    self._delete_messages(messages)
                self._stopping.wait(_TOGETHER_S)

    def _client(self) -> Any:
        import boto3  # type: ignore[import-untyped]  # carries no types

        return boto3.client("sqs", region_name=self._region or None)

    def _open(self) -> None:
        if self._sqs is None:
            self._sqs = self._make_client()
        if self._which != AUTO:
            self._url = self._which
            return
        host = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:_LONGEST_HOST]
        name = f"{self._prefix}{host}-{secrets.token_hex(4)}"
        attributes = {"MessageRetentionPeriod": str(LIVES_S), "VisibilityTimeout": str(HIDES_S)}
        self._url = self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        self._touched_s = time.monotonic()
        log.info("wake queue %s was made", name)
        self._sweep()

    def _receive(self) -> list[Any]:
        if self._counters is not None:
            self._counters.sqs += 1
        # Whether it can be heard at all is known without waiting.
        wait_s = self._wait_s if self.name else 0
        answer = self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=wait_s)
        return list(answer.get("Messages", ()))

    def _delete_messages(self, messages: list[Any]) -> None:
        """A message that stays comes again, and costs a look each time."""
        if self._counters is not None:
            self._counters.sqs += 1
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(messages)
        ]
        try:
            failed = self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries).get("Failed", ())
        except Exception as error:  # noqa: BLE001 - it was heard, whatever becomes of it
            failed = [repr(error)]
        if failed and not self._has_complained:
            self._has_complained = True
            log.warning("messages of the wake queue can't be deleted, and come again: %s", failed[0])

    def _failed(self, error: Exception, failures: int) -> int:
        if self._stopping.is_set():
            return failures
        if failures == 0:
            log.warning("the wake queue is not heard: %r; looking without it, and trying again", error)
        self._set_name("")
        if self._which == AUTO and "NonExistentQueue" in repr(error):
            self._url = ""
        self._stopping.wait(min(_RETRY_FIRST_S * 2**failures, _RETRY_MOST_S))
        return min(failures + 1, 10)

    def _tend(self) -> None:
        """Show that the queue is in use. A change of what it says is what SQS notes the time of."""
        self._touched_s = time.monotonic()
        self._touches += 1
        lives_s = LIVES_S + self._touches % 2
        self._sqs.set_queue_attributes(QueueUrl=self._url, Attributes={"MessageRetentionPeriod": str(lives_s)})
        self._sweep()

    def _sweep(self) -> None:
        """Delete what killed bridges left. Who may not list queues leaves that to others."""
        try:
            for url in self._sqs.list_queues(QueueNamePrefix=self._prefix).get("QueueUrls", ()):
                names = ["LastModifiedTimestamp"]
                found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
                if url != self._url and time.time() - float(found[names[0]]) > STALE_S:
                    self._delete(url)
        except Exception as error:  # noqa: BLE001 - an untidy account is no reason not to listen
            log.info("old wake queues could not be looked for: %r", error)

    def _delete(self, url: str) -> None:
        try:
            self._sqs.delete_queue(QueueUrl=url)
        except Exception as error:  # noqa: BLE001 - another bridge deletes it later
            log.warning("wake queue %s could not be deleted: %r", url.rpartition("/")[2], error)

    def _set_name(self, name: str) -> None:
        if name != self.name:
            self.name = name
            self._tell()

    def _tell(self) -> None:
        loop = self._loop
        if loop is not None and not self._stopping.is_set():
            try:
                loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop has ended
                self._stopping.set()

    def _wake(self) -> None:
        for wake in self._listeners:
            wake()
