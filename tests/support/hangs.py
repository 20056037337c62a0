"""The end of tests that hang, and what they were waiting for.

pytest-timeout ends a test by an exception that it raises wherever the main thread is. Inside an event loop that is
often a task or a callback that the test does not wait for: asyncio stores the exception there, uvloop drops it, and
the test goes on waiting. So a second timeout follows, which ends the process; pytest-xdist then names the test and
continues with another worker.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

GRACE_S = 120.0
"""Seconds from the timeout of a test, in which it may still end by itself, to the end of the process."""


_LINKS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
"""The attributes of a coroutine, a generator and an asynchronous generator: its frame, and what it waits for."""


def _frames(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine, of what it awaits, of what that awaits, and so on."""
    while links := next((each for each in _LINKS if getattr(awaited, each[0], None) is not None), None):
        yield getattr(awaited, links[0])
        awaited = getattr(awaited, links[1])


def write_tasks(file: TextIO) -> None:
    """Write each unfinished task of all event loops with the calls that it waits in, the innermost one last."""
    # By `type`: isinstance would ask proxies of other libraries for their __class__, which may compute something.
    tasks = [each for each in gc.get_objects() if issubclass(type(each), asyncio.Task)]
    for task in tasks:
        if task.done():
            continue
        print(f"Task {task.get_name()}", file=file)
        for frame in _frames(task.get_coro()):
            code = frame.f_code
            print(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_qualname}', file=file)


class Watchdog:
    """The second timeout of the test that runs in this process."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(sys.__stderr__.fileno()), "w") if sys.__stderr__ is not None else sys.stderr

    def start(self, timeout_s: float) -> None:
        """Watch a test whose own timeout (seconds) has just been set as the handler of SIGALRM."""
        faulthandler.dump_traceback_later(timeout_s + GRACE_S, exit=True, file=self._file)
        raise_timeout = signal.getsignal(signal.SIGALRM)
        if not callable(raise_timeout):  # a timeout that comes from a thread, or none
            return

        def tell_first(number: int, frame: FrameType | None) -> Any:
            print("\nA test has reached its timeout. Unfinished tasks:", file=self._file)
            write_tasks(self._file)
            self._file.flush()
            return raise_timeout(number, frame)

        signal.signal(signal.SIGALRM, tell_first)

    def stop(self) -> None:
        """Stop watching: the test and its fixtures have ended."""
        faulthandler.cancel_dump_traceback_later()
