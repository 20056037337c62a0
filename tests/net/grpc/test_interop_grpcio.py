"""The clients of grpcio (C core), sync and async, against the toy service: plain, TLS and mTLS."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.patience import PATIENCE_S
from tests.server.test_start import Authority
from whistlestop.net.grpc.server import GrpcServer
from whistlestop.net.tls import server_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.net.grpc.conftest import Toy

_LARGE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@pytest_asyncio.fixture
async def channel(port: int) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", _LARGE) as channel:
        yield channel


async def test_calls_side_by_side(channel: Any) -> None:
    """Each gets its own answer."""
    echo = channel.unary_unary("/toy/Echo")
    expected = [b"%d" % number for number in range(300)]
    assert await asyncio.gather(*(echo(data, timeout=PATIENCE_S) for data in expected)) == expected


async def test_large_messages_both_ways(channel: Any) -> None:
    """Through windows that are smaller by far."""
    data = bytes(range(256)) * (4 * 1024 * 4 - 1)
    assert await channel.unary_unary("/toy/Echo")(data, timeout=PATIENCE_S) == data
    assert len(await channel.unary_unary("/toy/Big")(b"10485760", timeout=PATIENCE_S)) == 10 * 1024 * 1024


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.NoCompression])
async def test_compression(channel: Any, compression: grpc.Compression) -> None:
    """Of requests."""
    data = b"again and " * 1_000
    assert await channel.unary_unary("/toy/Echo")(data, compression=compression) == data


async def test_unknown_compression(channel: Any) -> None:
    """Deflate is not spoken here, and the status says so."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/toy/Echo")(b"x" * 1_000, compression=grpc.Compression.Deflate)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_errors(channel: Any) -> None:
    """Code and message, of any alphabet."""
    for path, data, expected in (
        ("/toy/Fail", "ümläut 100%".encode(), (grpc.StatusCode.NOT_FOUND, "ümläut 100%")),
        ("/toy/Nope", b"", (grpc.StatusCode.UNIMPLEMENTED, "no /toy/Nope")),
        ("/toy/Bug", b"", (grpc.StatusCode.INTERNAL, "internal error")),
        ("/toy/Echo", bytes(4 * 1024 * 1024 + 1), (grpc.StatusCode.RESOURCE_EXHAUSTED, "4194305 is too large")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(data, timeout=PATIENCE_S)
        assert (caught.value.code(), caught.value.details()) == expected


async def test_metadata_and_deadline(channel: Any, toy: Toy) -> None:
    """Bytes as bytes."""
    await channel.unary_unary("/toy/Echo")(b"", metadata=(("name", "value"), ("raw-bin", b"\x00\xff")), timeout=5)
    head = toy.heads[0]
    assert head.headers["name"] == "value"
    assert head.headers["user-agent"].startswith("grpc-python")
    assert head.binary["raw-bin"] == b"\x00\xff"
    assert head.timeout_s is not None
    assert 0 < head.timeout_s <= 5.1  # what is left of it when it is sent; grpc rounds it up


async def test_cancellation(channel: Any, toy: Toy) -> None:
    """Reaches the handler."""
    call = asyncio.ensure_future(channel.unary_unary("/toy/Hold")(b""))
    await asyncio.wait_for(toy.entered.wait(), PATIENCE_S)
    call.cancel()
    await asyncio.wait_for(toy.left.wait(), PATIENCE_S)


async def test_streams(channel: Any) -> None:
    """Both directions in turn."""
    call = channel.stream_stream("/toy/Count")()
    for number in (1, 2, 3):
        await call.write(b"m")
        assert await call.read() == b"%d:m" % number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_the_sync_client(port: int) -> None:
    """Its own threads, the same answers."""

    def call() -> bytes:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            echo: Any = channel.unary_unary("/toy/Echo")
            data: bytes = echo(b"x", timeout=PATIENCE_S)
            return data

    assert await asyncio.to_thread(call) == b"x"


async def test_pings_without_calls_are_no_offence(port: int, toy: Toy) -> None:
    """Keepalive, as fast as grpc lets it be."""
    options = (("grpc.keepalive_time_ms", 20), ("grpc.keepalive_permit_without_calls", 1),
               ("grpc.http2.max_pings_without_data", 0))  # fmt: skip
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        hold: Any = channel.unary_unary("/toy/Hold")
        call = hold(b"x")
        await asyncio.sleep(0.3)
        toy.release.set()
        assert await call == b"x"


async def test_a_restarted_server_is_found_again(toy: Toy) -> None:
    """A drain sends the client on its way, and it comes back."""
    first, second = GrpcServer(toy), GrpcServer(toy)
    port = await first.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo: Any = channel.unary_unary("/toy/Echo")
        assert await echo(b"1", timeout=PATIENCE_S) == b"1"
        await first.stop(1)
        await second.start("127.0.0.1", port)
        assert await echo(b"2", timeout=PATIENCE_S, wait_for_ready=True) == b"2"
    await second.stop(1)


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls(toy: Toy, tmp_path: Path, mutual: bool) -> None:
    """With ALPN; mutual where an authority of clients is named."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    server = GrpcServer(toy)
    context = server_context(str(certificate), str(key), str(authority.path) if mutual else "", "h2")
    port = await server.start("127.0.0.1", 0, context)
    root = authority.path.read_bytes()
    mine, secret = authority.issue("client")
    shown = grpc.ssl_channel_credentials(root, secret.read_bytes(), mine.read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", shown, _LARGE) as channel:
        big: Any = channel.unary_unary("/toy/Big")
        assert len(await big(b"5242880", timeout=PATIENCE_S)) == 5 * 1024 * 1024
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(root)) as channel:
        echo: Any = channel.unary_unary("/toy/Echo")
        if mutual:
            with pytest.raises(grpc.aio.AioRpcError):
                await echo(b"x", timeout=2)
        else:
            assert await echo(b"x", timeout=PATIENCE_S) == b"x"
    await server.stop(1)
