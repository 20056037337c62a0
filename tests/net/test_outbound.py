"""Requests to addresses that a caller named: where they may go, and what may come back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.server.test_start import Authority
from tests.support.ports import free_port
from whistlestop.net import outbound
from whistlestop.net.outbound import BadRequest, Named, NoAnswer, Outbound
from whistlestop.net.public_addresses import is_public, parsed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\n"
OK = HEAD + b"content-length: 2\r\n\r\nok"
LOOPBACK = Named.parse(["127.0.0.0/8"])
PUBLIC = "93.184.215.14"


class Network:
    """A resolver that answers as it is told, and sockets that lead to this machine wherever they are to go."""

    def __init__(self, port: int = 0, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.port = port
        self.asked: list[tuple[str, int]] = []
        self.connected: list[tuple[Any, ...]] = []

    async def resolve(self, host: str, port: int) -> Sequence[tuple[int, tuple[Any, ...]]]:
        self.asked.append((host, port))
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET6, (address, port, 0, 0)) if ":" in address else (socket.AF_INET, (address, port))
            for address in found
        ]

    async def connect(self, endpoint: tuple[int, tuple[Any, ...]]) -> socket.socket:
        self.connected.append(endpoint[1])
        made = socket.socket()
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.port))
        except BaseException:
            made.close()
            raise
        return made

    def client(self, named: Named | None = None, **more: Any) -> Outbound:
        return Outbound(named, resolve=self.resolve, connect=self.connect, **more)


@contextlib.asynccontextmanager
async def answering(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that does that with each connection."""
    writers: list[asyncio.StreamWriter] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)

    server = await asyncio.start_server(note, "127.0.0.1", 0, ssl=tls)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in writers:
            with contextlib.suppress(AttributeError):  # asyncio's, of a transport that has gone
                writer.transport.abort()
        await asyncio.sleep(0.01)


async def asked(serve: Serve, headers: dict[str, str] | None = None, timeout_s: float = 10.0) -> outbound.Answer:
    async with answering(serve) as port:
        return await Outbound(LOOPBACK).post(f"http://127.0.0.1:{port}/x?y=1", headers or {}, b"body", timeout_s)


def saying(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    return serve


# ---- where they may go -----------------------------------------------------------------------------------------------

NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
    "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1", "64:ff9b:1::808:808", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:20::1",
    "2001:db8::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1", "2600::1%1", "fec0::1",
    "ff02::1", "ff0e::1", "2600::5efe:7f00:1", "2600::200:5efe:a00:1",
]  # fmt: skip
ARE_PUBLIC = [
    PUBLIC, "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "223.255.255.255",
    "2600:1f18::1", "2a00:1450:4001::1", "::ffff:1.1.1.1", "2002:101:101::1", "64:ff9b::101:101", "2600::5efe:101:101",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_private_addresses_are_not_called(address: str) -> None:
    """Whatever name leads there, and in whatever way the address is written."""
    assert not is_public(parsed(address))
    network = Network(0, [address])
    with pytest.raises(NoAnswer):
        await network.client().post("http://innocent.example/", {}, b"", 5)
    assert (network.asked, network.connected) == ([("innocent.example", 80)], [])


@pytest.mark.parametrize("address", ARE_PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(parsed(address))


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "[::1]", "[::ffff:7f00:1]", "LOCALHOST"]
)
async def test_no_spelling_of_a_loopback_address_leads_there(host: str) -> None:
    """By the machine's own resolver, which knows more forms than are standard."""
    calls: list[asyncio.StreamWriter] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer)

    async with answering(note) as port:
        with pytest.raises(NoAnswer):
            await Outbound().post(f"http://{host}:{port}/", {}, b"", 10)
    assert calls == []


async def test_one_address_that_is_not_public_refuses_the_name() -> None:
    network = Network(0, [PUBLIC, "10.0.0.1"])
    with pytest.raises(NoAnswer):
        await network.client().post("http://mixed.example/", {}, b"", 5)
    assert network.connected == []


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """DNS that answers differently the second time is not asked a second time."""
    async with answering(saying(OK)) as port:
        network = Network(port, [PUBLIC], ["127.0.0.1"])
        answer = await network.client().post("http://rebinding.example:8080/", {}, b"", 10)
    assert answer.body == b"ok"
    assert network.asked == [("rebinding.example", 8080)]
    assert network.connected == [(PUBLIC, 8080)]


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    hits: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hits.append(await reader.readline())
        writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    assert (await asked(serve)).status == 307
    assert hits == [b"POST /x?y=1 HTTP/1.1\r\n"]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name itself."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await asked(saying(OK))).body == b"ok"


