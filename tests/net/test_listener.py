"""Connections are accepted within the budget, before TLS and before any protocol sees them."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, cast

import pytest

from tests.patience import PATIENCE_S
from whistlestop.net.budget import Bounds, Budget, Share
from whistlestop.net.listener import Listener, bounds_of_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from whistlestop.net.budget import Account

FEW = Bounds(address=Share(4, 10, 10_000, 1.0, 1.0))


class Greeter(asyncio.Protocol):
    """Says hello; a peer that answers is authenticated."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.account.peer = self
        self.transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self.account.authenticate()
        self.transport.write(b"welcome")

    def connection_lost(self, exc: Exception | None) -> None:
        self.account.close()

    def activity(self) -> int:
        return 0

    def is_busy(self) -> bool:
        return False

    def close_idle(self) -> None:
        self.transport.close()

    def abort(self) -> None:
        self.transport.abort()


class Scarce:
    """A listening socket for which there is no descriptor as often as `refusals` says."""

    def __init__(self, listener: socket.socket, refusals: int) -> None:
        self._listener = listener
        self.refusals = refusals

    def accept(self) -> tuple[socket.socket, object]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return self._listener.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._listener, name)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


async def connect(listener: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", listener.port)


async def read(reader: asyncio.StreamReader, size: int = 5) -> bytes:
    """What comes; nothing once the connection is closed."""
    try:
        return await asyncio.wait_for(reader.readexactly(size), PATIENCE_S)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def test_connections_have_accounts_until_they_are_lost(listening: socket.socket) -> None:
    budget = Budget(time.monotonic)
    listener = Listener(listening, budget, Greeter)
    reader, writer = await connect(listener)
    assert await read(reader) == b"hello"
    assert (len(budget), budget.unauthenticated) == (1, 1)

    writer.write(b"x")
    assert await read(reader, 7) == b"welcome"
    assert (len(budget), budget.unauthenticated) == (1, 0)

    writer.close()
    while len(budget):  # noqa: ASYNC110 - of the other end, nobody tells
        await asyncio.sleep(0.001)
    listener.close()


async def test_the_oldest_is_closed_for_one_too_many(listening: socket.socket) -> None:
    listener = Listener(listening, Budget(time.monotonic, FEW), Greeter)
    first = await connect(listener)
    assert await read(first[0]) == b"hello"
    others = [await connect(listener) for _ in range(4)]
    assert [await read(reader) for reader, _ in others] == [b"hello"] * 4
    assert await read(first[0], 1) == b""
    for _, writer in (first, *others):
        writer.close()
    listener.close()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


async def test_connections_without_a_handshake_are_closed_first(
    listening: socket.socket, pair: tuple[Path, Path]
) -> None:
    """Protocols hear of a TLS connection only after its handshake; the budget knows of it before."""
    certificate, key = pair
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = Listener(listening, Budget(time.monotonic, FEW), Greeter, context)
    silent = [await connect(listener) for _ in range(8)]
    friend = ssl.create_default_context(cafile=str(certificate))
    friend.check_hostname = False
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=friend)

    assert await read(reader) == b"hello"
    closed = [await read(each, 1) for each, _ in silent[:5]]
    assert closed == [b""] * 5
    for _, each in (*silent, (reader, writer)):
        each.close()
    listener.close()


async def test_unauthenticated_connections_are_closed_when_descriptors_run_out(listening: socket.socket) -> None:
    listener = Listener(listening, Budget(time.monotonic), Greeter)
    stranger = await connect(listener)
    assert await read(stranger[0]) == b"hello"
    listener._listener = cast("socket.socket", Scarce(listening, 1))

    reader, writer = await connect(listener)
    assert await read(reader) == b"hello"
    assert await read(stranger[0], 1) == b""
    for each in (stranger[1], writer):
        each.close()
    listener.close()


async def test_without_descriptors_and_unauthenticated_connections_the_listener_waits(
    listening: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so once, does not turn in circles, and goes on as soon as there is one."""
    listener = Listener(listening, Budget(time.monotonic), Greeter)
    scarce = Scarce(listening, 3)
    listener._listener = cast("socket.socket", scarce)
    with caplog.at_level(logging.WARNING):
        reader, writer = await connect(listener)
        assert await read(reader) == b"hello"
    assert scarce.refusals == 0
    assert len([each for each in caplog.records if "can't accept" in each.message]) == 1
    writer.close()
    listener.close()


@pytest.mark.parametrize(("limits", "expected"), [("256, 1024", "1024"), ("300, 300", "300")])
def test_the_limit_of_descriptors_is_raised(limits: str, expected: str) -> None:
    program = (
        "import resource; from whistlestop.net.listener import raise_descriptor_limit as f;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limits})); print(f(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.split() == [expected, expected]


@pytest.mark.parametrize(("limit", "connections"), [(256, 192), (1_024, 896), (65_536, 64_512), (32, 16)])
def test_a_part_of_the_descriptors_is_kept_for_other_things(limit: int, connections: int) -> None:
    assert bounds_of_process(limit).all_connections == connections
