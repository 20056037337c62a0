"""What a disk may hold after a power loss: all that was flushed, and anything of what was written since."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.disk.vfs import Operation

SECTOR = 512
"""A disk writes such a piece or does not."""


@dataclass(slots=True)
class _File:
    flushed: bytearray = field(default_factory=bytearray)
    since: list[Operation] = field(default_factory=list)
    """Written or truncated since."""


@dataclass(slots=True)
class _Folder:
    """Its entries: what was created or deleted is there for certain once the folder was flushed."""

    files: dict[str, _File] = field(default_factory=dict)
    created: set[str] = field(default_factory=set)
    deleted: dict[str, _File] = field(default_factory=dict)

    def flush(self) -> None:
        self.created.clear()
        self.deleted.clear()


def after(log: Sequence[Operation], chance: random.Random, how: str = "") -> dict[str, bytes]:
    """Return the files as they may be when the power goes behind the last of these operations.

    `how` says what becomes of what was not flushed, instead of leaving it to chance: "none", "all", "first" or "torn".
    """
    folder = _Folder()
    for operation in log:
        _apply(folder, operation)
    found = {}
    for path, file in {**folder.deleted, **folder.files}.items():
        uncertain = path in folder.created or path in folder.deleted
        if not (uncertain and how != "all" and chance.random() < 0.5):
            found[path] = bytes(_what_is_left(file, chance, how))
    return found


def _apply(folder: _Folder, operation: Operation) -> None:
    path = operation.path
    if operation.kind == "create":
        folder.files[path] = _File()
        folder.created.add(path)
    elif operation.kind == "delete":
        gone = folder.files.pop(path, _File())
        if path not in folder.created:
            folder.deleted[path] = gone
        folder.created.discard(path)
        if operation.offset:
            folder.flush()
    elif operation.kind in ("write", "truncate"):
        folder.files.setdefault(path, _File()).since.append(operation)
    elif operation.kind == "sync":
        file = folder.files.setdefault(path, _File())
        if operation.failed:
            # Linux forgets what it could not write: the next flush succeeds without it.
            file.since.clear()
            return
        for each in file.since:
            _write(file.flushed, each)
        file.since.clear()
        if path in folder.created:
            # SQLite flushes the folder of a journal that it has made.
            folder.flush()


def _what_is_left(file: _File, chance: random.Random, how: str) -> bytearray:
    """Nothing of what was not flushed, all of it, its beginning, or any of it, in pieces and in another order."""
    data, pending = bytearray(file.flushed), list(file.since)
    how = how or chance.choice(("none", "all", "first", "torn", "torn"))
    if how == "none":
        return data
    if how == "first":
        pending = pending[: chance.randrange(len(pending) + 1)]
    if how == "torn":
        chance.shuffle(pending)
        pending = [each for each in pending if chance.random() < 0.6]
    for operation in pending:
        _write(data, operation, chance if how == "torn" else None)
    return data


def _write(data: bytearray, operation: Operation, chance: random.Random | None = None) -> None:
    if operation.kind == "truncate":
        del data[operation.offset :]
        data.extend(bytes(operation.offset - len(data)))
        return
    end = operation.offset + len(operation.data)
    position = operation.offset
    while position < end:
        stop = min(end, (position // SECTOR + 1) * SECTOR) if chance is not None else end
        if chance is None or chance.random() < 0.7:
            data.extend(bytes(max(0, stop - len(data))))
            data[position:stop] = operation.data[position - operation.offset : stop - operation.offset]
        position = stop


def lay_out(files: dict[str, bytes], folder: Path) -> None:
    """Write them into a folder that had none; the index of a WAL does not outlive the machine."""
    assert len({Path(path).parent for path in files}) <= 1, f"files of several databases were recorded: {sorted(files)}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, data in files.items():
        if not path.endswith("-shm"):
            file = folder / Path(path).name
            file.touch(0o600)
            file.write_bytes(data)
