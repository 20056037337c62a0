"""A layer between SQLite and the disk: it records what is written and flushed, and lets any of that fail.

It stands in the very library that Python's `sqlite3` uses, as its default VFS (https://www.sqlite.org/vfs.html), so the
store under test is the real one. Files go to the real file system by the methods of SQLite's own VFS; those that write,
flush, truncate, read and delete pass by here.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import threading
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OK, IOERR, FULL = sqlite3.SQLITE_OK, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL
IOERR_READ, IOERR_WRITE, IOERR_FSYNC, IOERR_TRUNCATE, IOERR_DELETE = (IOERR | n << 8 for n in (1, 3, 4, 6, 10))
Kind: TypeAlias = Literal["create", "write", "truncate", "sync", "delete", "mark", "read"]
Fault: TypeAlias = "Callable[[Kind, str], int]"


def nothing_fails(kind: Kind, path: str) -> int:
    """Let each call through."""
    return OK


@dataclass(frozen=True, slots=True)
class Operation:
    """One call that reached the disk; of those that failed, what they had done until then."""

    kind: Kind
    path: str
    offset: int = 0
    """Of a write; the new size for a truncation."""
    data: bytes = b""
    failed: bool = False
    mark: Any = None
    """What a test noted between two calls."""


@dataclass
class Disk:
    """What happened since it was put in, and what is to fail."""

    log: list[Operation] = field(default_factory=list)
    fault: Fault = nothing_fails
    """The result code for a call: OK lets it through. FULL for a write lets half of it through."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    recording: bool = True

    def add(self, operation: Operation) -> None:
        """Note what reached the disk."""
        if self.recording:
            with self.lock:
                self.log.append(operation)

    def mark(self, what: Any) -> None:
        """Note that the test has seen something."""
        self.add(Operation("mark", "", mark=what))


class _File(Structure):
    _fields_ = (("methods", c_void_p),)


class _Vfs(Structure):
    _fields_ = (
        ("version", c_int), ("file_size", c_int), ("longest_path", c_int), ("following", c_void_p), ("name", c_char_p),
        ("app_data", c_void_p), ("open", c_void_p), ("delete", c_void_p), ("others", c_void_p * 16),
    )  # fmt: skip


_FilePointer = POINTER(_File)
_CLOSE = CFUNCTYPE(c_int, _FilePointer)
_READ = CFUNCTYPE(c_int, _FilePointer, c_void_p, c_int, c_int64)
_WRITE = CFUNCTYPE(c_int, _FilePointer, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, _FilePointer, c_int64)
_SYNC = CFUNCTYPE(c_int, _FilePointer, c_int)
# The name as an address: SQLite's own VFS keeps it for as long as the file is open.
_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, _FilePointer, c_int, POINTER(c_int))
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)


class _Methods(Structure):
    """Of an open file; the others are left as they are."""

    _fields_ = (
        ("version", c_int), ("close", c_void_p), ("read", c_void_p), ("write", c_void_p), ("truncate", c_void_p),
        ("sync", c_void_p), ("others", c_void_p * 13),
    )  # fmt: skip


