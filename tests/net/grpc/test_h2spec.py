"""The cases of h2spec (RFC 7540/9113 and RFC 7541), as frames: each by a call, and by a request that is none.

h2spec itself sends plain GET requests, which are refused at their head. What it asks of a server has to hold for
calls as well, so each case is tried both ways. Cases are named by h2spec's sections and numbers. Two are left out,
which wait for a DATA frame in the answer (no answer to a request that is no call has one), and 5.3.1/2: a PRIORITY
frame that depends on its own stream is ignored like all others, since RFC 9113 has dropped priorities (section 5.3.2).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.net.grpc.peer import message, request_fields
from tests.net.grpc.wire import Wire
from whistlestop.net.grpc import frames
from whistlestop.net.grpc.frames import ErrorCode, frame
from whistlestop.net.grpc.hpack import literal

if TYPE_CHECKING:
    from tests.net.grpc.conftest import Toy

_ALL = frames.END_HEADERS | frames.END_STREAM
_P, _S, _F = ErrorCode.PROTOCOL_ERROR, ErrorCode.STREAM_CLOSED, ErrorCode.FRAME_SIZE_ERROR
_W, _C, _R = ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.COMPRESSION_ERROR, ErrorCode.REFUSED_STREAM
GOAWAY, RESET, ANSWER, ALIVE = "goaway", "reset", "answer", "alive"
_PING = frame(frames.PING, 0, 0, b"are here")
_CANCEL = frames.rst_stream(1, ErrorCode.CANCEL)


def fields(kind: str, **more: str) -> list[tuple[str, str]]:
    if kind == "call":
        return request_fields("/toy/Hold", **more)
    plain = {":method": "GET", ":scheme": "http", ":path": "/", ":authority": "test"}
    return list((plain | {name.replace("_", "-"): value for name, value in more.items()}).items())


def encoded(pairs: list[tuple[str, str]]) -> bytes:
    return b"".join(literal(name.encode(), value.encode()) for name, value in pairs)


def head(kind: str, flags: int = _ALL, stream: int = 1, extra: bytes = b"", **more: str) -> bytes:
    return frame(frames.HEADERS, flags, stream, encoded(fields(kind, **more)) + extra)


def echo(data: bytes) -> bytes:
    """A call that is answered by what it brings."""
    block = encoded(request_fields("/toy/Echo"))
    return frame(frames.HEADERS, frames.END_HEADERS, 1, block) + frame(frames.DATA, 1, 1, message(data))


def without(kind: str, name: str) -> bytes:
    return frame(frames.HEADERS, _ALL, 1, encoded([each for each in fields(kind) if each[0] != name]))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frames.settings(pairs)


def cases(kind: str) -> dict[str, tuple[bytes, str, tuple[int, ...]]]:
    """By their names: what is sent, what must happen, and with which error codes."""
    whole, open_, block = head(kind), head(kind, frames.END_HEADERS), encoded(fields(kind))
    priority = struct.pack(">IB", 0, 15)
    continuation = frame(frames.CONTINUATION, frames.END_HEADERS, 1, block)
    upper = frame(frames.HEADERS, _ALL, 1, block + literal(b"X-TEST", b"ok"))
    huge = frames.window_update(1, frames.MAX_WINDOW)
    found: dict[str, tuple[bytes, str, tuple[int, ...]]] = {
        # -- the generic ones --
        "generic/2/1": (frame(frames.PRIORITY, 0, 1, priority) + whole, ANSWER, ()),
        "generic/2/4": (whole + _CANCEL, ALIVE, ()),
        "generic/2/5": (whole + _CANCEL + frame(frames.PRIORITY, 0, 1, priority), ALIVE, ()),
        "generic/3.1/1": (open_ + frame(frames.DATA, 1, 1, message(b"")), ANSWER, ()),
        "generic/3.1/2": (open_ + frame(frames.DATA, 0, 1, b"\0") + frame(frames.DATA, 1, 1, bytes(4)), ANSWER, ()),
        "generic/3.1/3": (open_ + frame(frames.DATA, 9, 1, b"\6" + message(b"") + bytes(6)), ANSWER, ()),
        "generic/3.2/1": (whole, ANSWER, ()),
        "generic/3.2/2": (frame(frames.HEADERS, _ALL | 8, 1, b"\6" + block + bytes(6)), ANSWER, ()),
        "generic/3.2/3": (frame(frames.HEADERS, _ALL | 32, 1, priority + block), ANSWER, ()),
        "generic/3.3/1": (frame(frames.PRIORITY, 0, 1, bytes(5)) + whole, ANSWER, ()),
        "generic/3.3/2": (frame(frames.PRIORITY, 0, 1, b"\0\0\0\0\xff") + whole, ANSWER, ()),
        "generic/3.3/3": (frame(frames.PRIORITY, 0, 1, b"\0\0\0\3\xff") + whole, ANSWER, ()),
        "generic/3.3/4": (frame(frames.PRIORITY, 0, 1, b"\x80\0\0\3\xff") + whole, ANSWER, ()),
        "generic/3.3/5": (frame(frames.PRIORITY, 0, 5, priority) + whole, ANSWER, ()),
        "generic/3.4/1": (open_ + _CANCEL, ALIVE, ()),
        "generic/3.5/1": (settings((3, 100)), ALIVE, ()),
        "generic/3.8/1": (frame(frames.GOAWAY, 0, 0, bytes(8)), ALIVE, ()),
        "generic/3.9/1": (frames.window_update(0, 1), ALIVE, ()),
        "generic/3.9/2": (open_ + frames.window_update(1, 1), ALIVE, ()),
        "generic/3.10/1": (frame(frames.HEADERS, 1, 1, block[:9]) + frame(frames.CONTINUATION, 4, 1, block[9:]), ANSWER, ()),
        "generic/3.10/2": (
            frame(frames.HEADERS, 1, 1, block[:9]) + frame(frames.CONTINUATION, 0, 1, block[9:20])
            + frame(frames.CONTINUATION, 4, 1, block[20:]), ANSWER, (),
        ),
        "generic/4/4": (open_ + frame(frames.DATA, 0, 1, message(b""))
                        + frame(frames.HEADERS, _ALL, 1, literal(b"x-test", b"ok")), ANSWER, ()),
        # -- frames --
        "http2/4.1/1": (frame(0x16, 0, 0, bytes(8)), ALIVE, ()),
        "http2/4.1/2": (frame(frames.PING, 0x16, 0, b"are here"), ALIVE, ()),
        "http2/4.1/3": (frame(frames.PING, 0, 0x80000000, bytes(8)), ALIVE, ()),
        "http2/4.2/1": (open_ + frame(frames.DATA, 0, 1, message(bytes(16_379))), ALIVE, ()),
        "http2/4.2/2": (open_ + frame(frames.DATA, 1, 1, bytes(16_385)), RESET, (_F,)),
        "http2/4.2/3": (frame(frames.HEADERS, _ALL, 1, block + bytes(16_385)), GOAWAY, (_F,)),
        "http2/4.3/1": (frame(frames.HEADERS, _ALL, 1, b"\x40"), GOAWAY, (_C,)),
        "http2/4.3/2": (head(kind, 1) + frame(frames.PRIORITY, 0, 1, priority) + continuation, GOAWAY, (_P,)),
        "http2/4.3/3": (head(kind, 1) + head(kind, stream=3), GOAWAY, (_P,)),
        # -- stream states --
        "http2/5.1/1": (frame(frames.DATA, 1, 1, b"test"), GOAWAY, (_P,)),
        "http2/5.1/2": (_CANCEL, GOAWAY, (_P,)),
        "http2/5.1/3": (frames.window_update(1, 100), GOAWAY, (_P,)),
        "http2/5.1/4": (continuation, GOAWAY, (_P,)),
        "http2/5.1/5": (whole + frame(frames.DATA, 1, 1, b"test"), RESET, (_S,)),
        "http2/5.1/6": (whole + whole, RESET, (_S,)),
        "http2/5.1/7": (whole + continuation, RESET, (_S, _P)),
        "http2/5.1/8": (open_ + _CANCEL + frame(frames.DATA, 1, 1, b"test"), RESET, (_S,)),
        "http2/5.1/9": (open_ + _CANCEL + whole, RESET, (_S,)),
        "http2/5.1/10": (open_ + _CANCEL + continuation, RESET, (_S, _P)),
        "http2/5.1.1/1": (head(kind, stream=2), GOAWAY, (_P,)),
        "http2/5.1.1/2": (head(kind, stream=5) + head(kind, stream=3), GOAWAY, (_P,)),
        "http2/5.3.1/1": (frame(frames.HEADERS, _ALL | 32, 1, b"\0\0\0\1\xff" + block), RESET, (_P,)),
        "http2/5.4.1/1": (frame(frames.PING, 0, 3, bytes(8)), GOAWAY, (_P,)),
        "http2/5.5/1": (frame(0xA, 0, 0, bytes(8)), ALIVE, ()),
        "http2/5.5/2": (head(kind, 1) + frame(0xA, 0, 0, bytes(8)) + continuation, GOAWAY, (_P,)),
        # -- each kind of frame --
        "http2/6.1/1": (frame(frames.DATA, 1, 0, b"test"), GOAWAY, (_P,)),
        "http2/6.1/2": (whole + frame(frames.DATA, 1, 1, b"test"), RESET, (_S,)),
        "http2/6.1/3": (head(kind, 4, content_length="4") + frame(frames.DATA, 9, 1, b"\6Test"), GOAWAY, (_P,)),
        "http2/6.2/1": (head(kind, 1) + frame(frames.PRIORITY, 0, 1, priority), GOAWAY, (_P,)),
        "http2/6.2/2": (head(kind, 1) + head(kind, stream=3), GOAWAY, (_P,)),
        "http2/6.2/3": (head(kind, stream=0), GOAWAY, (_P,)),
        "http2/6.2/4": (frame(frames.HEADERS, _ALL | 8, 1, b"\xff" + block[:20]), GOAWAY, (_P,)),
        "http2/6.3/1": (frame(frames.PRIORITY, 0, 0, priority), GOAWAY, (_P,)),
        "http2/6.3/2": (open_ + frame(frames.PRIORITY, 0, 1, bytes(4)), RESET, (_F,)),
        "http2/6.4/1": (frames.rst_stream(0, 8), GOAWAY, (_P,)),
        "http2/6.4/2": (_CANCEL, GOAWAY, (_P,)),
        "http2/6.4/3": (open_ + frame(frames.RST_STREAM, 0, 1, bytes(3)), GOAWAY, (_F,)),
        "http2/6.5/1": (frame(frames.SETTINGS, 1, 0, bytes(1)), GOAWAY, (_F,)),
        "http2/6.5/2": (frame(frames.SETTINGS, 0, 1, bytes(6)), GOAWAY, (_P,)),
        "http2/6.5/3": (frame(frames.SETTINGS, 0, 0, bytes(3)), GOAWAY, (_F,)),
        "http2/6.5.2/1": (settings((2, 2)), GOAWAY, (_P,)),
        "http2/6.5.2/2": (settings((4, 1 << 31)), GOAWAY, (_W,)),
        "http2/6.5.2/3": (settings((5, 16_383)), GOAWAY, (_P,)),
        "http2/6.5.2/4": (settings((5, 1 << 24)), GOAWAY, (_P,)),
        "http2/6.5.2/5": (settings((0xFF, 1)), ALIVE, ()),
        "http2/6.7/2": (frame(frames.PING, 1, 0, b"notthere"), ALIVE, ()),
        "http2/6.7/3": (frame(frames.PING, 0, 1, bytes(8)), GOAWAY, (_P,)),
        "http2/6.7/4": (frame(frames.PING, 0, 0, bytes(6)), GOAWAY, (_F,)),
        "http2/6.8/1": (frame(frames.GOAWAY, 0, 1, bytes(8)), GOAWAY, (_P,)),
        "http2/6.9/1": (frames.window_update(0, 0), GOAWAY, (_P,)),
        "http2/6.9/2": (open_ + frames.window_update(1, 0), RESET, (_P,)),
        "http2/6.9/3": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), GOAWAY, (_F,)),
        "http2/6.9.1/2": (frames.window_update(0, frames.MAX_WINDOW) * 2, GOAWAY, (_W,)),
        "http2/6.9.1/3": (open_ + huge + huge, RESET, (_W,)),
        "http2/6.9.2/3": (settings((4, 0xFFFFFFFF)), GOAWAY, (_W,)),
        "http2/6.10/1": (
            frame(frames.HEADERS, 1, 1, block) + frame(frames.CONTINUATION, 0, 1, literal(b"a", b"b")) * 2
            + frame(frames.CONTINUATION, 4, 1, literal(b"c", b"d")), ANSWER, (),
        ),
        "http2/6.10/2": (
            head(kind, 1) + frame(frames.CONTINUATION, 0, 1, b"") + frame(frames.DATA, 1, 1, b"test"), GOAWAY, (_P,),
        ),
        "http2/6.10/3": (head(kind, 1) + frame(frames.CONTINUATION, 4, 0, b""), GOAWAY, (_P,)),
        "http2/6.10/4": (whole + frame(frames.CONTINUATION, 4, 1, b""), GOAWAY, (_P,)),
        "http2/6.10/5": (head(kind, 1) + frame(frames.CONTINUATION, 4, 1, b"") * 2, GOAWAY, (_P,)),
        "http2/6.10/6": (open_ + frame(frames.DATA, 0, 1, b"\0") + frame(frames.CONTINUATION, 4, 1, b""), GOAWAY, (_P,)),
        "http2/7/1": (frame(frames.GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\xff"), ALIVE, ()),
        "http2/7/2": (open_ + frames.rst_stream(1, 0xFF), ALIVE, ()),
        # -- messages --
        "http2/8.1/1": (
            open_ + frame(frames.DATA, 0, 1, b"\0\0") + frame(frames.HEADERS, 4, 1, literal(b"x-test", b"ok")), RESET, (_P,),
        ),
        "http2/8.1.2/1": (upper, RESET, (_P,)),
        "http2/8.1.2.1/1": (head(kind, extra=literal(b":test", b"ok")), RESET, (_P,)),
        "http2/8.1.2.1/2": (head(kind, extra=literal(b":status", b"200")), RESET, (_P,)),
        "http2/8.1.2.1/3": (
            open_ + frame(frames.DATA, 0, 1, b"\0\0") + frame(frames.HEADERS, _ALL, 1, literal(b":method", b"GET")),
            RESET, (_P,),
        ),
        "http2/8.1.2.1/4": (frame(frames.HEADERS, _ALL, 1, literal(b"x-test", b"ok") + block), RESET, (_P,)),
        "http2/8.1.2.2/1": (head(kind, connection="keep-alive"), RESET, (_P,)),
        "http2/8.1.2.2/2": (head(kind, te="trailers, deflate"), RESET, (_P,)),
        "http2/8.1.2.3/1": (
            frame(frames.HEADERS, _ALL, 1, encoded([(n, "" if n == ":path" else v) for n, v in fields(kind)])), RESET, (_P,),
        ),
        "http2/8.1.2.3/2": (without(kind, ":method"), RESET, (_P,)),
        "http2/8.1.2.3/3": (without(kind, ":scheme"), RESET, (_P,)),
        "http2/8.1.2.3/4": (without(kind, ":path"), RESET, (_P,)),
        "http2/8.1.2.3/5": (frame(frames.HEADERS, _ALL, 1, literal(b":method", b"GET") + block), RESET, (_P,)),
        "http2/8.1.2.3/6": (frame(frames.HEADERS, _ALL, 1, literal(b":scheme", b"http") + block), RESET, (_P,)),
        "http2/8.1.2.3/7": (frame(frames.HEADERS, _ALL, 1, literal(b":path", b"/") + block), RESET, (_P,)),
        "http2/8.1.2.6/1": (head(kind, 4, content_length="1") + frame(frames.DATA, 1, 1, b"test"), RESET, (_P,)),
        "http2/8.1.2.6/2": (
            head(kind, 4, content_length="1") + frame(frames.DATA, 0, 1, b"test") + frame(frames.DATA, 1, 1, b"test"),
            RESET, (_P,),
        ),
        "http2/8.1.2.6, too short": (head(kind, 4, content_length="9") + frame(frames.DATA, 1, 1, b"test"), RESET, (_P,)),
        "http2/8.1.2.6, none": (head(kind, content_length="1"), RESET, (_P,)),
        "http2/8.1.2.6, trailers": (
            head(kind, 4, content_length="9") + frame(frames.HEADERS, _ALL, 1, literal(b"a", b"b")), RESET, (_P,),
        ),
        "http2/8.2/1": (frame(frames.PUSH_PROMISE, 4, 1, bytes(4) + block), GOAWAY, (_P,)),
        # -- HPACK --
        "hpack/2.3.3/1": (head(kind, extra=b"\xc6"), GOAWAY, (_C,)),
        "hpack/4.2/1": (head(kind, extra=b"\x21"), GOAWAY, (_C,)),
        "hpack/5.2/1": (head(kind, extra=b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"), GOAWAY, (_C,)),
        "hpack/5.2/2": (head(kind, extra=b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"), GOAWAY, (_C,)),
        "hpack/5.2/3": (head(kind, extra=b"\x00\x85\xf2\xb2\x4a\x87\xff\xff\xff\xfd\x25\x42\x7f"), GOAWAY, (_C,)),
        "hpack/6.1/1": (head(kind, extra=b"\x80"), GOAWAY, (_C,)),
        "hpack/6.3/1": (frame(frames.HEADERS, _ALL, 1, b"\x3f\xe2\x1f" + block), GOAWAY, (_C,)),
    }  # fmt: skip
    # custom-key: custom-value (RFC 7541, C.4.3)
    huffman = bytes.fromhex("8825a849e95ba97d7f8925a849e95bb8e8b4bf")
    representations = {
        "1": b"\x90", "2": b"\x77\x04test", "3": b"\x77\x83\x49\x50\x9f", "4": b"\x40\x04user\x04test",
        "5": b"\x40" + huffman, "6": b"\x0f\x28\x04test", "8": b"\x00\x04user\x04test",
        "10": b"\x1f\x28\x04test", "12": b"\x10\x04user\x04test",
        "7": b"\x0f\x28\x83\x49\x50\x9f", "9": b"\x00" + huffman, "11": b"\x1f\x28\x83\x49\x50\x9f",
        "13": b"\x10" + huffman,
    }  # fmt: skip
    for number, extra in representations.items():
        found[f"generic/5/{number}"] = (head(kind, extra=extra), ANSWER, ())
    found["generic/5/14"] = (frame(frames.HEADERS, _ALL, 1, b"\x3f\x61" + block), ANSWER, ())
    found["generic/5/15"] = (frame(frames.HEADERS, _ALL, 1, b"\x20\x3f\x61" + block), ANSWER, ())
    return found


@pytest.mark.parametrize("kind", ["call", "plain"])
@pytest.mark.parametrize("name", cases("call"))
async def test_a_case(toy: Toy, name: str, kind: str) -> None:
    data, expected, codes = cases(kind)[name]
    toy.release.set()
    wire = Wire(toy).greet()
    # In one piece, so that no answer comes between, as when a peer is quick.
    await wire.send_all(data + _PING)

    answers = wire.answers()
    goaways = [each.error for each in answers if each.kind == frames.GOAWAY]
    resets = [each.error for each in answers if each.kind == frames.RST_STREAM and each.stream == 1]
    if expected == GOAWAY:
        assert goaways
        assert goaways[-1] in codes
        assert wire.transport.ended
    elif expected == RESET:
        assert set(goaways + resets) & set(codes), (goaways, resets)
    else:
        assert goaways == []
        assert any(each.kind == frames.PING and each.payload == b"are here" for each in answers)
        if expected == ANSWER:
            assert any(each.kind == frames.HEADERS and each.stream == 1 for each in answers)


@pytest.mark.parametrize("kind", ["call", "plain"])
@pytest.mark.parametrize("late", ["DATA", "HEADERS", "CONTINUATION"])
async def test_frames_on_a_stream_that_is_over(toy: Toy, kind: str, late: str) -> None:
    """http2/5.1/11 to 13: behind the answer to a request that has ended."""
    toy.release.set()
    wire = Wire(toy).greet()
    ended = head(kind) if kind == "plain" else head(kind, 4) + frame(frames.DATA, 1, 1, message(b""))
    await wire.send_all(ended)
    assert wire.connection.streams == {}
    wire.send(
        {"DATA": frame(frames.DATA, 1, 1, b"x"), "HEADERS": head(kind), "CONTINUATION": frame(9, 4, 1, b"")}[late]
    )

    assert [each.error for each in wire.answers() if each.kind == frames.GOAWAY] == [
        _P if late == "CONTINUATION" else _S
    ]
    assert wire.transport.ended


@pytest.mark.parametrize("kind", ["call", "plain"])
async def test_the_limit_of_concurrent_streams_is_kept(toy: Toy, kind: str) -> None:
    """http2/5.1.2/1: of calls that are under way, and of requests whose refusal their peer can't know yet."""
    wire = Wire(toy).greet()
    streams = range(1, 2 * wire.connection.limits.max_streams + 2, 2)
    await wire.send_all(b"".join(head(kind, 4 if kind == "call" else _ALL, number) for number in streams))

    resets = [each.error for each in wire.answers() if each.kind == frames.RST_STREAM]
    assert _R in resets
    if kind == "call":
        assert resets == [_R]
        assert len(wire.connection.streams) == wire.connection.limits.max_streams


