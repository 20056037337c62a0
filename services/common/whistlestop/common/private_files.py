"""Files that nobody but their owner may read: databases, backups, keys.

Rules of this file: a file that we make has the mode 0600 from its first byte, whatever the umask. A file that is there
already keeps its mode, for whoever set it may have had a reason; that others can read it is said in the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)

MODE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def create(path: str) -> int:
    """A new file, open for reading and writing. Raises FileExistsError (also for a symbolic link) and OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    # A umask can only have taken rights away, the owner's own among them.
    os.fchmod(descriptor, MODE)
    return descriptor


def open_or_create(path: str) -> int:
    """As `create`, or the file that is there. Raises OSError."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        # Another process may make it meanwhile, or a link may lead to where nothing is yet.
        with contextlib.suppress(FileExistsError):
            return create(os.path.realpath(path))


def make(path: str) -> None:
    """See to it that the file is there. Raises OSError.

    A file that is there is not opened: closing it again would drop the locks that SQLite has on it in this process.
    """
    with contextlib.suppress(FileExistsError):
        os.close(create(os.path.realpath(path)))


def warn_if_open(what: str, *paths: str) -> None:
    """Say in the log which of the files that are there can be read or written by others than their owner."""
    for path in paths:
        try:
            found = stat.S_IMODE(Path(path).stat().st_mode)
        except OSError:
            continue  # whoever needs the file says so
        if found & _OTHERS:
            log.warning(
                "%s %s can be read or changed by other users of this machine (mode %04o): chmod 600 it",
                what, path, found,
            )  # fmt: skip