class _Layer:
    """The functions that SQLite calls, one set in a process."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.disk: Disk | None = None
        self._library = library
        self._paths: dict[int, str] = {}
        """By the address of an open file."""
        self._tables: dict[int, _Methods] = {}
        self._kept: list[Any] = []
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self.inner = library.sqlite3_vfs_find(None)
        self.vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self.vfs), self.inner, ctypes.sizeof(_Vfs))
        self.vfs.name = b"disk-of-tests"
        self.vfs.open, self.vfs.delete = self._keep(_OPEN(self._open)), self._keep(_DELETE(self._delete))
        self._inner_open = _OPEN(self.inner.contents.open)
        self._inner_delete = _DELETE(self.inner.contents.delete)

    def put_in(self, disk: Disk) -> None:
        """What is opened from now on passes by here."""
        self.disk = disk
        assert self._library.sqlite3_vfs_register(ctypes.byref(self.vfs), 1) == OK

    def take_out(self) -> None:
        """All is closed, and the next files are opened as usual."""
        self.disk = None
        assert self._library.sqlite3_vfs_register(self.inner, 1) == OK
        assert self._library.sqlite3_vfs_unregister(ctypes.byref(self.vfs)) == OK

    def _keep(self, function: Any) -> int:
        self._kept.append(function)
        address = ctypes.cast(function, c_void_p).value
        assert address is not None
        return address

    def _decide(self, kind: Kind, path: str) -> int:
        return OK if self.disk is None else self.disk.fault(kind, path)

    def _note(self, operation: Operation) -> None:
        if self.disk is not None:
            self.disk.add(operation)

    def _open(self, vfs: int, name: int | None, file: Any, flags: int, out: Any) -> int:
        path = os.fsdecode(ctypes.string_at(name)) if name else ""
        was_there = os.path.exists(path)  # noqa: PTH110 - as SQLite names it
        result = int(self._inner_open(ctypes.addressof(self.inner.contents), name, file, flags, out))
        if result == OK and path:
            self._paths[ctypes.addressof(file.contents)] = path
            file.contents.methods = ctypes.addressof(self._table_for(file.contents.methods))
            if not was_there:
                self._note(Operation("create", path))
        return result

    def _delete(self, vfs: int, name: bytes, sync_dir: int) -> int:
        path = os.fsdecode(name)
        if self._decide("delete", path) != OK:
            return IOERR_DELETE
        result = int(self._inner_delete(ctypes.addressof(self.inner.contents), name, sync_dir))
        if result == OK:
            self._note(Operation("delete", path, offset=sync_dir))
        return result

    def _table_for(self, address: int) -> _Methods:
        """The methods of such a file, with ours in the place of some."""
        if address in self._tables:
            return self._tables[address]
        inner, table = _Methods.from_address(address), _Methods()
        length = ctypes.sizeof(_Methods) if inner.version >= 3 else _Methods.others.offset + 7 * 8
        ctypes.memmove(ctypes.byref(table), address, length)
        close, read, write = _CLOSE(inner.close), _READ(inner.read), _WRITE(inner.write)
        truncate, sync = _TRUNCATE(inner.truncate), _SYNC(inner.sync)

        def path_of(file: Any) -> str:
            return self._paths.get(ctypes.addressof(file.contents), "")

        def on_close(file: Any) -> int:
            self._paths.pop(ctypes.addressof(file.contents), None)
            return int(close(file))

        def on_read(file: Any, buffer: int, amount: int, offset: int) -> int:
            return IOERR_READ if self._decide("read", path_of(file)) != OK else int(read(file, buffer, amount, offset))

        def on_write(file: Any, buffer: int, amount: int, offset: int) -> int:
            path = path_of(file)
            code = self._decide("write", path)
            done = amount if code == OK else amount // 2 if code == FULL else 0
            result = int(write(file, buffer, done, offset)) if done else OK
            self._note(Operation("write", path, offset, ctypes.string_at(buffer, done), failed=code != OK))
            return result if code == OK else code

        def on_truncate(file: Any, size: int) -> int:
            path = path_of(file)
            if self._decide("truncate", path) != OK:
                return IOERR_TRUNCATE
            self._note(Operation("truncate", path, size))
            return int(truncate(file, size))

        def on_sync(file: Any, flags: int) -> int:
            path = path_of(file)
            failed = self._decide("sync", path) != OK
            self._note(Operation("sync", path, failed=failed))
            return IOERR_FSYNC if failed else OK  # nobody pulls the plug on a test

        table.close, table.read, table.write = (
            self._keep(kind(function)) for kind, function in ((_CLOSE, on_close), (_READ, on_read), (_WRITE, on_write))
        )
        table.truncate, table.sync = self._keep(_TRUNCATE(on_truncate)), self._keep(_SYNC(on_sync))
        self._kept.append(sync)
        self._tables[address] = table
        return table


_layers: list[_Layer] = []


def _layer() -> _Layer:
    """Return the one of this process. Where Python hides its SQLite, a test fails in CI, and is skipped elsewhere."""
    import _sqlite3

    if not _layers:
        try:
            library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
            library.sqlite3_vfs_find  # noqa: B018 - asks whether it is there
        except (OSError, AttributeError):
            assert not os.environ.get("CI"), "this Python does not show its SQLite library"
            pytest.skip("this Python does not show its SQLite library")
        _layers.append(_Layer(library))
    return _layers[0]


@contextmanager
def disk() -> Iterator[Disk]:
    """A disk below all databases that are opened within; they have to be closed by its end."""
    layer = _layer()
    put_in = Disk()
    layer.put_in(put_in)
    try:
        yield put_in
    finally:
        layer.take_out()
