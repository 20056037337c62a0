"""The bounds of one HTTP/1.1 connection: each phase ends, whatever the peer does."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from tests.patience import PATIENCE_S
from tests.support.waiting import eventually
from whistlestop.frontend.endpoints.browsers import BrowserRules
from whistlestop.net.budget import Budget
from whistlestop.net.http.protocol import BoundedProtocol, HttpLimits
from whistlestop.net.http.server import HttpServer
from whistlestop.net.http.state import ServerState
from whistlestop.server.metrics.endpoint import metrics_app
from whistlestop.server.metrics.prometheus import PrometheusMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
SHORT = HttpLimits(head_s=0.05, body_s=0.05, linger_s=0.05, stalled_s=0.1)
"""Of time: whoever waits for them waits for what is sure to come."""
LONG = HttpLimits(head_s=600, body_s=600, linger_s=600, stalled_s=600)


class App:
    """Reads the body, if `reads`, and answers with what it was; a path with `hold` waits before."""

    def __init__(self) -> None:
        self.calls = 0
        self.reads = True
        self.known = True
        self.answer = b""
        self.release = asyncio.Event()
        self.entered = asyncio.Event()
        self.gone = asyncio.Event()
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        self.entered.set()
        if self.known:
            scope["state"]["peer"].authenticate()
        body = b""
        while self.reads:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self.headers = list(scope["headers"])
        if "hold" in scope["path"]:
            await self.release.wait()
        answer = self.answer or scope["raw_path"] + b" " + body
        await send({
            "type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]
        })  # fmt: skip
        await send({"type": "http.response.body", "body": answer})


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        self.writer.write(data)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        """(status, body)."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head[9:12]), await self.reader.readexactly(size)

    async def end(self) -> bytes:
        """What is left to read before the connection is closed."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        except ConnectionError:
            return b""


class Site:
    def __init__(self, app: App, limits: HttpLimits, keep_alive_s: float) -> None:
        self.app = app
        self.budget = Budget(time.monotonic)
        self.door = HttpServer(app, keep_alive_s, budget=self.budget, limits=limits)
        self.port = 0
        self.peers: list[Peer] = []

    async def connect(self, limit: int = 2**16) -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))
        self.peers.append(peer)
        return peer


@asynccontextmanager
async def site(limits: HttpLimits = LONG, keep_alive_s: float = 600) -> AsyncIterator[Site]:
    made = Site(App(), limits, keep_alive_s)
    made.port = await made.door.start("127.0.0.1", 0)
    try:
        yield made
    finally:
        for peer in made.peers:
            peer.writer.close()
        await made.door.stop()


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with site() as one:
        peer = await one.connect()
        assert await peer.ask(GET) == (200, b"/ ")
        assert await peer.ask(b"POST /a?b HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nxy") == (200, b"/a xy")
        assert await peer.ask(
            b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n"
        ) == (200, b"/a xy")
        peer.writer.write(GET + b"GET /2 HTTP/1.1\r\nhost: a\r\n\r\n")
        assert [await peer.answer(), await peer.answer()] == [(200, b"/ "), (200, b"/2 ")]


@pytest.mark.parametrize("start", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nhost: a\r\n", b"\r\n"])
async def test_a_head_has_a_time(start: bytes) -> None:
    """From the start of a connection; a peer that has begun is told."""
    async with site(SHORT) as one:
        peer = await one.connect()
        peer.writer.write(start)
        assert (await peer.end()).startswith(b"HTTP/1.1 408 " if start else b"")
        assert not one.app.calls


async def test_a_head_that_grows_gets_no_more_time() -> None:
    async with site(SHORT) as one:
        peer = await one.connect()
        peer.writer.write(b"GET / HTTP/1.1\r\n")
        ended = asyncio.ensure_future(peer.end())
        while not ended.done():
            peer.writer.write(b"x: y\r\n")
            await asyncio.sleep(0.01)
        assert not one.app.calls


async def test_a_body_has_a_time() -> None:
    """However it is divided; the application hears that its caller is gone."""
    async with site(SHORT) as one:
        peer = await one.connect()
        peer.writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n1")
        assert (await peer.end()).startswith(b"HTTP/1.1 408 ")
        await asyncio.wait_for(one.app.gone.wait(), PATIENCE_S)


async def test_an_idle_connection_is_closed() -> None:
    async with site(keep_alive_s=0.05) as one:
        peer = await one.connect()
        assert await peer.ask(GET) == (200, b"/ ")
        assert await peer.end() == b""


async def test_an_answer_may_take_its_time() -> None:
    """A poll is waited for, longer than any of the bounds; empty lines meanwhile end nothing."""
    async with site(SHORT, keep_alive_s=0.05) as one:
        peer = await one.connect()
        peer.writer.write(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
        await one.app.entered.wait()
        peer.writer.write(b"\r\n")
        await asyncio.sleep(0.3)
        one.app.release.set()
        assert await peer.answer() == (200, b"/hold ")


async def test_a_peer_that_does_not_fetch_its_answer_is_dropped() -> None:
    async with site(SHORT) as one:
        one.app.answer = bytes(32 * 1024 * 1024)
        peer = await one.connect(limit=1024)
        peer.writer.write(GET)
        await eventually(lambda: len(one.budget) == 1)
        await eventually(lambda: len(one.budget) == 0)


@pytest.mark.parametrize(
    ("unsent_kib", "aborted"),
    [((300, 230, 160, 90, 20, 0), False), ((300, 230, 229), True), ((300, 299), True), ((30, 30), True), ((30, 0), False)],
)  # fmt: skip
async def test_a_peer_that_fetches_it_slowly_is_not(unsent_kib: tuple[int, ...], aborted: bool) -> None:
    """What counts is 64 KiB in each span of time, or all that is left."""
    left = [size * 1024 for size in unsent_kib]

    class Transport(asyncio.Transport):
        ended = False

        def get_write_buffer_size(self) -> int:
            return left[0]

        def abort(self) -> None:
            self.ended = True

        def is_closing(self) -> bool:
            return self.ended

        def close(self) -> None:
            return

    config = uvicorn.Config(App(), interface="asgi3", loop="none", lifespan="off", log_config=None, ws="none")
    config.load()
    account = Budget(time.monotonic).connect(("192.0.2.1", 1), None)  # type: ignore[arg-type]  # the protocol is to be it
    assert account is not None
    protocol = BoundedProtocol(config, ServerState(), LONG, account)
    transport = Transport()
    protocol.connection_made(transport)
    protocol.pause_writing()
    while protocol._stall_timer is not None:
        protocol._stall_timer.cancel()
        left.pop(0)
        protocol._check_writing()
    assert (transport.ended, len(left)) == (aborted, 1)
    protocol.connection_lost(None)


async def test_the_rest_of_an_unwanted_body_is_discarded() -> None:
    """The connection goes on if it was little; it ends if it is much."""
    async with site() as one:
        one.app.reads = False
        peer = await one.connect()
        assert await peer.ask(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n") == (200, b"/ ")
        peer.writer.write(bytes(100_000))
        assert await peer.ask(b"GET /2 HTTP/1.1\r\nhost: a\r\n\r\n") == (200, b"/2 ")
    async with site(HttpLimits(linger_s=0.05)) as one:
        one.app.reads = False
        peer = await one.connect()
        peer.writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n" + bytes(8_000_000))
        assert await peer.answer() == (200, b"/ ")
        await peer.end()
    async with site(HttpLimits(linger_s=0.05)) as one:
        one.app.reads = False
        peer = await one.connect()
        assert await peer.ask(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n") == (200, b"/ ")
        assert await peer.end() == b""


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 300, 431),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b" " * 70_000, 431),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n", 414),
        (b"GET /?" + b"x" * 100_000, 414),
        (b"\r\n" * 40_000, 431),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"x" * 20_000, 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + b"1;" + b"x" * 90 + b"\r\nx\r\n" + b"1;%b\r\nx\r\n" % (b"x" * 100) * 400, 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 5_000, 400),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)  # fmt: skip
async def test_requests_beyond_a_limit_are_refused(start: bytes, status: int) -> None:
    async with site(HttpLimits(linger_s=0.05)) as one:
        peer = await one.connect()
        peer.writer.write(start)
        assert (await peer.answer())[0] == status
        assert await peer.end() == b""


async def test_large_heads_and_small_chunks_of_callers_pass() -> None:
    """Bounds are far from what clients do."""
    async with site() as one:
        peer = await one.connect()
        status, _ = await peer.ask(b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: %b\r\n" % (b"y" * 100) * 200 + b"\r\n")
        assert status == 200
        assert (await peer.ask(b"GET /?" + b"x" * 30_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n"))[0] == 200
        body = (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
        )
        assert await peer.ask(body) == (200, b"/ " + b"x" * 20_000)
        assert await peer.ask(b"GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n") == (200, b"/ ")


async def test_trailers_do_not_become_headers() -> None:
    async with site() as one:
        peer = await one.connect()
        request = (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nauthorization: b\r\n\r\n"
        )
        assert await peer.ask(request) == (200, b"/ x")
        assert one.app.headers == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
@pytest.mark.parametrize(
    "framed", [b"content-length: 2\r\n\r\nxy", b"transfer-encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n"]
)
async def test_an_upgrade_is_passed_over_and_its_body_is_a_body(protocol: bytes, framed: bytes) -> None:
    """Java's client asks for HTTP/2 with its first request, whatever that is."""
    async with site() as one:
        peer = await one.connect()
        head = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: %b\r\n" % protocol
        assert await peer.ask(head + framed + GET) == (200, b"/ xy")
        assert await peer.answer() == (200, b"/ ")
        start, rest = framed[:-3], framed[-3:]
        peer.writer.write(head + start)
        await asyncio.sleep(0.01)
        assert await peer.ask(rest) == (200, b"/ xy")