async def test_the_preface(toy: Toy) -> None:
    """http2/3.5/1 and 2, generic/1/1."""
    wire = Wire(toy)
    wire.send(frames.PREFACE + settings())
    assert wire.answers()[0].kind == frames.SETTINGS
    wrong = Wire(toy)
    wrong.send(b"INVALID CONNECTION PREFACE\r\n\r\n")
    assert [each.error for each in wrong.answers() if each.kind == frames.GOAWAY] == [_P]


async def test_settings_are_acknowledged(toy: Toy) -> None:
    """http2/6.5.3/2."""
    wire = Wire(toy).greet()
    wire.send(settings((3, 100)))
    assert [(each.kind, each.flags) for each in wire.answers()] == [(frames.SETTINGS, frames.ACK)]


@pytest.mark.parametrize("values", [(1,), (0, 1), (10, 1)])
async def test_the_last_of_several_initial_windows_counts(toy: Toy, values: tuple[int, ...]) -> None:
    """http2/6.5.3/1 and 6.9.1/1: answers come byte by byte."""
    wire = Wire(toy).greet()
    wire.send(settings(*((4, value) for value in values)))
    await wire.send_all(echo(b"abc"))
    assert [each.payload for each in wire.answers() if each.kind == frames.DATA] == [b"\0"]


async def test_windows_follow_the_initial_window(toy: Toy) -> None:
    """http2/6.9.2/1 and 2: of streams that are there, also below nothing."""
    wire = Wire(toy).greet((4, 3))
    await wire.send_all(echo(b"abcdef"))
    wire.send(settings((4, 2)))  # one less than was sent: the window is -1
    wire.send(frames.window_update(1, 1))
    assert sum(len(each.payload) for each in wire.answers() if each.kind == frames.DATA) == 3
    wire.send(frames.window_update(1, 1))
    assert sum(len(each.payload) for each in wire.answers() if each.kind == frames.DATA) == 1
    wire.send(settings((4, 1_000)))
    assert b"".join(each.payload for each in wire.answers() if each.kind == frames.DATA) == b"\0\6abcdef"[1:]
