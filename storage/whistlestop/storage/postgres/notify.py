"""Notifications between processes that share a Postgres database, over LISTEN and NOTIFY.

Rules of this file: - within the process a notification is delivered at once, whatever the state of the database; - for
other processes, topics gather while the last batch is in flight and are sent together: a notification costs no
    transaction;
- a topic travels as a short digest; two topics with equal digests only cause an unnecessary check; - a notification may
be lost (the connection broke, or the sender died). After a reconnect, and when another process
    is gone, every waiter of the process is woken and reads the store again;
- a process that knows that no other listens (`others` False) sends nothing. A process that begins to listen announces
    itself, and a process that receives anything from another sends again.

LISTEN needs a session of its own, which a pooler in transaction mode does not give: then `listen_url` may be the
database's own address. Without one, nothing is received, and every waiter is woken every RECHECK_S to check the store.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from base64 import urlsafe_b64encode
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection

from whistlestop.common.notify import LocalNotifier
from whistlestop.net.tasks.loops import Loop
from whistlestop.storage.postgres.connection import CONNECT_TIMEOUT_S, SILENT_S, answers_within, conninfo, is_pooled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from whistlestop.common.clock import Clock
    from whistlestop.common.notify import Subscription

CHANNEL = "whistlestop"
HELLO_TOPIC = "hello"
"""The topic by which a process announces that it listens."""

PAYLOAD_BYTES = 7900
"""Postgres takes less than 8000."""

_DIGEST_BYTES = 9
_FLUSH_S = 1.0
_QUIET_NS = 30_000_000_000
"""A process heard from this recently may be about to join the cluster."""
MAX_RECONNECT_S = 5.0
RECHECK_S = 2.0
"""Seconds between two checks of the store where notifications can't be received."""

_RECEIVE_S = 2.0
"""How long the process's own test notification may take to come back."""

CHECK_S = 20.0
"""Seconds of silence after which the server is asked whether it is still there."""

log = logging.getLogger(__name__)


