"""Notes about rows that could not be processed, so that one bad row neither stops the others nor is forgotten.

Rules of this file: - a scan handles each row by itself. A row that can't be processed stays where it is, or is moved
out of the way (a
    timer row or a transfer task is retried at growing intervals), and is noted here;
- a note is a message of the queue `set-aside`, which every release's schema has; its id is derived from the row's
    table and key, so a row has one note however often and in whichever process it fails;
- a note does not affect its row. When the row is processed after all, or deleted, the note is deleted.

Nothing here is on a hot path: without bad rows neither the store nor the memory hold anything.
"""

from __future__ import annotations

import json
import logging
from hashlib import blake2b
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.timing.backoff import backoff
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import QueueMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whistlestop.common.clock import Clock
    from whistlestop.storage.interface import Store

QUEUE = "set-aside"
MAX_NOTES = 500
"""How many notes are read at once."""
MAX_KNOWN = 10_000
"""How many rows a process remembers as logged."""
FIRST_RETRY_NS = 5_000_000_000
MAX_RETRY_NS = 3600 * 1_000_000_000
_MAX_PROBLEM_LENGTH = 500
_DAMAGE = (DecodeError, ValueError, StorageError)
"""Errors that mean damaged data. Any other may be a bug, and is logged with its traceback."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Aside:
    """The note of one row that was set aside."""

    table: str
    key: tuple[str, ...]
    """The row's key, in the order of the table's primary key."""
    problem: str
    times: int
    """How many attempts have failed."""
    first_ns: int
    last_ns: int

    @property
    def message_id(self) -> int:
        """The id of the note's queue message."""
        return message_id(self.table, self.key)

    @property
    def next_ns(self) -> int:
        """The time of the next attempt.

        The interval is five seconds after the first attempt and doubles each time, up to an hour.
        """
        return self.last_ns + backoff(FIRST_RETRY_NS, self.times, MAX_RETRY_NS)


def message_id(table: str, key: Sequence[str]) -> int:
    """Return the id of a row's note: a positive number of 63 bits."""
    digest = blake2b(json.dumps([table, *key]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 or 1


def encoded(aside: Aside) -> QueueMessage:
    """Return the note as a queue message."""
    fields = {
        "table": aside.table, "key": aside.key, "problem": aside.problem, "times": aside.times,
        "first_ns": aside.first_ns, "last_ns": aside.last_ns,
    }  # fmt: skip
    return QueueMessage(QUEUE, aside.message_id, json.dumps(fields).encode())


def decoded(data: bytes) -> Aside | None:
    """Return the note, or None for one that can't be parsed, which is ignored."""
    try:
        fields = json.loads(data)
        return Aside(
            str(fields["table"]), tuple(map(str, fields["key"])), str(fields["problem"]), int(fields["times"]),
            int(fields["first_ns"]), int(fields["last_ns"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class SetAside:
    """The bad rows that one process knows of, and their notes in the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[int, Aside] = {}
        self._tidied = False
        self.counted = 0
        """Failed attempts at rows since the process started."""
        self.listener: Callable[[str], None] | None = None
        """Called with the table's name at each failure."""

    def is_noted(self, table: str, key: Sequence[str]) -> bool:
        """Return whether this process has set the row aside and not seen it processed since."""
        return bool(self._known) and message_id(table, key) in self._known

    async def note(self, table: str, key: Sequence[str], error: BaseException | str) -> Aside:
        """Record that the row can't be processed, and return its note.

        Raises nothing: a note that can't be stored is logged.
        """
        self.counted += 1
        if self.listener is not None:
            self.listener(table)
        number = message_id(table, key)
        before = self._known.get(number)
        now_ns = self._clock.now_ns()
        problem = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        problem = problem.encode("utf-8", "replace").decode()[:_MAX_PROBLEM_LENGTH]
        try:
            if before is None:
                before = await self._stored(number)
            times, first_ns = (1, now_ns) if before is None else (before.times + 1, before.first_ns)
            aside = Aside(table, tuple(key), problem, times, first_ns, now_ns)
            await self._store.enqueue(encoded(aside))
        except StorageError as failure:
            _log.warning("the note about a row of %s that can't be processed could not be stored: %s", table, failure)
            aside = Aside(table, tuple(key), problem, 1, now_ns, now_ns)
        if number not in self._known:
            _log.error(
                "a row of %s was set aside: %s: %s. See `whistlestop db check`; terminate or delete its owner"
                " to repair it.", table, "/".join(key), problem,
                exc_info=error if isinstance(error, BaseException) and not isinstance(error, _DAMAGE) else None,
            )  # fmt: skip
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[number] = aside
        return aside

    async def seen(self, table: str, key: Sequence[str], error: BaseException) -> None:
        """Note a row that is read again and again: only the first failure in this process is stored."""
        if self.is_noted(table, key):
            self.counted += 1
            if self.listener is not None:
                self.listener(table)
        else:
            await self.note(table, key, error)

    async def forget(self, table: str, key: Sequence[str]) -> None:
        """Delete the note of a row that was processed or is gone. Raises nothing."""
        number = message_id(table, key)
        self._known.pop(number, None)
        try:
            await self._store.delete_message(QueueMessage(QUEUE, number, b""))
        except StorageError as failure:
            _log.warning("the note of a row of %s could not be deleted: %s", table, failure)

    async def tidy(self) -> None:
        """Delete notes whose rows are gone, if this process has set any row aside or has not looked yet.

        Raises nothing.
        """
        if not self._known and self._tidied:
            return
        self._tidied = True
        try:
            notes = await self._store.notes_set_aside(MAX_NOTES)
            for message, is_there in notes:
                if not is_there:
                    self._known.pop(message.message_id, None)
                    await self._store.delete_message(message)
        except StorageError as failure:
            _log.warning("the notes of rows that were set aside could not be read: %s", failure)

    async def _stored(self, number: int) -> Aside | None:
        found = await self._store.read_queue(QUEUE, number - 1, 1)
        return decoded(found[0].data) if found and found[0].message_id == number else None
