"""Group transitions into shared commits: those ready go through one connection, in a pipeline, as one transaction.

A transition whose conditions fail writes nothing and does not affect the others, since its statement is all or nothing
by itself. A statement that raises an error (a unique violation, a deadlock) aborts the whole transaction: then each
transition is run again on its own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg import errors

from whistlestop.storage.errors import StorageError, Unavailable
from whistlestop.storage.postgres.connection import ATTEMPTS, EXPECTED, is_contention, is_permanent, pause, translate
from whistlestop.storage.postgres.transition import conflict_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.storage.postgres.connection import Pool
    from whistlestop.storage.postgres.transition import Prepared

    Outcome: TypeAlias = StorageError | Sequence[Any]

GROUP_LIMIT = 32
"""The maximum number of transitions in one commit."""

WORTH_A_LANE = 4
"""How many transitions must wait before another connection is used: fewer are better off in the next group."""


class TransitionWriter:
    """Run up to `lanes` commits at once, while the next group gathers."""

    def __init__(self, pool: Pool, lanes: int) -> None:
        self._pool = pool
        self._lanes = lanes
        self._pending: list[tuple[Prepared, asyncio.Future[Outcome]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0
        self._closed = False
        self.groups = 0
        """Commits so far; fewer than transitions when groups form."""

    async def commit(self, prepared: Prepared) -> Sequence[Any]:
        """Write the transition; return the row of its statement. Raise the conflict of a condition that failed."""
        if self._closed:
            raise Unavailable("the store is closed")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._pending.append((prepared, future))
        if not self._running or (self._running < self._lanes and len(self._pending) >= WORTH_A_LANE):
            self._running += 1
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        outcome = await future
        if isinstance(outcome, StorageError):
            raise outcome
        return outcome

    async def _drain(self) -> None:
        try:
            await self._drain_pending()
        finally:
            self._running -= 1  # In the same turn that saw nothing pending, or the next one would never be written.
            if not self._running:
                # Something is left only if this task was cancelled, and then nobody else would end these waits.
                rest, self._pending = self._pending, []
                _settle(rest, [_interrupted()] * len(rest))

    async def _drain_pending(self) -> None:
        while self._pending:
            group, self._pending = self._pending[:GROUP_LIMIT], self._pending[GROUP_LIMIT:]
            # All groups are sorted alike, so that two groups with two rows in common do not deadlock.
            group.sort(key=_first_key)
            try:
                outcomes: list[Outcome] = await self._write([prepared for prepared, _ in group])
            except Exception as error:  # noqa: BLE001 - the waiters must hear of it, whatever it is
                outcomes = [translate(error)] * len(group)
            except BaseException:
                _settle(group, [_interrupted()] * len(group))
                raise
            _settle(group, outcomes)

    async def _write(self, group: list[Prepared]) -> list[Outcome]:
        if len(group) > 1:
            try:
                return await self._together(group)
            except (errors.IntegrityError, errors.TransactionRollback):
                pass  # One of them failed and rolled back all.
            except Exception as error:  # noqa: BLE001 - what one of them can't be encoded by is no fault of the others
                if isinstance(error, EXPECTED) and not is_permanent(error):
                    return [translate(error)] * len(group)
        return [await self._alone(prepared) for prepared in group]

    async def _together(self, group: list[Prepared]) -> list[Outcome]:
        async with self._pool.connection() as connection:
            try:
                async with connection.pipeline():
                    await connection.execute(b"BEGIN")
                    cursors = []
                    for prepared in group:
                        cursor = connection.cursor(binary=True)
                        await cursor.execute(prepared.sql, prepared.parameters)
                        cursors.append(cursor)
                    await connection.execute(b"COMMIT")
            except psycopg.Error:
                if not connection.closed:
                    await connection.rollback()
                raise
            rows = [await cursor.fetchone() for cursor in cursors]
        self.groups += 1
        return [_outcome(prepared, row) for prepared, row in zip(group, rows, strict=True)]

    async def _alone(self, prepared: Prepared) -> Outcome:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._pool.connection() as connection:
                    cursor = connection.cursor(binary=True)
                    await cursor.execute(prepared.sql, prepared.parameters)
                    row = await cursor.fetchone()
                self.groups += 1
                return _outcome(prepared, row)
            except errors.UniqueViolation as error:
                return conflict_of(error.diag.constraint_name or "", prepared.transition) or translate(error)
            except Exception as error:  # noqa: BLE001 - the next one of the group is to be written
                if attempt >= ATTEMPTS or not is_contention(error):
                    return translate(error)
            await pause(attempt)

    async def close(self) -> None:
        """Finish the writes that were accepted."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(set(self._tasks))


def _settle(group: Sequence[tuple[Prepared, asyncio.Future[Outcome]]], outcomes: Sequence[Outcome]) -> None:
    """Give each waiter its outcome."""
    for (_, future), outcome in zip(group, outcomes, strict=True):
        if not future.done():
            future.set_result(outcome)


def _interrupted() -> Outcome:
    return Unavailable("the commit was interrupted")


def _outcome(prepared: Prepared, row: Sequence[Any] | None) -> Outcome:
    return prepared.verdict(row or (False,)) or row or ()


def _first_key(item: tuple[Prepared, object]) -> tuple[str, str, str]:
    writes = item[0].transition.writes
    if not writes:
        return ("", "", "")
    key = writes[0].key
    return key.namespace_id, key.workflow_id, key.run_id