async def test_tls_verifies_the_name_of_the_url(tmp_path: Path) -> None:
    """The certificate is for localhost: reached by another name, it is refused, though the address is the same."""
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = Authority(tmp_path)
    server_tls.load_cert_chain(*authority.issue("server"))
    async with answering(saying(OK), server_tls) as port:
        network = Network(port, [PUBLIC])
        client = network.client(tls=ssl.create_default_context(cafile=str(authority.path)))
        assert (await client.post("https://localhost/", {}, b"", 10)).body == b"ok"
        with pytest.raises(NoAnswer):
            await client.post("https://other.example/", {}, b"", 10)
        with pytest.raises(NoAnswer):
            await network.client().post("https://localhost/", {}, b"", 10)


# ---- what is named ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "url", "address"),
    [
        ("127.0.0.1", "http://a.example/", "127.0.0.1"),
        ("10.0.0.0/8", "http://a.example/", "10.1.2.3"),
        ("10.0.0.0/8", "http://a.example/", "::ffff:10.1.2.3"),
        ("::1", "http://a.example/", "::1"),
        ("fd00::/8", "http://a.example/", "fd12::1"),
        ("hooks.internal", "http://hooks.internal:81/", "10.1.2.3"),
        ("Hooks.Internal", "http://HOOKS.internal/", "10.1.2.3"),
        ("hooks.internal:81", "http://hooks.internal:81/", "10.1.2.3"),
        ("hooks.internal:443", "https://hooks.internal/", "10.1.2.3"),
        ("169.254.169.254", "http://metadata.example/", "169.254.169.254"),
    ],
)
def test_configured_addresses_may_be_called(named: str, url: str, address: str) -> None:
    parts = urlsplit(url)
    assert Outbound(Named.parse([named])).may_be_called(parts.hostname or "", outbound._port(parts), address)


@pytest.mark.parametrize(
    ("named", "url", "address"),
    [
        ("127.0.0.1", "http://a.example/", "127.0.0.2"),
        ("10.0.0.0/8", "http://a.example/", "192.168.0.1"),
        ("hooks.internal", "http://other.internal/", "10.1.2.3"),
        ("hooks.internal:81", "http://hooks.internal:82/", "10.1.2.3"),
        ("hooks.internal", "http://hooks.internal/", "169.254.169.254"),
        ("hooks.internal", "http://hooks.internal/", "::ffff:169.254.169.254"),
        ("hooks.internal", "http://hooks.internal/", "fe80::1"),
    ],
)
def test_addresses_that_are_not_configured_may_not_be_called(named: str, url: str, address: str) -> None:
    """A host that is named may be anywhere but at the metadata service of a cloud."""
    parts = urlsplit(url)
    assert not Outbound(Named.parse([named])).may_be_called(parts.hostname or "", outbound._port(parts), address)


def test_patterns_of_one_host_allow_that_host() -> None:
    named = Named.by_patterns(["*", "*.internal", "*:8080", "hooks.internal:*", "127.0.0.1:8080", "[::1]:80", "10.0.*"])
    assert named.hosts == (("hooks.internal", 0), ("127.0.0.1", 8080), ("::1", 80))
    assert not Outbound(named).may_be_called("x.internal", 80, "10.0.0.1")


@pytest.mark.parametrize("entry", ["", "*", "http://a", "a b", "10.0.0.0/40", "a:b", "[::1", "*.internal"])
def test_an_entry_that_names_nothing_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is no address, network"):
        Named.parse([entry])


# ---- what is heard ---------------------------------------------------------------------------------------------------


