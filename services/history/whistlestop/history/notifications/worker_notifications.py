"""Messages to the notification queues of workers that sleep until there is a task for them.

Rules of this file:

    - A message only says that there may be tasks. It may come twice, late or never: a sleeping worker also probes from
      time to time by itself.
    - It is sent as soon as the commit is done, while the call continues (it may be waiting for the answer of the very
      worker that is woken), and the call does not end before it is sent.
    - No failure here fails a call. A queue that no longer exists (its worker was killed) is skipped for a while.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from whistlestop.common.clock import SECOND_NS
from whistlestop.net import aws
from whistlestop.net.tasks.background import Background

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whistlestop.common.clock import Clock

MESSAGE = '{"wake": "tasks"}'
NO_SUCH_QUEUE = frozenset({"QueueDoesNotExist", "NonExistentQueue", "AWS.SimpleQueueService.NonExistentQueue"})
MISSING_NS = 60 * SECOND_NS
_MAX_MISSING = 1000
_log = logging.getLogger(__name__)


class WorkerNotifications:
    """Send messages by SQS.

    `near_url` is the URL of any queue of the account and region; `sqs` is like boto3's client.
    """

    def __init__(self, near_url: str, clock: Clock, sqs: Any = None) -> None:
        self._folder = near_url.rpartition("/")[0]
        self._clock = clock
        self._sqs = sqs
        self._next: set[str] = set()
        """Queues with a message that has not been sent yet: it covers everything until then."""
        self._sending = Background(_log, "a message to a worker could not be sent")
        self._missing_until_ns: dict[str, int] = {}
        self.sent = 0

    def notify(self, names: Iterable[str]) -> None:
        """Send a message to each of the named queues soon; failures are logged, not raised."""
        now_ns = self._clock.steady_ns()
        for name in names:
            if name in self._next or self._missing_until_ns.get(name, 0) > now_ns:
                continue
            self._next.add(name)
            self._sending.spawn(self._send(name))

    async def settle(self) -> None:
        """Wait until all messages are sent or given up."""
        await self._sending.join()

    async def _send(self, name: str) -> None:
        self._next.discard(name)
        try:
            await asyncio.to_thread(self._send_now, f"{self._folder}/{name}")
        except aws.AwsError as error:
            if error.code.removeprefix("com.amazonaws.sqs#") in NO_SUCH_QUEUE:
                if len(self._missing_until_ns) >= _MAX_MISSING:
                    self._missing_until_ns.clear()
                self._missing_until_ns[name] = self._clock.steady_ns() + MISSING_NS
                _log.info("the notification queue %s does not exist", name)
                return
            _log.warning("a sleeping worker could not be notified and has to probe by itself: %r", error)
            return
        self.sent += 1

    def _send_now(self, url: str) -> None:
        if self._sqs is None:
            self._sqs = aws.client("sqs")
        self._sqs.send_message(QueueUrl=url, MessageBody=MESSAGE)
