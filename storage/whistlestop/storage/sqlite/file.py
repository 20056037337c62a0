"""Check that a database file is complete and ours before it is opened, and set the marks that this check reads.

SQLite keeps recent writes in FILE-wal. A copy, a move or a restore that takes one file without the other results in a
database that opens but lacks acknowledged writes. So the file's header carries marks:

- `application_id` says that it is ours;
- `user_version` is a generation and a state. While a server writes, the file itself says IN_USE and the WAL says
  COMPLETE (`seal`): a reader of both sees COMPLETE, a reader of the file alone sees IN_USE. The generation grows with
  each checkpoint, so a WAL that belongs to another file or time is noticed, too.

Release 0.1.0 leaves both marks alone, and files that it created have none.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import struct
import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from whistlestop.storage.errors import CannotOpen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

APPLICATION_ID = 0x57485354
IN_USE, COMPLETE = 1, 2
_STATES = 4
_MAX_GENERATION = 1 << 28
_MAGIC = b"SQLite format 3\0"
_JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_HEADER_BYTES = 100
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_INDEX_HEADER_BYTES = 20
_ATTEMPTS = 10
"""Attempts at checking a file that other processes change meanwhile."""
_BACKUP = "use a copy made by `whistlestop db backup`, or one of the file and its -wal made while no server ran"


class _Header(NamedTuple):
    """The fields of the first page's header that are checked."""

    page_size: int
    pages: int
    """0 where the header does not contain a valid number."""
    application_id: int
    generation: int
    state: int


def check(path: str) -> None:
    """Raise CannotOpen for a file that is incomplete or not ours.

    Call it before SQLite opens the file in this process: closing the file again would drop SQLite's locks on it.

    The file and its WAL are read one after the other, and meanwhile another process may move pages from one to the
    other or delete the WAL. So a refusal counts only if the file's header is the same before and after the check.
    """
    real = os.path.realpath(path)
    for attempts_left in reversed(range(_ATTEMPTS)):
        before = _first_bytes(real)
        try:
            _check(path, real)
        except CannotOpen:
            if not attempts_left or _first_bytes(real) == before:
                raise
        else:
            return


def _first_bytes(path: str) -> bytes:
    """Return the file's header, which every checkpoint changes; empty when the file can't be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - bytes of a file, not of a path
            return file.read(_HEADER_BYTES)
    except OSError:
        return b""


def _check(path: str, real: str) -> None:
    wal = f"{real}-wal"
    wal_bytes = _size(wal)
    size = _size(real)
    if not size:
        if wal_bytes > _WAL_HEADER_BYTES:
            raise CannotOpen(
                f"{wal} exists, but its database {path} {'is empty' if os.path.lexists(real) else 'does not'}: put the "
                "database back beside it, or move the -wal file away to begin with an empty one"
            )
        return
    if _has_journal(real):
        # A crash interrupted one of the first transactions, before there was a WAL: SQLite rolls it back.
        return
    try:
        with open(real, "rb") as file:  # noqa: PTH123 - bytes of a file, not of a path
            header = _header(path, file.read(_HEADER_BYTES))
        generations = _wal_generations(wal) if wal_bytes > _WAL_HEADER_BYTES else None
    except OSError as error:
        raise CannotOpen(f"can't open the database {path}: {error.strerror}") from error
    if header.application_id not in {0, APPLICATION_ID}:
        raise CannotOpen(f"{path} is a database of another program (application id {header.application_id:#x})")
    if generations and not _fits(header, generations):
        # A crash may have left a partly written frame over a page of the WAL's previous use.
        generations = _wal_generations(wal, whole=True)
    if generations is None:
        _check_alone(path, header, size, wal_is_there=os.path.lexists(wal))
        return
    if generations and not _fits(header, generations):
        raise CannotOpen(
            f"{wal} is not of {path} as it is now (a backup was put in its place, or an older copy): move the -wal and "
            "-shm files away if the database is to be used as it is, or put back the database that they belong to"
        )
    if size < header.pages * header.page_size or size % header.page_size:
        # A checkpoint interrupted by a crash looks like this as well: then the WAL has what is missing.
        _check_pages(path, real)


def _has_journal(path: str) -> bool:
    try:
        with open(f"{path}-journal", "rb") as file:  # noqa: PTH123 - as above
            return file.read(len(_JOURNAL_MAGIC)) == _JOURNAL_MAGIC
    except OSError:
        return False


def _check_pages(path: str, real: str) -> None:
    """Check all pages, on a read-only connection since any other would delete the WAL when it closes."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(real)}?mode=ro", uri=True)) as db:
            found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise CannotOpen(f"{path} is damaged or cut off ({' '.join(found.split())[:200]}); {_BACKUP}")


