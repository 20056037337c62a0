"""Input that no client sends by accident: the right code ends the stream or the connection, and the server goes on."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.net.grpc.conftest import Toy
from tests.net.grpc.peer import Peer, message, request_fields
from tests.net.grpc.wire import Wire
from whistlestop.net.grpc import frames
from whistlestop.net.grpc.frames import ErrorCode, frame
from whistlestop.net.grpc.hpack import literal
from whistlestop.net.grpc.limits import Limits

if TYPE_CHECKING:
    from tests.net.grpc.conftest import Start

_BLOCK = b"".join(literal(name.encode(), value.encode()) for name, value in request_fields("/toy/Hold"))
_OPEN = frame(frames.HEADERS, frames.END_HEADERS, 1, _BLOCK)
_WHOLE = frame(frames.HEADERS, frames.END_HEADERS, 1, _BLOCK) + frame(frames.DATA, 1, 1, message(b""))
_P, _F, _S = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.STREAM_CLOSED
_W, _C = ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(frames.DATA, 0, 0, b"x"), _P),
        (frame(frames.DATA, 0, 1, b"x"), _P),  # idle
        (frame(frames.DATA, 0, 2, b"x"), _P),
        (_OPEN + frame(frames.DATA, frames.PADDED, 1, b""), _F),
        (_OPEN + frame(frames.DATA, frames.PADDED, 1, b"\x09abc"), _P),
        (frame(frames.HEADERS, frames.END_HEADERS, 0, _BLOCK), _P),
        (frame(frames.HEADERS, frames.END_HEADERS, 2, _BLOCK), _P),
        (frame(frames.HEADERS, frames.END_HEADERS | frames.PADDED, 1, b""), _F),
        (frame(frames.HEADERS, frames.END_HEADERS | frames.PADDED, 1, b"\xff\x82"), _P),
        (frame(frames.HEADERS, frames.END_HEADERS | frames.WITH_PRIORITY, 1, b"\x00"), _F),
        (frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"), _C),
        (frame(frames.HEADERS, 0, 1, _BLOCK) + frame(frames.PING, 0, 0, bytes(8)), _P),
        (frame(frames.HEADERS, 0, 1, _BLOCK) + frame(frames.CONTINUATION, 4, 3, b""), _P),
        (frame(frames.HEADERS, 0, 1, _BLOCK) + frame(frames.HEADERS, 4, 1, b""), _P),
        (frame(frames.CONTINUATION, 4, 1, b""), _P),
        (frame(frames.PRIORITY, 0, 0, bytes(5)), _P),
        (frame(frames.RST_STREAM, 0, 0, bytes(4)), _P),
        (frame(frames.RST_STREAM, 0, 1, bytes(4)), _P),  # idle
        (_OPEN + frame(frames.RST_STREAM, 0, 1, bytes(3)), _F),
        (frame(frames.SETTINGS, 0, 1, b""), _P),
        (frame(frames.SETTINGS, 0, 0, b"abc"), _F),
        (frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), _F),
        (frames.settings(((frames.ENABLE_PUSH, 2),)), _P),
        (frames.settings(((frames.INITIAL_WINDOW_SIZE, 1 << 31),)), _W),
        (frames.settings(((frames.MAX_FRAME_SIZE, 100),)), _P),
        (frames.settings(((frames.MAX_FRAME_SIZE, 1 << 24),)), _P),
        (frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), _P),
        (frame(frames.PING, 0, 0, bytes(7)), _F),
        (frame(frames.PING, 0, 1, bytes(8)), _P),
        (frame(frames.GOAWAY, 0, 1, bytes(8)), _P),
        (frame(frames.GOAWAY, 0, 0, bytes(7)), _F),
        (frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)), _P),
        (frame(frames.WINDOW_UPDATE, 0, 0, bytes(5)), _F),
        (frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), _P),  # idle
        (frames.window_update(0, frames.MAX_WINDOW), _W),
        (frame(frames.PING, 0, 0, bytes(16_385)), _F),
        (_OPEN + frames.window_update(1, frames.MAX_WINDOW - 65_535)
         + frames.settings(((frames.INITIAL_WINDOW_SIZE, 1 << 20),)), _W),
    ],
)  # fmt: skip
async def test_faults_of_the_connection(port: int, peer: Peer, data: bytes, code: ErrorCode) -> None:
    """GOAWAY with the code, and the end; other connections do not notice."""
    peer.send(data)
    assert await peer.ended() == code
    other = await Peer.greet(port)
    assert (await other.answer(other.call("/toy/Echo", b"x"))).messages == [b"x"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (_OPEN + frames.window_update(1, 0), _P),
        (_OPEN + frames.window_update(1, frames.MAX_WINDOW), _W),
        (_OPEN + frame(frames.PRIORITY, 0, 1, bytes(4)), _F),
        (_WHOLE + frame(frames.DATA, 0, 1, b"more"), _S),
        (_WHOLE + frame(frames.HEADERS, frames.END_HEADERS, 1, _BLOCK), _S),
        (_OPEN + frame(frames.HEADERS, frames.END_HEADERS, 1, literal(b"a", b"b")), _P),
        *(
            (frame(frames.HEADERS, frames.END_HEADERS, 1, block), _P)
            for block in (
                b"",
                literal(b":method", b"POST"),
                _BLOCK + literal(b":path", b"/late"),
                literal(b":path", b"/twice") + _BLOCK,
                literal(b":status", b"200") + _BLOCK,
                literal(b":path", b"") + literal(b":scheme", b"http") + literal(b":method", b"POST"),
                _BLOCK + literal(b"Upper", b"x"),
                _BLOCK + literal(b"", b"x"),
                _BLOCK + literal(b"sp ace", b"x"),
                _BLOCK + literal(b"connection", b"close"),
                _BLOCK + literal(b"te", b"gzip"),
                _BLOCK + literal(b"a", b"x\r\nb: y"),
                _BLOCK + literal(b"a", b"\x00"),
            )
        ),
    ],
)
async def test_faults_of_a_stream(peer: Peer, data: bytes, code: ErrorCode) -> None:
    """RST_STREAM with the code; the connection goes on."""
    peer.send(data)
    reset = await peer.until(lambda frame: frame.kind == frames.RST_STREAM)
    assert (reset.stream, reset.error) == (1, code)
    peer.next_stream = 5
    assert (await peer.answer(peer.call("/toy/Echo", b"x"))).messages == [b"x"]


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00" * 100, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"get lost"],
)
async def test_no_preface(port: int, data: bytes) -> None:
    """TLS on a plain port, for one."""
    peer = await Peer.connect(port)
    peer.send(data)
    assert await peer.ended() == _P


@pytest.mark.parametrize("first", [frame(frames.PING, 0, 0, bytes(8)), _OPEN, frames.SETTINGS_ACK])
async def test_the_first_frame_is_settings(port: int, first: bytes) -> None:
    """Nothing else."""
    peer = await Peer.connect(port)
    peer.send(frames.PREFACE + first)
    assert await peer.ended() == _P


async def test_windows_of_ours_are_kept(start: Start) -> None:
    """More DATA than was granted is a fault, of the stream or of the connection."""
    port = await start(Limits(stream_window=1_000, connection_window=70_000))
    peer = await Peer.greet(port)
    peer.send(_OPEN + frame(frames.DATA, 0, 1, bytes(1_001)))
    assert (await peer.until(lambda frame: frame.kind == frames.RST_STREAM)).error == _W


async def test_late_frames_of_ended_streams_are_ignored(peer: Peer) -> None:
    """They were on their way."""
    stream = peer.call("/toy/Echo", b"x")
    await peer.answer(stream)
    peer.send(frames.window_update(stream, 5) + frames.rst_stream(stream, ErrorCode.CANCEL))
    await peer.ping()


async def test_the_rest_of_a_refused_request_is_ignored(start: Start) -> None:
    """Its sender could not know yet."""
    peer = await Peer.greet(await start(Limits(max_message=100)))
    stream = peer.headers("/toy/Echo")
    peer.frame(frames.DATA, 0, stream, message(bytes(101)))
    await peer.answer(stream)
    peer.frame(frames.DATA, 0, stream, b"late")
    peer.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, literal(b"a", b"b"))
    await peer.ping()
    peer.frame(frames.DATA, 0, stream, b"after its end")
    assert await peer.ended() == _S


_NUMBERS = st.sampled_from([0, 1, 2, 3, 5, 0x7FFFFFFF, 0xFFFFFFFF])
_PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", bytes(4), bytes(8), _BLOCK, message(b"abc"), message(b"abc") * 2, b"\xff" * 6, b"\0\4\0\0\0\1"]
    ),
)
_FRAMES = st.builds(frame, st.integers(0, 11), st.integers(0, 255), _NUMBERS, _PAYLOADS)
_INPUT = st.lists(st.one_of(_FRAMES, _FRAMES, st.sampled_from([_OPEN, _WHOLE]), st.binary(max_size=30)), max_size=25)
_EXAMPLES = int(os.environ.get("WHISTLESTOP_TEST_EXAMPLES", "300"))


@given(_INPUT, st.integers(1, 400), st.booleans())
@settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_input_is_served_or_refused(
    caplog: pytest.LogCaptureFixture, pieces: list[bytes], cut: int, greeted: bool
) -> None:
    """No traceback, no INTERNAL_ERROR, whole frames out, and after the end every handler is gone."""
    asyncio.run(_feed(pieces, cut, greeted))
    assert not [record for record in caplog.records if record.exc_info]


async def _feed(pieces: list[bytes], cut: int, greeted: bool) -> None:
    toy = Toy()
    wire = Wire(toy)
    connection, transport = wire.connection, wire.transport
    data = (frames.PREFACE + frames.settings(()) if greeted else b"") + b"".join(pieces)
    for at in range(0, len(data), cut):
        await wire.send_all(data[at : at + cut])
    rest = bytes(transport.written)
    while rest and not rest.startswith(b"HTTP/1."):
        size = int.from_bytes(rest[:3], "big")
        assert len(rest) >= 9 + size
        if rest[3] == frames.GOAWAY:
            assert int.from_bytes(rest[13:17], "big") != ErrorCode.INTERNAL_ERROR
        rest = rest[9 + size :]
    connection.connection_lost(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (toy.held, wire.gone, connection.streams) == (0, 1, {})
