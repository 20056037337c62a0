"""The end of a server's process."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
from typing import TYPE_CHECKING, Any, cast

import pytest

from whistlestop.server.cli.errors import CommandError
from whistlestop.server.cli.start import serve as cli_serve
from whistlestop.server.config import BadConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whistlestop.server.process import Server


class BusyLoop(asyncio.SelectorEventLoop):
    """As uvloop's with a connection that was cancelled while it was made."""

    def close(self) -> None:
        super().close()
        raise OSError(errno.EBUSY, "Device or resource busy")


class Refusing:
    async def __aenter__(self) -> None:
        raise BadConfig("no such file")

    async def __aexit__(self, *_: object) -> None: ...


class Ending:
    """A server that is asked to stop as soon as it serves."""

    async def __aenter__(self) -> None:
        self.stopped = False

    async def __aexit__(self, *_: object) -> None:
        self.stopped = True

    async def started(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cli_serve, "_loop_factory", lambda: BusyLoop)
    monkeypatch.setattr(cli_serve, "_announce", lambda *_: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def serve(server: Any) -> int:
    return cli_serve.serve(cast("Server", server), "title", [])


def test_a_loop_that_can_t_be_closed_changes_no_exit_code() -> None:
    server = Ending()
    assert serve(server) == 0
    assert server.stopped


def test_a_loop_that_can_t_be_closed_hides_no_error() -> None:
    with pytest.raises(CommandError, match="no such file"):
        serve(Refusing())