class PostgresNotifier:
    """A whistlestop.common.notify.Notifier. It notifies only within the process until `start`; `close` ends it."""

    def __init__(self, url: str, clock: Clock, channel: str = CHANNEL, *, listen_url: str = "") -> None:
        self._url = url
        self._listen_url = listen_url or url
        self._clock = clock
        self._channel = channel
        self._local = LocalNotifier(clock)
        self._me = secrets.token_urlsafe(6)
        self.others = True
        """Whether other processes may be listening."""
        self._received_ns = 0
        self._cannot_listen = False
        """Whether notifications of other processes can't be received."""
        self._unsent: set[str] = set()
        self._has_unsent = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()
        self._listening = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def publish(self, topics: Iterable[str]) -> None:
        """Wake the subscribers of `topics`. Never blocks or raises."""
        digests = [digest(topic) for topic in topics]
        self._local.publish(digests)
        if self._tasks and self.others:
            self._unsent.update(digests)
            self._sent.clear()
            self._has_unsent.set()

    def subscribe(self, *topics: str) -> Subscription:
        """Subscribe from now on; leave the context manager to unsubscribe."""
        return self._local.subscribe(*[digest(topic) for topic in topics])

    def mark_alone(self) -> None:
        """Stop sending until another process is heard from: the cluster's members show no other listener."""
        if not self._cannot_listen and self._clock.steady_ns() - self._received_ns > _QUIET_NS:
            self.others = False

    def notify_all(self) -> None:
        """Wake every waiter of this process to check the store, because notifications may have been lost."""
        self._local.publish(list(self._local.audience), remote=True)

    async def start(self) -> None:
        """Connect in the background; return once it listens, or after a few seconds without."""
        self._tasks = [
            asyncio.create_task(
                self._keep("notifications received", self._listen_url, self._listen), name="postgres-listen"
            ),
            asyncio.create_task(self._keep("notifications sent", self._url, self._send), name="postgres-notify"),
        ]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._listening.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Send what is in flight, if that takes no longer than _FLUSH_S, and close the connections."""
        if self._tasks:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_S):
                    await self._sent.wait()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str, url: str, work: Callable[[AsyncConnection[Any]], Awaitable[None]]) -> None:
        """Run `work` on a connection of its own, and again on a new one when that breaks."""
        loop = Loop(name, self._clock, most_pause_s=MAX_RECONNECT_S)

        async def turn() -> None:
            connection = await AsyncConnection.connect(
                conninfo(url), autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, prepare_threshold=None
            )
            async with connection:
                await ping(connection)
                loop.succeeded()
                await work(connection)

        await loop.run(turn)

    async def _listen(self, connection: AsyncConnection[Any]) -> None:
        with answers_within(SILENT_S, connection):
            await connection.execute(f'LISTEN "{self._channel}"'.encode())
            pooled = await is_pooled(connection)
        if pooled and not await self._receives_notifications(connection):
            await self._recheck()
        hello = self._channel, f"{self._me} {digest(HELLO_TOPIC)}"
        with answers_within(SILENT_S, connection):
            await connection.execute("SELECT pg_notify(%s, %s)", hello)
        # Notifications sent before LISTEN took effect were missed.
        self.notify_all()
        self._listening.set()
        while True:
            async for notification in connection.notifies(timeout=CHECK_S):
                sender, _, digests = notification.payload.partition(" ")
                if sender != self._me:
                    self.others = True
                    self._received_ns = self._clock.steady_ns()
                    self._local.publish(digests.split(" "), remote=True)
            # The silence may be that of a connection whose other end is gone.
            await ping(connection)

    async def _receives_notifications(self, connection: AsyncConnection[Any]) -> bool:
        """Return whether a notification sent on another connection arrives on this one: a pooler may pool sessions."""
        hello = f"{self._me} {digest(HELLO_TOPIC)}"
        async with await AsyncConnection.connect(
            conninfo(self._listen_url), autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, prepare_threshold=None
        ) as other:
            with answers_within(SILENT_S, other):
                await other.execute("SELECT pg_notify(%s, %s)", (self._channel, hello))
            async for notification in connection.notifies(timeout=_RECEIVE_S):
                if notification.payload == hello:
                    return True
        with answers_within(SILENT_S, connection):
            await connection.execute("UNLISTEN *")
        return False

    async def _recheck(self) -> None:
        log.warning(
            "behind a pooler in transaction mode, notifications of other processes are not received: "
            "waiting calls check the store every %g s (faster: --database-listen-url with the database's own address)",
            RECHECK_S,
        )
        self._cannot_listen = self.others = True
        self._listening.set()
        while True:
            self.notify_all()
            await self._clock.sleep(RECHECK_S)

    async def _send(self, connection: AsyncConnection[Any]) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            batch, self._unsent = self._unsent, set()
            try:
                for payload in payloads(self._me, batch):
                    with answers_within(SILENT_S, connection):
                        await connection.execute("SELECT pg_notify(%s, %s)", (self._channel, payload))
            except BaseException:
                # Send them on the next connection: a repeated notification only causes an unnecessary check.
                self._unsent |= batch
                self._has_unsent.set()
                raise
            if not self._unsent:
                self._sent.set()


async def ping(connection: AsyncConnection[Any]) -> None:
    """Make a round trip. Raise OperationalError when the server does not answer."""
    with answers_within(SILENT_S, connection):
        await connection.execute("SELECT 1")


def digest(topic: str) -> str:
    """Return the topic's digest of 12 characters, which is sent in its place."""
    return urlsafe_b64encode(blake2b(topic.encode(), digest_size=_DIGEST_BYTES).digest()).decode()


def payloads(sender: str, digests: Iterable[str]) -> list[str]:
    """Return as few NOTIFY payloads as hold all digests, each preceded by the sender."""
    found: list[str] = []
    line = sender
    for item in digests:
        if len(line) + len(item) + 1 > PAYLOAD_BYTES:
            found.append(line)
            line = sender
        line += f" {item}"
    if line != sender:
        found.append(line)
    return found