def settle(db: sqlite3.Connection) -> None:
    """Mark the database as complete, if a crash or an error interrupted `seal`. Raise sqlite3.Error."""
    if _mark_of(db)[1] != IN_USE:
        return
    with _alone(db):
        generation, state = _mark_of(db)
        if state == IN_USE:
            _put(db, generation, COMPLETE)


def _check_alone(path: str, header: _Header, size: int, *, wal_is_there: bool) -> None:
    """Check a database whose WAL holds nothing."""
    if header.pages and size < header.pages * header.page_size:
        raise CannotOpen(f"{path} is cut off, with {size} of {header.pages * header.page_size} bytes; {_BACKUP}")
    if header.state == IN_USE and not wal_is_there:
        raise CannotOpen(
            f"{path} has lost {path}-wal, which holds what was written last: it was copied or moved without it while "
            f"a server used it. Put the -wal file beside it, or {_BACKUP}. To go on without what is lost, create an "
            f"empty {path}-wal"
        )


def check_tables(db: sqlite3.Connection, path: str, *, fresh: bool) -> None:
    """Raise CannotOpen for a database with tables of another program, or without tables although it is not new."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "schema_version" in tables or (fresh and not tables):
        return
    if tables:
        raise CannotOpen(
            f"{path} is a database of another program: it has the table {min(tables)}, and no schema of ours"
        )
    ours = db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    if not ours:
        raise CannotOpen(
            f"{path} is a database without any table: a copy that lost its -wal, or of another program; "
            f"{_BACKUP}, or delete it to begin with an empty one"
        )


def is_fresh(db: sqlite3.Connection) -> bool:
    """Return whether the file is empty, or holds only what a crash has left of its first transaction.

    Raise sqlite3.Error.
    """
    return not db.execute("PRAGMA page_count").fetchone()[0]


def claim(db: sqlite3.Connection) -> bool:
    """Mark the database as ours; return whether that changed it. Raise sqlite3.Error."""
    changed = False
    with _alone(db):
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            changed = True
        if not _mark_of(db)[0]:
            renew(db)
            changed = True
    return changed


def renew(db: sqlite3.Connection) -> None:
    """Give the database a random new generation, so that no WAL of another database fits it. Raise sqlite3.Error."""
    _put(db, 1 + secrets.randbelow(_MAX_GENERATION // 2), COMPLETE)


def seal(db: sqlite3.Connection) -> None:
    """Move the content of the WAL into the file, and leave the file marked as one that needs its WAL.

    Raise sqlite3.Error.
    """
    with _alone(db):
        generation = _mark_of(db)[0]
        if generation:
            _put(db, generation + 1 if generation + 1 < _MAX_GENERATION else 1, IN_USE)
    try:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    finally:
        # Pages that could not be moved are still in the WAL.
        settle(db)


@contextlib.contextmanager
def _alone(db: sqlite3.Connection) -> Iterator[None]:
    """Keep other processes from writing, so that no generation is taken back that one of them has put meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def frames_in_wal(path: str) -> int:
    """Return the number of pages in the WAL of an open database; 0 when it can't be read.

    The size of the WAL's file does not tell: SQLite overwrites it from its beginning after a checkpoint and leaves its
    length as it was. The number is in the index of the WAL (`mxFrame`, https://www.sqlite.org/walformat.html).
    """
    try:
        with open(f"{path}-shm", "rb", buffering=0) as index:  # noqa: PTH123 - some bytes, often
            header = index.read(_INDEX_HEADER_BYTES)
    except OSError:
        return 0
    return int(struct.unpack_from("=I", header, 16)[0]) if len(header) == _INDEX_HEADER_BYTES else 0


def _mark_of(db: sqlite3.Connection) -> tuple[int, int]:
    return divmod(int(db.execute("PRAGMA user_version").fetchone()[0]), _STATES)


def _put(db: sqlite3.Connection, generation: int, state: int) -> None:
    db.execute(f"PRAGMA user_version = {generation * _STATES + state}")


