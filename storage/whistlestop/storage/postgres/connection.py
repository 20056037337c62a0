"""Connections to Postgres, the translation of its errors, and the rules of retrying."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, errors
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.array import ListBinaryDumper
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper
from psycopg.types.string import StrBinaryDumper
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from whistlestop.common.timing.backoff import backoff
from whistlestop.storage.errors import (
    CannotOpen,
    PermanentError,
    Refused,
    SchemaMismatch,
    StorageError,
    TimedOut,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from psycopg.abc import AdaptContext

    Password = Callable[[], str]

T = TypeVar("T")

ATTEMPTS = 6
_MAX_PAUSE_S = 1.0
"""Attempts at one write against contention (serialization failures, deadlocks), or at one read over broken
connections."""

CONNECT_TIMEOUT_S = 5
CANCEL_ATTEMPTS = 9
"""Cancel requests for one statement whose caller is gone, spread over five seconds."""
POOL_TIMEOUT_S = 10.0
RECONNECT_S = 5.0
"""How long the pool retries to connect, at growing intervals; after that the next caller starts it again."""
SILENT_S = 20.0
"""A connection without an answer for this long is cut: the network may have dropped it silently."""
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15000}
"""How soon the operating system gives up a dead server, unless the URL says otherwise. Its default takes hours."""
PREPARE_AFTER = 2

CHUNK_BYTES = 1_000_000
"""Bytes of a long value that are stored in its row; the rest goes to `chunks`. Aurora DSQL takes 1 MiB per value."""

_CONTENTION = (errors.SerializationFailure, errors.DeadlockDetected)
_POOL_ERRORS = (PoolTimeout, PoolClosed, TooManyRequests)
EXPECTED = (psycopg.Error, *_POOL_ERRORS)
"""All errors that the driver and its pool raise."""


_UNENCODABLE = (psycopg.DataError, OverflowError, UnicodeError, struct.error)
"""What the driver raises for a value that it can't encode (numbers over 64 bits, lone surrogates), before it sends
anything."""
_STANDBY = ("25006", "57P01", "57P02", "57P03")
_LOST_STATEMENTS = ("26000", "42P05")
_REFUSED_CLASSES = ("22", "54")
"""Data exceptions, and limits of the server (such as the size of an index row): the database can't hold the value."""
_PERMANENT_CLASSES = ("0A", "21", "23502", "23503", "23514", "2F", "38", "39", "3D", "3F", "42", "44", "F0", "XX")
"""Syntax, permissions, missing objects, corruption: the same statement fails until somebody repairs something.

Everything else may be temporary: broken connections (08), other writers (23505, 40, 55), a primary that became a
standby (25), prepared statements that a pooler lost (26), resources (53), shutdowns and timeouts (57), the machine
(58).
"""


class _Adapters:
    """Send every int as BIGINT and every str as TEXT, so that a statement has one parameter signature, not dozens."""

    connection = None

    def __init__(self) -> None:
        self.adapters = AdaptersMap(psycopg.adapters)
        self.adapters.register_dumper(int, Int8Dumper)
        self.adapters.register_dumper(int, Int8BinaryDumper)
        self.adapters.register_dumper(list, ListBinaryDumper)
        self.adapters.register_dumper(str, StrBinaryDumper)


def conninfo(url: str, password: Password | None = None) -> str:
    """Return the connection string for now: `password` returns a token that is valid for a while."""
    given = {**_KEEPALIVE, **conninfo_to_dict(url)}
    if password is not None:
        given["password"] = password()
    return make_conninfo("", **given)


@contextlib.contextmanager
def answers_within(seconds: float | None, connection: AsyncConnection[Any]) -> Iterator[None]:
    """Cut the connection when the block takes longer than `seconds`; the driver then raises OperationalError.

    A cancellation would not do: the driver waits for the server's answer to that as well. None sets no limit.
    """
    if seconds is None:
        yield
        return
    watch = asyncio.get_running_loop().call_later(seconds, _cut, connection)
    try:
        yield
    finally:
        watch.cancel()


def _cut(connection: AsyncConnection[Any]) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)


