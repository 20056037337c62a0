"""Certificates, keys and authorities that are replaced while a server runs."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb
from temporalio.client import Client
from temporalio.service import TLSConfig

from tests.patience import PATIENCE_S
from tests.server.test_start import Authority
from whistlestop.net.tls import CHECK_S, ReloadedContext, server_context
from whistlestop.server.config import ServerConfig, TlsConfig
from whistlestop.server.process import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

T = TypeVar("T")


class Files:
    """The three files of a server, and who wrote them last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate, self.key, self.client_ca = (folder / name for name in ("tls.pem", "tls.key", "clients.pem"))
        self.replace("first")

    def replace(self, name: str) -> Authority:
        """Put a certificate of a new authority in place, whose clients alone are let in from now on."""
        place = self.folder / name
        place.mkdir()
        self.authority = Authority(place)
        self.issued, self.secret = self.authority.issue("server")
        for source, target in (
            (self.issued, self.certificate), (self.secret, self.key), (self.authority.path, self.client_ca),
        ):  # fmt: skip
            # As cert-manager and kubelet do it: the name leads elsewhere from one instant to the next.
            scratch = target.with_suffix(".new")
            scratch.symlink_to(source)
            scratch.replace(target)
        return self.authority

    def client(self, authority: Authority, *, of: Authority | None = None) -> ssl.SSLContext:
        """A client that trusts the authority, with a certificate of another one or the same."""
        context = ssl.create_default_context(cafile=str(authority.path))
        context.load_cert_chain(*(of or authority).issue("client"))
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLObject:
    """Both ends in memory. Raises SSLError; returns the client's end."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_side=False, server_hostname="localhost", session=session),
        server.wrap_bio(up, down, server_side=True),
    ]
    waiting = list(ends)
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    # TLS 1.3 tells a client of a refused certificate, and hands out sessions, with what is sent first.
    ends[1].write(b"x")
    assert ends[0].read(1) == b"x"
    return ends[0]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def reloaded(files: Files, clock: Clock) -> ReloadedContext:
    paths = str(files.certificate), str(files.key), str(files.client_ca)
    return ReloadedContext(lambda: server_context(*paths, "h2"), paths, clock)


def test_a_handshake_goes_by_the_files_as_they_are(files: Files) -> None:
    clock = Clock()
    first, server = files.authority, reloaded(files, clock)
    handshake(server, files.client(first))
    second = files.replace("second")
    handshake(server, files.client(first))  # looked at a moment ago
    clock.now_s += CHECK_S
    handshake(server, files.client(second))
    with pytest.raises(ssl.SSLError):
        handshake(server, files.client(first))
    with pytest.raises(ssl.SSLError):  # the authority of clients has changed as well
        handshake(server, files.client(second, of=first))


def test_files_that_do_not_fit_change_nothing(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """One of two was replaced, a file is gone, or is no PEM: said once, and those of before stay."""
    clock = Clock()
    first, server = files.authority, reloaded(files, clock)
    other, _ = files.authority.issue("other")
    for break_it in (
        lambda: other.replace(files.certificate),
        files.certificate.unlink,
        lambda: files.certificate.write_text("no certificate"),
    ):
        break_it()
        caplog.clear()
        for _ in range(3):
            clock.now_s += CHECK_S
            handshake(server, files.client(first))
        assert [record.getMessage()[:30] for record in caplog.records] == ["new TLS files can't be used, t"]
    files.certificate.unlink()
    second = files.replace("second")
    clock.now_s += CHECK_S
    handshake(server, files.client(second))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_goes_on_under_new_files(files: Files, version: ssl.TLSVersion) -> None:
    """A client whose authority is no longer trusted would get in by a session of before."""
    clock = Clock()
    server, client = reloaded(files, clock), files.client(files.authority)
    client.maximum_version = version
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    session = handshake(server, client).session
    assert handshake(server, client, session).session_reused
    files.replace("second")
    clock.now_s += CHECK_S
    with pytest.raises(ssl.SSLError):
        handshake(server, client, session)


async def test_a_server_takes_new_files_and_drops_no_connection(files: Files) -> None:
    """On gRPC and HTTP; a long poll goes on over a connection of before."""
    first = files.authority
    tls = TlsConfig(str(files.certificate), str(files.key), str(files.client_ca))
    async with Server(ServerConfig(port=0, metrics_port=None, tls=tls)) as server:
        old = await client_of(server, first)
        poll = asyncio.create_task(poll_once(old))
        http_reader, http_writer = await http(server, files.client(first))
        second = files.replace("second")

        _, http_second = await until(lambda: http(server, files.client(second)))
        http_second.close()
        new = await until(lambda: client_of(server, second))
        await new.start_workflow("W", id="w", task_queue="q")
        assert (await poll).workflow_execution.workflow_id == "w"
        http_writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await http_reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        http_writer.close()
        with pytest.raises(OSError, match=r"(?i)certificate"):
            await http(server, files.client(first))


async def until(connect: Callable[[], Awaitable[T]]) -> T:
    """What comes of it once the server has looked at its files."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await connect()
            except (OSError, RuntimeError):
                await asyncio.sleep(0.05)


async def http(server: Server, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.http_port, ssl=context, server_hostname="localhost")


async def client_of(server: Server, authority: Authority) -> Client:
    mine, secret = authority.issue("client")
    tls = TLSConfig(
        server_root_ca_cert=authority.path.read_bytes(),
        client_cert=mine.read_bytes(),
        client_private_key=secret.read_bytes(),
    )
    return await Client.connect(f"127.0.0.1:{server.port}", tls=tls)


async def poll_once(client: Client) -> Any:
    request = service_pb.PollWorkflowTaskQueueRequest(namespace="default", identity="me")
    request.task_queue.name = "q"
    return await client.workflow_service.poll_workflow_task_queue(request)
