"""Servers of the parity suite in the process of the tests, so that they have its mutant, and their lines are those of a test."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVarTuple

from tests.parity import servers
from whistlestop.server import process
from whistlestop.server.cli.app import run
from whistlestop.server.cli.start import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


Ts = TypeVarTuple("Ts")


class _Loop(asyncio.SelectorEventLoop):
    """The event loop of a thread, which gets no signals."""

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        return None


class _Alive:
    """What `servers` asks of a process that it has started."""

    def __init__(self, thread: threading.Thread) -> None:
        self._thread = thread

    def poll(self) -> int | None:
        return None if self._thread.is_alive() else 1


@asynccontextmanager
async def _running(arguments: list[str], port: int) -> AsyncIterator[str]:
    thread = threading.Thread(target=run, args=(arguments[1:],), daemon=True)
    thread.start()
    address = f"127.0.0.1:{port}"
    if not await servers._ready(address, _Alive(thread)):  # type: ignore[arg-type]
        raise RuntimeError("the server did not come up")
    # It ends with the process, which is a fork.
    yield address


def serve_here() -> None:
    """From now on start our servers in threads of this process, which has read all that they run."""
    assert process in sys.modules.values()
    servers._running = _running
    serve._loop_factory = lambda: _Loop