class Pool(AsyncConnectionPool[AsyncConnection[Any]]):
    """A pool that hands out no connection closed by the server while idle, and drops those to a server now in standby.

    (The pool's own `check` would ask the server each time, and pause between one dead connection and the next.)
    """

    @contextlib.asynccontextmanager
    async def connection(
        self,
        timeout: float | None = None,  # noqa: ASYNC109
        *,
        silent_s: float | None = SILENT_S,
    ) -> AsyncIterator[AsyncConnection[Any]]:
        """Lend a live connection.

        Raise PoolTimeout when none is free within `timeout` seconds (None: the pool's own limit).
        """
        connection = await self._take(timeout)
        for _ in range(self.max_size):
            if not _is_closed(connection):
                break
            await connection.close()
            await self.putconn(connection)
            connection = await self._take(timeout)
        try:
            async with connection:
                with answers_within(silent_s, connection):
                    yield connection
        except psycopg.Error as error:
            if error.sqlstate in _STANDBY:
                await connection.close()  # the host name may point to another server by now
            raise
        finally:
            await self.putconn(connection)

    async def _take(self, timeout: float | None) -> AsyncConnection[Any]:  # noqa: ASYNC109
        """Return a connection. Raise CancelledError when the task was cancelled meanwhile.

        The pool waits with `asyncio.wait_for`, which in Python 3.11 loses a cancellation that arrives in the same turn
        as the connection. The task would continue as if nobody had cancelled it, and a loop would never end.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        connection = await self.getconn(timeout)
        if task is not None and task.cancelling() > before:
            await self.putconn(connection)
            raise asyncio.CancelledError
        return connection


def _is_closed(connection: AsyncConnection[Any]) -> bool:
    """Return whether the server has closed the connection: an idle socket is readable only then."""
    if connection.closed:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def create_pool(url: str, pool_size: int, *, prepare: bool, password: Password | None = None) -> Pool:
    """Return a pool that is not open yet. With `prepare` False, nothing on a connection outlives a transaction."""
    context: AdaptContext = _Adapters()
    return Pool(
        partial(conninfo, url, password),
        min_size=1,
        max_size=pool_size,
        open=False,
        timeout=POOL_TIMEOUT_S,
        reconnect_timeout=RECONNECT_S,
        name="whistlestop",
        kwargs={
            "autocommit": True,
            "cursor_factory": AsyncRawCursor,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "prepare_threshold": PREPARE_AFTER if prepare else None,
            "application_name": "whistlestop",
            "context": context,
        },
    )


async def try_connection(url: str, password: Password | None = None, *, check_pooler: bool = True) -> bool:
    """Return whether a pooler answers (if `check_pooler`). Raise CannotOpen when the database can't be reached."""
    try:
        async with await AsyncConnection.connect(
            conninfo(url, password), autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, prepare_threshold=None
        ) as connection:
            return check_pooler and await is_pooled(connection)
    except psycopg.Error as error:
        raise CannotOpen(f"can't reach the database: {one_line(error)}") from error


async def is_pooled(connection: AsyncConnection[Any]) -> bool:
    """Return whether a pooler is in between: it gives its clients process ids of its own, so that they can cancel."""
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    return row is None or row[0] != connection.info.backend_pid


def one_line(error: BaseException) -> str:
    """Return the error's message without line breaks."""
    return " ".join(str(error).split())


def translate(error: Exception) -> StorageError:
    """Return the storage error for an unexpected error of the driver."""
    if isinstance(error, (errors.UndefinedTable, errors.UndefinedColumn)):
        return SchemaMismatch(
            f"the database's schema is older than this release ({one_line(error)}): run `whistlestop db migrate`"
        )
    if isinstance(error, errors.QueryCanceled):
        return TimedOut(f"the database stopped the statement: {one_line(error)}")
    if isinstance(error, _UNENCODABLE):
        return Refused("a value that no store holds")
    if not isinstance(error, EXPECTED):
        return StorageError(f"the statement was not sent to the database: {type(error).__name__}: {one_line(error)}")
    state = getattr(error, "sqlstate", None)
    if state is None:
        if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, *_POOL_ERRORS)):
            return Unavailable(f"the database did not run the statement: {one_line(error)}")
        return PermanentError(f"the database refused the statement: {one_line(error)}")
    if state in _LOST_STATEMENTS:
        return Unavailable(
            f"prepared statements are lost between transactions (SQLSTATE {state}): the connection goes "
            "through a pooler that was not recognised as one; use the database's own address"
        )
    if state.startswith(_REFUSED_CLASSES):
        return Refused(f"a value that the database does not hold (SQLSTATE {state})")
    if state.startswith(_PERMANENT_CLASSES):
        return PermanentError(f"the database refused the statement: {one_line(error)} (SQLSTATE {state})")
    return Unavailable(f"the database did not run the statement: {one_line(error)} (SQLSTATE {state})")


def is_permanent(error: BaseException) -> bool:
    """Return whether a retry can't help because the statement or one of its values is wrong, not the connection."""
    return isinstance(translate(error), PermanentError) if isinstance(error, Exception) else False


def is_contention(error: BaseException) -> bool:
    """Return whether another writer was in the way: nothing was written, and a retry is right."""
    return isinstance(error, _CONTENTION)


async def stopped_when_cancelled(connection: AsyncConnection[Any], reading: Coroutine[Any, Any, T]) -> T:
    """Return what `reading` returns; when the caller is cancelled, cancel the statement until the database ends it.

    The driver sends one cancel request. PostgreSQL ignores one that arrives between two statements, and would then run
    the next statement until its timeout although nobody waits for it.
    """
    task = asyncio.ensure_future(reading)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            for attempt in range(CANCEL_ATTEMPTS):
                if task.done():
                    break
                with contextlib.suppress(psycopg.Error):
                    await connection.cancel_safe(timeout=CONNECT_TIMEOUT_S)
                await asyncio.wait({task}, timeout=0.01 * 2**attempt)
        finally:
            task.cancel()  # the driver closes a connection whose statement can't be cancelled
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()
        raise


async def pause(attempt: int) -> None:
    """Wait after attempt 1, 2, ...: up to 10, 20, 40, ... ms, at random so that competing writers separate."""
    # The simulation does not control concurrent writers, so it need not control this pause. Nor is it a secret.
    await asyncio.sleep(random.uniform(0.2, 1.0) * backoff(0.01, attempt, _MAX_PAUSE_S))  # noqa: S311


async def retried(run: Callable[[], Awaitable[T]], *, read: bool) -> T:
    """Run again on contention, and a read also on a broken connection (a write might have taken effect).

    Raise only storage errors.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return await run()
        except (*EXPECTED, *_UNENCODABLE) as error:
            broken = read and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
            # A caller that has waited for a connection in vain has waited long enough.
            broken = broken and not isinstance(error, (errors.QueryCanceled, *_POOL_ERRORS))
            if attempt >= ATTEMPTS or not (is_contention(error) or broken):
                raise translate(error) from error
        await pause(attempt)
