"""Open SQLite files, and translate SQLite's errors."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

from whistlestop.common import private_files
from whistlestop.storage.errors import (
    CannotOpen,
    PermanentError,
    Refused,
    SchemaMismatch,
    StorageError,
    Unavailable,
)
from whistlestop.storage.sqlite import file

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMORY = ":memory:"

_PRAGMAS = {
    "synchronous": "FULL",
    "busy_timeout": "5000",
    "cache_size": "-32768",
    "temp_store": "MEMORY",
    "wal_autocheckpoint": "0",  # the writer does it: see `file.seal`
    "journal_size_limit": "67108864",
}


_TRANSIENT = frozenset(
    (
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_ABORT, sqlite3.SQLITE_CONSTRAINT,
    )
)  # fmt: skip
"""Result codes of errors that may be temporary: locks, a full disk, another writer that was faster."""


def connect(path: str, pragmas: Mapping[str, str], *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection in autocommit mode with our pragmas, then the caller's. Raise CannotOpen."""
    first = path != MEMORY and not read_only
    if first:
        file.check(path)
    try:
        if first:
            # SQLite gives `-wal` and `-shm` the mode of the database file.
            private_files.make(path)
            private_files.warn_if_open("the database", path, f"{path}-wal")
    except OSError as error:
        raise CannotOpen(f"can't open the database {path}: {error.strerror}") from error
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    except sqlite3.Error as error:
        raise CannotOpen(f"can't open the database {path}: {error}") from error
    try:
        if first:
            fresh = file.is_fresh(db)
            if fresh:
                file.claim(db)
            file.check_tables(db, path, fresh=fresh)
            db.execute("PRAGMA journal_mode = WAL")
            file.settle(db)
        _refuse_unknown(pragmas, db)
        for name, value in {**_PRAGMAS, **pragmas}.items():
            db.execute(f"PRAGMA {_word(name)} = {_word(value)}")
        if read_only:
            db.execute("PRAGMA query_only = ON")
        else:
            # So far the file may not have been written; a failure had better show now than at the first commit.
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
    except sqlite3.Error as error:
        db.close()
        raise CannotOpen(f"can't use the database {path}: {error}") from error
    except CannotOpen:
        db.close()
        raise
    return db


def _refuse_unknown(pragmas: Mapping[str, str], db: sqlite3.Connection) -> None:
    """Raise CannotOpen for a pragma that this SQLite does not have, since SQLite ignores such a pragma silently."""
    known = {name for (name,) in db.execute("PRAGMA pragma_list")} if pragmas else set()
    for name in pragmas:
        if name.lower() not in known:
            raise CannotOpen(f"SQLite {sqlite3.sqlite_version} has no pragma {name!r}")


def _word(text: str) -> str:
    if not re.fullmatch(r"-?\w+", text):
        raise CannotOpen(f"not the name or value of a pragma: {text!r}")
    return text


def translate(error: Exception) -> StorageError:
    """Return the storage error for an unexpected error of sqlite3."""
    text = str(error)
    if "no such table" in text or "no such column" in text:
        return SchemaMismatch(f"the schema is older than this release ({text}): run `whistlestop db migrate`")
    if isinstance(error, (OverflowError, UnicodeError, sqlite3.DataError)):
        return Refused("a value that no store holds")
    if isinstance(error, OSError):
        return Unavailable(f"the database's files can't be accessed: {text}")
    if not isinstance(error, sqlite3.Error):
        return StorageError(f"the statement was not run: {type(error).__name__}: {text}")
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
    if code == sqlite3.SQLITE_TOOBIG or (code == sqlite3.SQLITE_ERROR and "malformed JSON" in text):
        return Refused(f"a value that the database does not hold ({text})")
    if code in _TRANSIENT:
        return Unavailable(f"the database did not run the statement: {text}")
    return PermanentError(f"the database refused the statement: {text}")