async def test_an_error_after_a_request_does_not_drop_its_answer() -> None:
    async with site() as one:
        peer = await one.connect()
        peer.writer.write(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n" + GET + b"rubbish\r\n\r\n")
        await one.app.entered.wait()
        one.app.release.set()
        assert [await peer.answer(), await peer.answer()] == [(200, b"/hold "), (200, b"/ ")]
        assert await peer.end() == b""


async def test_few_requests_wait_for_the_answer_to_another() -> None:
    async with site() as one:
        peer = await one.connect()
        peer.writer.write(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n" + GET * 1_000)
        await one.app.entered.wait()
        one.app.release.set()
        await peer.end()
        await eventually(lambda: len(one.budget) == 0)
        assert one.app.calls == 1 + HttpLimits().pipelined


# -- the budget --


async def test_a_connection_counts_until_its_caller_is_authenticated() -> None:
    async with site() as one:
        one.app.known = False
        stranger, known = await one.connect(), await one.connect()
        assert await stranger.ask(GET) == (200, b"/ ")
        assert (len(one.budget), one.budget.unauthenticated) == (2, 2)
        one.app.known = True
        assert await known.ask(GET) == (200, b"/ ")
        assert (len(one.budget), one.budget.unauthenticated, one.budget.bytes) == (2, 1, 0)
        for peer in one.peers:
            peer.writer.close()
        await eventually(lambda: len(one.budget) == 0)
        assert (one.budget.unauthenticated, one.budget.request_count, one.budget.bytes) == (0, 0, 0)


async def test_the_body_of_an_unauthenticated_peer_is_read_on_demand() -> None:
    """Before, no more than one small piece of it."""
    async with site() as one:
        one.app.known = one.app.reads = False
        peer = await one.connect()
        peer.writer.write(b"POST /hold HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n" + bytes(1_000_000))
        await one.app.entered.wait()
        await asyncio.sleep(0.05)
        assert 0 < one.budget.bytes < 20_000
        one.app.release.set()
        assert (await peer.answer())[0] == 200


async def test_metrics_cost_their_reader_cpu_time() -> None:
    """Nobody is asked for a credential there, so each reading counts."""
    spent: list[float] = []

    class Connection:
        def spend_cpu(self, seconds: float) -> None:
            spent.append(seconds)

    async def nothing(*_: object) -> Any:
        return None

    app = metrics_app(PrometheusMetrics(), nothing, BrowserRules())
    for path in ("/metrics", "/nothing"):
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [(b"host", b"localhost")],
            "state": {"peer": Connection()},
        }
        await app(scope, nothing, nothing)
    assert len(spent) == 2
    assert spent[0] > spent[1] > 0
