"""Files that only their owner may read: databases, backups, keys.

A file that we create has the mode 0600 from the start, whatever the umask. An existing file keeps its mode, which may
be deliberate, but a warning is logged if others can read it.
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
    """Create a file and open it for reading and writing. Raises FileExistsError (also for a symbolic link), OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    # The umask may have removed even the owner's own rights.
    os.fchmod(descriptor, MODE)
    return descriptor


def open_or_create(path: str) -> int:
    """Open a file for reading and writing, creating it if necessary. Raises OSError."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        # Another process may create it meanwhile, or it may be a dangling symbolic link.
        with contextlib.suppress(FileExistsError):
            return create(os.path.realpath(path))


def make(path: str) -> None:
    """Create the file if it does not exist. Raises OSError.

    An existing file is not opened: closing it again would drop the locks that SQLite has on it in this process.
    """
    with contextlib.suppress(FileExistsError):
        os.close(create(os.path.realpath(path)))


def warn_if_open(what: str, *paths: str) -> None:
    """Log a warning for each existing file that users other than its owner can read or write."""
    for path in paths:
        try:
            found = stat.S_IMODE(Path(path).stat().st_mode)
        except OSError:
            continue  # whoever needs the file reports the error
        if found & _OTHERS:
            log.warning(
                "%s %s can be read or changed by other users of this machine (mode %04o): chmod 600 it",
                what, path, found,
            )  # fmt: skip
