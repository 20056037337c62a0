"""What an error of a database is to callers: to be tried again, or never."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors

from tests import postgres
from tests.storage.factories import commit, run_key, start, task
from whistlestop.common.errors import Code
from whistlestop.storage.errors import (
    PermanentError,
    Refused,
    SchemaMismatch,
    StorageError,
    TimedOut,
    TooLarge,
    Unavailable,
    VersionConflict,
)
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.postgres.connection import translate as postgres_translate
from whistlestop.storage.records import PollerRecord, QueueMessage
from whistlestop.storage.sqlite.connection import translate as sqlite_translate
from whistlestop.storage.status import service_error

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import ExecutionWrite

RETRYABLE = {Code.UNAVAILABLE}

STATES: dict[str, type[StorageError]] = {
    # what passes
    **dict.fromkeys(("08000", "08003", "08006", "40001", "40P01", "53100", "53200", "53300", "55P03"), Unavailable),
    "57014": TimedOut,
    **dict.fromkeys(("25006", "25P03", "26000", "57P01", "57P02", "57P03", "58030", "23505"), Unavailable),
    # values
    **dict.fromkeys(("22021", "22003", "22P05", "22P02", "22001", "54000", "54001"), Refused),
    # statements, schema, permissions, corruption
    **dict.fromkeys(("42P01", "42703"), SchemaMismatch),
    **dict.fromkeys(("42501", "42601", "0A000", "23502", "3D000", "3F000", "XX000", "XX001", "XX002"), PermanentError),
}


@pytest.mark.parametrize("state", STATES)
def test_every_sqlstate_is_classified_as_transient_or_not(state: str) -> None:
    error = errors.lookup(state)("raw words: SELECT secret")
    assert error.sqlstate == state
    translated = postgres_translate(error)
    assert type(translated) is STATES[state]
    shown = service_error(translated)
    assert (shown.code is Code.UNAVAILABLE) == (STATES[state] is Unavailable)
    assert "secret" not in shown.message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.OperationalError("server closed the connection unexpectedly"), Unavailable),
        (psycopg.InterfaceError("the connection is closed"), Unavailable),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), Refused),
        (OverflowError("int too big to convert"), Refused),
        ("\ud800".encode, Refused),
        (psycopg.ProgrammingError("the query has 1 placeholder but 2 parameters were passed"), PermanentError),
    ],
)
def test_errors_of_the_driver_itself(error: Any, expected: type[StorageError]) -> None:
    if callable(error):
        with pytest.raises(UnicodeEncodeError) as caught:
            error()
        error = caught.value
    assert type(postgres_translate(error)) is expected


def _sqlite_error(code: int, text: str = "raw words") -> sqlite3.Error:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_sqlite_error(sqlite3.SQLITE_BUSY), Unavailable),
        (_sqlite_error(sqlite3.SQLITE_FULL), Unavailable),
        (_sqlite_error(sqlite3.SQLITE_IOERR_FSYNC), Unavailable),
        (_sqlite_error(sqlite3.SQLITE_READONLY), Unavailable),
        (_sqlite_error(sqlite3.SQLITE_TOOBIG), Refused),
        (_sqlite_error(sqlite3.SQLITE_ERROR, "malformed JSON"), Refused),
        (_sqlite_error(sqlite3.SQLITE_ERROR, "near SELEC"), PermanentError),
        (_sqlite_error(sqlite3.SQLITE_CORRUPT), PermanentError),
        (_sqlite_error(sqlite3.SQLITE_NOTADB), PermanentError),
        (_sqlite_error(sqlite3.SQLITE_ERROR, "no such table: executions"), SchemaMismatch),
        (OverflowError("Python int too large to convert to SQLite INTEGER"), Refused),
    ],
)
def test_errors_of_sqlite(error: Exception, expected: type[StorageError]) -> None:
    assert type(sqlite_translate(error)) is expected


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TooLarge("memo: 2 bytes"), Code.INVALID_ARGUMENT),
        (Refused("U+0000"), Code.INVALID_ARGUMENT),
        (SchemaMismatch("old"), Code.FAILED_PRECONDITION),
        (PermanentError("no permission"), Code.FAILED_PRECONDITION),
        (Unavailable("gone"), Code.UNAVAILABLE),
        (VersionConflict(run_key()), Code.UNAVAILABLE),
    ],
)
def test_errors_that_callers_get(error: StorageError, code: Code) -> None:
    assert service_error(error).code is code


# ---- over all adapters -----------------------------------------------------------------------------------------------


def _with_nul(what: str) -> ExecutionWrite:
    if what == "workflow id":
        return start(run_key("run-nul", "order-\0"))
    write = start(run_key("run-nul", "order-nul"))
    assert write.current is not None
    if what == "task queue":
        key = task(1).key._replace(task_queue="\0")
        return dataclasses.replace(write, tasks_added=(dataclasses.replace(task(1), key=key),))
    current = dataclasses.replace(write.current.current, create_request_id="\0")
    return dataclasses.replace(write, current=dataclasses.replace(write.current, current=current))


@pytest.mark.parametrize("what", ["workflow id", "task queue", "request id"])
async def test_text_with_nul_is_refused_and_nothing_is_written(store: Store, what: str) -> None:
    with pytest.raises(Refused):
        await commit(store, _with_nul(what))
    assert await store.get_execution(run_key("run-nul", "order-nul")) is None


async def test_other_rows_with_nul_are_refused(store: Store) -> None:
    with pytest.raises(Refused):
        await store.enqueue(QueueMessage("queue-\0", 1, b""))
    with pytest.raises(Refused):
        await store.put_pollers([PollerRecord("ns", "queue", 1, "worker-\0", 5, b"", 10)])


async def test_a_number_beyond_64_bits_is_refused_and_affects_no_other_caller(store: Store) -> None:
    """Whatever is wrong with one transition of a group is told to its writer alone."""

    async def write(n: int) -> type[Exception] | None:
        write = start(run_key(f"run-{n}", f"order-{n}"))
        if n == 3:
            write = dataclasses.replace(write, next_event_id=2**63)
        try:
            await commit(store, write)
        except StorageError as error:
            return type(error)
        return None

    outcomes = await asyncio.gather(*(write(n) for n in range(8)))
    assert outcomes == [Refused if n == 3 else None for n in range(8)]


async def test_a_key_too_large_for_an_index_affects_no_other_caller() -> None:
    """Postgres' index rows have 2,704 bytes: SQLSTATE 54000 is of one transition of the group."""
    async with postgres.migrated_database() as url:
        store = PostgresStore(url)
        await store.open()
        wide = "".join(chr(0x4E00 + n) for n in range(3000))  # nothing that compression would shorten

        async def write(n: int) -> type[Exception] | None:
            try:
                await commit(store, start(run_key(f"run-{n}", f"order-{n}" if n != 3 else wide)))
            except StorageError as error:
                return type(error)
            return None

        outcomes = await asyncio.gather(*(write(n) for n in range(8)))
        assert outcomes == [Refused if n == 3 else None for n in range(8)]
        await store.close()