async def test_all_failures_on_the_way_have_one_text(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody learns which names exist, which addresses are used, and which ports answer, or how."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def unknown(host: str, port: int) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    closed = free_port()
    caplog.set_level("INFO")
    heard = set()
    async with answering(silent) as quiet, answering(saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")) as odd:
        for client, url, timeout_s in [
            (Outbound(), "http://127.0.0.1/", 5.0),
            (Network(0, ["10.0.0.1"]).client(), "http://inside.example/", 5.0),
            (Network(0, []).client(), "http://nothing.example/", 5.0),
            (Outbound(resolve=unknown), "http://unknown.example/", 5.0),
            (Network(closed, [PUBLIC]).client(), "http://closed.example/", 5.0),
            (Network(quiet, [PUBLIC]).client(), "http://quiet.example/", 0.1),
            (Network(odd, [PUBLIC]).client(), "http://odd.example/", 5.0),
            (Network(odd, [PUBLIC]).client(), "https://odd.example/", 5.0),
        ]:
            with pytest.raises(OSError, match="no usable answer") as refused:
                await client.post(url, {}, b"", timeout_s)
            heard.add((type(refused.value), str(refused.value), refused.value.__cause__))
    assert heard == {(NoAnswer, outbound.NO_ANSWER, None)}
    # The operator sees why.
    assert len(caplog.records) == 8
    assert "10.0.0.1 is not public" in caplog.text


async def test_an_endless_answer_is_given_up_at_its_time_limit() -> None:
    gone = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"content-length: 1000000\r\n\r\n")
        try:
            while not writer.is_closing():
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            pass
        finally:
            writer.close()
            gone.set()

    with pytest.raises(NoAnswer):
        await asked(drip, timeout_s=0.2)
    await gone.wait()


async def test_a_name_that_is_never_resolved_ends_in_time() -> None:
    async def slow(host: str, port: int) -> Any:
        await asyncio.Event().wait()

    with pytest.raises(NoAnswer):
        await Outbound(resolve=slow).post("http://slow.example/", {}, b"", 0.05)


MANY = outbound.MAX_READ


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"\r\n" + bytes(MANY + 1),
        HEAD + b"content-length: 99999999999999999999999\r\n\r\n",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: +1\r\n\r\n1",
        HEAD + b"x: " + b"a" * 70_000 + b"\r\n\r\n",
        HEAD + b"a:\r\n" * 5_000 + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + HEAD + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"%x\r\n" % (MANY + 1) + bytes(MANY + 1) + b"\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"1;" + b"x" * 60_000 + b"\r\na\r\n") * 75 + b"0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * (MANY // 4 + 1) + b"0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n-5\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"t: x\r\n" * 20_000 + b"\r\n",
    ],
    ids=[
        "body", "length", "negative", "sign", "head", "fields", "interim", "status", "chunk", "extensions", "chunks",
        "chunk-sign", "chunk-prefix", "trailers",
    ],
)  # fmt: skip
async def test_an_answer_above_a_limit_is_not_read(answer: bytes) -> None:
    with pytest.raises(NoAnswer):
        await asked(saying(answer))


async def test_an_answer_in_chunks_is_read() -> None:
    answer = HEAD + b"transfer-encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: x\r\n\r\n"
    assert (await asked(saying(answer))).body == b"abc"


# ---- what is sent ----------------------------------------------------------------------------------------------------


async def test_callers_headers_cannot_change_the_framing() -> None:
    heads: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HEAD + b"nexus-link: a\r\nNexus-Link: b\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    answer = await asked(note, {"Content-Length": "0", "Transfer-Encoding": "chunked", "Host": "inside", "k": "v"})
    assert answer.headers["nexus-link"] == "a, b"
    first, host, *others = heads[0].decode().rstrip().split("\r\n")
    assert (first, host[:16]) == ("POST /x?y=1 HTTP/1.1", "host: 127.0.0.1:")
    assert others == ["k: v", "connection: close", "content-length: 4"]


@pytest.mark.parametrize("headers", [{"k": "v\r\nx: y"}, {"k\r\nx": "y"}, {"k: v": "y"}])
async def test_headers_that_would_break_the_head_are_refused(headers: dict[str, str]) -> None:
    network = Network(0, [PUBLIC])
    with pytest.raises(BadRequest, match="invalid header"):
        await network.client().post("http://example.com/", headers, b"", 1.0)
    assert network.asked == []


@pytest.mark.parametrize(
    "url", ["ftp://a/", "//a/", "http:///x", "http://[::1/", "http://a:99999/", "file:///etc/passwd"]
)
async def test_urls_that_are_not_http_are_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        await Network(0, [PUBLIC]).client().post(url, {}, b"", 1.0)
