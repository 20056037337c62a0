"""Rows that could not be processed: noted in the store, so that one bad row stops nothing else and is not forgotten.

Rules of this file:
  - whoever works through rows handles each by itself. One that can't be processed stays where it is, or is moved out of
    the way (a timer or an outbox row is looked at again later and later), and is noted here;
  - a note is a message of the queue `set-aside`, which every release's schema has; its id follows from the row's table
    and key, so a row has one note however often it fails, and whichever process meets it;
  - a note says nothing about what happens to its row. A row that is processed after all, or deleted, is forgotten.

Nothing here is on a hot path: without bad rows neither the store nor the memory hold anything.
"""

from __future__ import annotations

import json
import logging
from hashlib import blake2b
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import QueueMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whistlestop.common.clock import Clock
    from whistlestop.storage.interface import Store

QUEUE = "set-aside"
MOST_NOTES = 500
"""Notes that are looked through at once."""
MOST_KNOWN = 10_000
"""Rows that a process remembers to have logged."""
FIRST_RETRY_NS = 5_000_000_000
MOST_RETRY_NS = 3600 * 1_000_000_000
_LONGEST_PROBLEM = 500
_DAMAGE = (DecodeError, ValueError, StorageError)
"""Of what is stored. Anything else may be a bug, and is logged with the place where it happened."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Aside:
    """One row that was set aside."""

    table: str
    key: tuple[str, ...]
    """Of the row, in the order of the table's primary key."""
    problem: str
    times: int
    """How often it was tried."""
    first_ns: int
    last_ns: int

    @property
    def message_id(self) -> int:
        """Of its note."""
        return message_id(self.table, self.key)

    @property
    def next_ns(self) -> int:
        """When to try it again: five seconds after the first time, an hour after the tenth and every later one."""
        return self.last_ns + min(FIRST_RETRY_NS << min(self.times - 1, 20), MOST_RETRY_NS)


def message_id(table: str, key: Sequence[str]) -> int:
    """A positive number of 63 bits."""
    digest = blake2b(json.dumps([table, *key]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 or 1


def encoded(aside: Aside) -> QueueMessage:
    """The note as it is stored."""
    told = {
        "table": aside.table, "key": aside.key, "problem": aside.problem, "times": aside.times,
        "first_ns": aside.first_ns, "last_ns": aside.last_ns,
    }  # fmt: skip
    return QueueMessage(QUEUE, aside.message_id, json.dumps(told).encode())


def decoded(data: bytes) -> Aside | None:
    """None for a note that can't be read: it is of no use, and stops nobody."""
    try:
        told = json.loads(data)
        return Aside(
            str(told["table"]), tuple(map(str, told["key"])), str(told["problem"]), int(told["times"]),
            int(told["first_ns"]), int(told["last_ns"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class SetAside:
    """What one process knows of bad rows."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[int, Aside] = {}
        self._tidied = False
        self.counted = 0
        """Failures of rows since the process began."""
        self.listener: Callable[[str], None] | None = None
        """Told the table of each failure."""

    def knows(self, table: str, key: Sequence[str]) -> bool:
        """Whether this process has set the row aside and not seen it processed since."""
        return bool(self._known) and message_id(table, key) in self._known

    async def note(self, table: str, key: Sequence[str], error: BaseException | str) -> Aside:
        """The row can't be processed. Raises nothing: a store that does not answer has other problems."""
        self.counted += 1
        if self.listener is not None:
            self.listener(table)
        number = message_id(table, key)
        before = self._known.get(number)
        now_ns = self._clock.now_ns()
        problem = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        problem = problem.encode("utf-8", "replace").decode()[:_LONGEST_PROBLEM]
        try:
            if before is None:
                before = await self._stored(number)
            times, first_ns = (1, now_ns) if before is None else (before.times + 1, before.first_ns)
            aside = Aside(table, tuple(key), problem, times, first_ns, now_ns)
            await self._store.enqueue(encoded(aside))
        except StorageError as failure:
            _log.warning("a row of %s that failed could not be noted: %s", table, failure)
            aside = Aside(table, tuple(key), problem, 1, now_ns, now_ns)
        if number not in self._known:
            _log.error(
                "a row of %s was set aside: %s: %s. See `whistlestop db check`; terminating or deleting what it is of"
                " repairs it.", table, "/".join(key), problem,
                exc_info=error if isinstance(error, BaseException) and not isinstance(error, _DAMAGE) else None,
            )  # fmt: skip
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[number] = aside
        return aside

    async def seen(self, table: str, key: Sequence[str], error: BaseException) -> None:
        """As `note`, for rows that are read again and again: once a process."""
        if self.knows(table, key):
            self.counted += 1
            if self.listener is not None:
                self.listener(table)
        else:
            await self.note(table, key, error)

    async def forget(self, table: str, key: Sequence[str]) -> None:
        """The row was processed, or is gone. Raises nothing."""
        number = message_id(table, key)
        self._known.pop(number, None)
        try:
            await self._store.delete_message(QueueMessage(QUEUE, number, b""))
        except StorageError as failure:
            _log.warning("the note of a row of %s could not be deleted: %s", table, failure)

    async def tidy(self) -> None:
        """Forget notes whose rows are gone, if this process has set any aside (or looks for the first time).

        Raises nothing.
        """
        if not self._known and self._tidied:
            return
        self._tidied = True
        try:
            notes = await self._store.notes_set_aside(MOST_NOTES)
            for message, is_there in notes:
                if not is_there:
                    self._known.pop(message.message_id, None)
                    await self._store.delete_message(message)
        except StorageError as failure:
            _log.warning("notes of rows that were set aside could not be looked through: %s", failure)

    async def _stored(self, number: int) -> Aside | None:
        found = await self._store.read_queue(QUEUE, number - 1, 1)
        return decoded(found[0].data) if found and found[0].message_id == number else None