class Identity:
    """The identity of the file that was opened, to notice when another file has taken its name."""

    def __init__(self, path: str) -> None:
        """Raise OSError when the file can't be looked at."""
        self._path = os.path.realpath(path)
        self._opened = self._now()

    def _now(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - for every commit: no object in between
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino

    def problem(self) -> str:
        """Return a message when the file was moved, deleted or replaced; empty while it is in its place.

        Raise OSError when that can't be found out now.
        """
        now = self._now()
        if now == self._opened:
            return ""
        what = "moved or deleted" if now is None else "replaced by another file"
        return f"{self._path} was {what} while it was in use: nothing more is written; stop the server and put it back"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - of text
    except OSError:
        return 0


def _header(path: str, data: bytes) -> _Header:
    if not data.startswith(_MAGIC) or len(data) < _HEADER_BYTES:
        what = "is cut off" if _MAGIC.startswith(data[:16]) or data.startswith(_MAGIC) else "is not a database"
        raise CannotOpen(f"can't use the database {path}: the file {what}")
    (page_size,) = struct.unpack_from(">H", data, 16)
    changes, pages = struct.unpack_from(">II", data, 24)
    (version,) = struct.unpack_from(">i", data, 60)
    (application_id,) = struct.unpack_from(">I", data, 68)
    (valid_for,) = struct.unpack_from(">I", data, 92)
    generation, state = divmod(version, _STATES) if version > 0 and application_id == APPLICATION_ID else (0, 0)
    size = 65536 if page_size == 1 else page_size
    return _Header(size, pages if changes == valid_for else 0, application_id, generation, state)


def _fits(header: _Header, generations: set[int]) -> bool:
    return not header.generation or not generations.isdisjoint({header.generation, header.generation + 1})


def _wal_generations(path: str, *, whole: bool = False) -> set[int] | None:
    """Return the generations recorded in a WAL; None when it holds no frame.

    With `whole` frames are checked by their checksums, as SQLite does, instead of by the salts alone: that takes a
    second for 64 MiB. An incomplete frame ends the WAL.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        head = file.read(_WAL_HEADER_BYTES)
        if len(head) < _WAL_HEADER_BYTES or struct.unpack_from(">I", head)[0] not in _WAL_MAGIC:
            return None
        (page_size,) = struct.unpack_from(">I", head, 8)
        sums = _Sums(head) if whole else None
        if sums is not None and not sums.stand_in(head, 24):
            return None
        return _generations(file, page_size, head[16:24], sums)


class _Sums:
    """The running checksums of a WAL, each over all bytes before it.

    See https://www.sqlite.org/fileformat2.html#walcksm.
    """

    def __init__(self, head: bytes) -> None:
        self._swapped = (head[3] & 1 == 1) != (sys.byteorder == "big")
        self._first = self._second = 0
        self.add(head[:24])

    def add(self, data: bytes) -> None:
        words = array("I", data)
        if self._swapped:
            words.byteswap()
        first, second = self._first, self._second
        for i in range(0, len(words), 2):
            first = (first + words[i] + second) & 0xFFFFFFFF
            second = (second + words[i + 1] + first) & 0xFFFFFFFF
        self._first, self._second = first, second

    def stand_in(self, data: bytes, offset: int) -> bool:
        """Return whether the checksums at `offset` are the current ones."""
        return struct.unpack_from(">II", data, offset) == (self._first, self._second)


def _generations(file: BinaryIO, page_size: int, salts: bytes, sums: _Sums | None) -> set[int] | None:
    found: set[int] = set()
    frames = 0
    while True:
        frame = file.read(_FRAME_HEADER_BYTES)
        if len(frame) < _FRAME_HEADER_BYTES or frame[8:16] != salts:
            break
        is_first_page = frame[:4] == b"\0\0\0\1"
        page = b""
        if is_first_page or sums is not None:
            page = file.read(page_size)
        else:
            file.seek(page_size, os.SEEK_CUR)
        if sums is not None:
            if len(page) < page_size:
                break
            sums.add(frame[:8])
            sums.add(page)
            if not sums.stand_in(frame, 16):
                break
        frames += 1
        if is_first_page and len(page) >= _HEADER_BYTES and struct.unpack_from(">I", page, 68)[0] == APPLICATION_ID:
            found.add(struct.unpack_from(">i", page, 60)[0] // _STATES)
    return found if frames else None
