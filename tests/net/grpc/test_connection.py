"""What a connection does beside calls: settings, pings, windows, going away, and its bounds."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.net.grpc.peer import Frame, Peer, message
from tests.patience import PATIENCE_S
from whistlestop.net.grpc import frames
from whistlestop.net.grpc.frames import ErrorCode
from whistlestop.net.grpc.limits import Limits
from whistlestop.net.grpc.server import GrpcServer

if TYPE_CHECKING:
    from tests.net.grpc.conftest import Start, Toy

_MEGABYTE = 1 << 20


async def test_the_server_speaks_first_in_settings(port: int) -> None:
    """Its bounds, and a wide window."""
    peer = await Peer.connect(port)
    peer.send(frames.PREFACE + frames.settings(()))
    first = await peer.read()
    assert first is not None
    assert (first.kind, first.flags) == (frames.SETTINGS, 0)
    assert dict(frames.read_settings(first.payload)) == {
        frames.MAX_CONCURRENT_STREAMS: 10_000,
        frames.INITIAL_WINDOW_SIZE: 4 * _MEGABYTE,
        frames.MAX_HEADER_LIST_SIZE: 65_536,
    }


async def test_a_preface_in_pieces(port: int) -> None:
    """Byte by byte."""
    peer = await Peer.connect(port)
    for byte in frames.PREFACE + frames.settings(()):
        peer.send(bytes((byte,)))
        await peer.writer.drain()
        await asyncio.sleep(0)
    await peer.until(lambda frame: frame.kind == frames.SETTINGS and frame.flags == frames.ACK)


@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_http_1_gets_a_plain_answer(port: int, verb: str) -> None:
    """For people with a browser or curl."""
    peer = await Peer.connect(port)
    peer.send(f"{verb} / HTTP/1.1\r\nhost: here\r\n\r\n".encode())
    data = await asyncio.wait_for(peer.reader.read(), PATIENCE_S)
    assert data.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"gRPC" in data


async def test_a_silent_peer_is_disconnected(start: Start) -> None:
    """After the time for a greeting."""
    peer = await Peer.connect(await start(Limits(handshake_s=0.05)))
    assert await peer.ended() == ErrorCode.SETTINGS_TIMEOUT


async def test_pings_are_answered(peer: Peer) -> None:
    """With their own bytes, as many as a client likes to send while it works."""
    for _ in range(3):
        await peer.ping()


async def test_unknown_frames_and_settings_are_ignored(peer: Peer) -> None:
    """Extensions."""
    peer.frame(0xFA, 0xFF, 7, b"grease")
    peer.send(frames.settings(((0x99, 1),)))
    peer.frame(frames.PRIORITY, 0, 11, bytes(5))
    await peer.ping()


@pytest.mark.parametrize("window", [1, 1_000, 65_535, 1 << 20])
async def test_replies_keep_within_the_windows(port: int, window: int) -> None:
    """Of stream and connection, whichever is smaller; all arrives in order."""
    size = 10 * _MEGABYTE if window > 1_000 else 20_480
    peer = await Peer.greet(port, (frames.INITIAL_WINDOW_SIZE, window))
    stream = peer.call("/toy/Big", b"%d" % size)
    left = {0: 65_535, stream: window}
    digest, received = hashlib.sha256(), 0
    while True:
        frame = await peer.read()
        assert frame is not None
        if frame.kind == frames.DATA:
            received += len(frame.payload)
            digest.update(frame.payload)
            for number, grant in ((0, 65_535), (stream, window)):
                left[number] -= len(frame.payload)
                assert left[number] >= 0
                if left[number] == 0:
                    left[number] = grant
                    peer.send(frames.window_update(number, grant))
        elif frame.kind == frames.HEADERS and frame.flags & frames.END_STREAM:
            break
    assert received == size + 5
    assert digest.digest() == hashlib.sha256(message(bytes(range(256)) * (size // 256))).digest()


async def test_a_stream_with_a_shut_window_blocks_no_other(port: int) -> None:
    """Each has its own window."""
    peer = await Peer.greet(port, (frames.INITIAL_WINDOW_SIZE, 10))
    shut = peer.call("/toy/Big", b"1024")
    await peer.until(lambda frame: frame.kind == frames.DATA and frame.stream == shut)
    assert (await peer.answer(peer.call("/toy/Echo", b"x"))).messages == [b"x"]
    peer.send(frames.settings(((frames.INITIAL_WINDOW_SIZE, 5_000),)))
    answer = await peer.answer(shut)
    assert (len(answer.data), answer.status[0]) == (1_024 + 5 - 10, "0")


async def test_windows_may_shrink_below_nothing(port: int) -> None:
    """And then must open that far first."""
    peer = await Peer.greet(port, (frames.INITIAL_WINDOW_SIZE, 100))
    stream = peer.call("/toy/Big", b"512")
    await peer.until(lambda frame: frame.kind == frames.DATA)
    peer.send(frames.settings(((frames.INITIAL_WINDOW_SIZE, 0),)))
    peer.send(frames.window_update(stream, 100))
    await peer.ping()
    peer.send(frames.window_update(stream, 1_000))
    assert len((await peer.answer(stream)).data) == 512 + 5 - 100


async def test_larger_frames_are_used_when_offered(port: int) -> None:
    """MAX_FRAME_SIZE of the peer."""
    peer = await Peer.greet(port, (frames.MAX_FRAME_SIZE, 60_000))
    peer.call("/toy/Big", b"51200")
    frame = await peer.until(lambda frame: frame.kind == frames.DATA)
    assert len(frame.payload) == 51_205


async def test_large_requests_are_accepted(peer: Peer) -> None:
    """Windows are granted as they are used: more than one connection window in all."""
    data = bytes(4 * _MEGABYTE - 100)
    for _ in range(6):
        stream = peer.headers("/toy/Fail")
        body = message(data)
        for at in range(0, len(body), 16_384):
            peer.frame(frames.DATA, 0, stream, body[at : at + 16_384])
        peer.frame(frames.DATA, frames.END_STREAM, stream)
        await peer.writer.drain()
        grant = await peer.until(lambda frame: frame.kind == frames.WINDOW_UPDATE)
        assert grant is not None
        peer.send(frames.rst_stream(stream, ErrorCode.CANCEL))


async def test_unfinished_requests_are_bounded_together(start: Start) -> None:
    """Not only one by one."""
    peer = await Peer.greet(await start(Limits(max_buffered=10_000)))
    streams = [peer.headers("/toy/Echo") for _ in range(3)]
    for stream in streams:
        peer.frame(frames.DATA, 0, stream, message(bytes(9_000))[:4_000])
    assert (await peer.answer(streams[2])).status[0] == "8"


async def test_streams_are_bounded(start: Start, toy: Toy) -> None:
    """One more is refused, which tells the client to try again."""
    peer = await Peer.greet(await start(Limits(max_streams=3)))
    for _ in range(3):
        peer.call("/toy/Hold")
    assert (await peer.answer(peer.call("/toy/Hold"))).reset == ErrorCode.REFUSED_STREAM
    toy.release.set()


async def test_handlers_that_wind_up_count_as_streams(start: Start, toy: Toy) -> None:
    """Resetting streams rapidly makes no room for more work than is allowed."""
    busy = asyncio.Event()

    async def stubborn(data: bytes, head: object) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            await busy.wait()
        return b""

    toy.method("/toy/Hold").unary = stubborn
    peer = await Peer.greet(await start(Limits(max_streams=3)))
    for _ in range(3):
        stream = peer.call("/toy/Hold")
        await peer.ping()
        peer.send(frames.rst_stream(stream, ErrorCode.CANCEL))
        await peer.ping()
    assert (await peer.answer(peer.call("/toy/Hold"))).reset == ErrorCode.REFUSED_STREAM
    busy.set()


@pytest.mark.parametrize("kind", ["reset", "ping", "settings", "empty data", "priority", "extension"])
async def test_frames_that_bring_nothing_are_bounded(start: Start, kind: str) -> None:
    """ENHANCE_YOUR_CALM."""
    peer = await Peer.greet(await start(Limits(max_strikes=100, strikes_forgiven_per_s=0)))
    open_stream = peer.headers("/toy/Echo")
    for _ in range(150):
        if kind == "reset":
            peer.send(frames.rst_stream(peer.call("/toy/Hold"), ErrorCode.CANCEL))
        elif kind == "ping":
            peer.frame(frames.PING, 0, 0, bytes(8))
        elif kind == "settings":
            peer.send(frames.settings(()))
        elif kind == "empty data":
            peer.frame(frames.DATA, 0, open_stream)
        elif kind == "priority":
            peer.frame(frames.PRIORITY, 0, 99, bytes(5))
        else:
            peer.frame(0x77, 0, 99, b"x")
    assert await peer.ended() == ErrorCode.ENHANCE_YOUR_CALM


async def test_work_reduces_the_debt_of_pings(start: Start) -> None:
    """Clients measure their lines with pings while they call."""
    peer = await Peer.greet(await start(Limits(max_strikes=100, strikes_forgiven_per_s=0)))
    for _ in range(200):
        await peer.ping()
        await peer.answer(peer.call("/toy/Echo", b"x"))


async def test_header_blocks_are_bounded(peer: Peer) -> None:
    """A CONTINUATION flood ends the connection."""
    peer.frame(frames.HEADERS, 0, 1, b"")
    for _ in range(100):
        peer.frame(frames.CONTINUATION, 0, 1, b"")
    assert await peer.ended() == ErrorCode.ENHANCE_YOUR_CALM


async def test_a_peer_that_does_not_read_is_not_read(start: Start) -> None:
    """Its pings pile up on its own side."""
    peer = await Peer.greet(await start(Limits(max_strikes=1 << 40)))
    await peer.answer(peer.call("/toy/Echo"))
    peer.writer.transport.set_write_buffer_limits(1 << 16)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    pings = frames.frame(frames.PING, 0, 0, bytes(8)) * 10_000

    async def flood() -> None:
        for _ in range(1_000):
            peer.send(pings)
            await asyncio.wait_for(peer.writer.drain(), 0.3)

    with pytest.raises(asyncio.TimeoutError):
        await flood()
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
    reading = asyncio.ensure_future(peer.reader.read())
    await asyncio.wait_for(peer.writer.drain(), PATIENCE_S)
    peer.writer.transport.abort()
    await asyncio.wait([reading])
    reading.exception()


async def test_a_drain_lets_calls_finish(toy: Toy) -> None:
    """GOAWAY, the running call's answer, a call that crossed it, the last GOAWAY, the end."""
    server = GrpcServer(toy)
    peer = await Peer.greet(await server.start("127.0.0.1", 0))
    held = peer.call("/toy/Hold", b"x")
    await asyncio.wait_for(toy.entered.wait(), PATIENCE_S)
    stopping = asyncio.ensure_future(server.stop(5))
    first = await peer.until(lambda frame: frame.kind == frames.GOAWAY)
    assert (int.from_bytes(first.payload[:4], "big"), first.error) == (frames.MAX_WINDOW, ErrorCode.NO_ERROR)
    ping = await peer.until(lambda frame: frame.kind == frames.PING)
    crossing = peer.call("/toy/Echo", b"y")
    peer.frame(frames.PING, frames.ACK, 0, ping.payload)
    seen: dict[tuple[int, int], Frame] = {}
    while not {(frames.GOAWAY, 0), (frames.DATA, crossing)} <= seen.keys():
        frame = await peer.read()
        assert frame is not None
        seen[frame.kind, frame.stream] = frame
    assert int.from_bytes(seen[frames.GOAWAY, 0].payload[:4], "big") == crossing
    assert seen[frames.DATA, crossing].payload == message(b"y")
    peer.call("/toy/Echo", b"too late")
    toy.release.set()
    assert (await peer.answer(held)).messages == [b"x"]
    assert await peer.read() is None
    await asyncio.wait_for(stopping, PATIENCE_S)


async def test_requests_unfinished_at_shutdown_get_unavailable(toy: Toy) -> None:
    """UNAVAILABLE, so that clients try elsewhere."""
    server = GrpcServer(toy)
    peer = await Peer.greet(await server.start("127.0.0.1", 0))
    held = peer.call("/toy/Hold")
    await asyncio.wait_for(toy.entered.wait(), PATIENCE_S)
    stopping = asyncio.ensure_future(server.stop(0.05))
    assert (await peer.answer(held)).status == ("14", "the server is shutting down")
    assert await peer.ended() == ErrorCode.NO_ERROR
    await asyncio.wait_for(stopping, PATIENCE_S)
    assert toy.held == 0


async def test_a_taken_port_is_an_error(toy: Toy, port: int) -> None:
    """Not a second server that silently shares it."""
    with pytest.raises(OSError, match="in use"):
        await GrpcServer(toy).start("127.0.0.1", port)


async def test_ipv6(toy: Toy) -> None:
    """Where the machine has it."""
    server = GrpcServer(toy)
    try:
        port = await server.start("::1", 0)
    except OSError:
        pytest.skip("no IPv6")
    reader, writer = await asyncio.open_connection("::1", port)
    peer = Peer(reader, writer)
    peer.send(frames.PREFACE + frames.settings(()))
    assert (await peer.answer(peer.call("/toy/Echo", b"x"))).messages == [b"x"]
    await server.stop(0)
