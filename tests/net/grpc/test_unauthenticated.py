"""Who calls is asked at the head of a request, before anything of it is kept or unpacked."""

from __future__ import annotations

import asyncio
import gc
import gzip
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.net.grpc.peer import Frame, message
from tests.net.grpc.wire import Wire, block_of, body, call, headers
from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.budget import Bounds
from whistlestop.net.grpc import frames
from whistlestop.net.grpc.frames import ErrorCode
from whistlestop.net.grpc.head import Head, Method
from whistlestop.net.grpc.health import HEALTH_SERVICE, Health
from whistlestop.net.grpc.limits import Limits
from whistlestop.net.grpc.reflection import REFLECTION_SERVICES, Reflection
from whistlestop.net.grpc.stream import Stream

if TYPE_CHECKING:
    from tests.net.grpc.conftest import Toy

PATH = "/toy/Guarded"
WATCH = f"/{HEALTH_SERVICE}/Watch"
CHECK = f"/{HEALTH_SERVICE}/Check"
REFLECT = f"/{REFLECTION_SERVICES[0]}/ServerReflectionInfo"
PART = bytes(frames.MIN_FRAME_LIMIT)
BOMB = message(gzip.compress(bytes(4_000_000), 9), 1)


class Guard:
    """Knows a key, once it is let say so; `peeks`, it knows at once."""

    def __init__(self) -> None:
        self.asked = self.served = 0
        self.peeks = False
        self.says = asyncio.Event()
        self.says.set()

    def peek(self, head: Head) -> bool | None:
        return head.headers.get("key") == "good" if self.peeks else None

    async def is_authenticated(self, head: Head) -> bool:
        self.asked += 1
        await self.says.wait()
        if head.headers.get("key") == "broken":
            raise RuntimeError("a secret")
        return head.headers.get("key") == "good"

    async def measure(self, data: bytes, head: Head) -> bytes:
        """The method: how much came."""
        self.served += 1
        return b"%d" % len(data)


@pytest.fixture
def guard(toy: Toy) -> Guard:
    made = Guard()
    toy._methods |= Health(frozenset()).methods() | Reflection(frozenset()).methods()
    toy._methods[PATH] = Method("toy/Guarded", made.measure, is_authenticated=made.is_authenticated, peek=made.peek)
    toy._methods["/toy/Public"] = Method("toy/Public", made.measure, public=True, most=1_000)
    toy._methods["/toy/Unknown"] = Method("", refusal=ServiceError(Code.UNIMPLEMENTED, "unknown method"))
    return made


@pytest_asyncio.fixture
async def wire(toy: Toy, guard: Guard) -> Wire:
    return Wire(toy).greet()


def status_of(answers: list[Frame], stream: int) -> int | None:
    """The gRPC status in the last header block of a stream, which the server does not compress."""
    blocks = [each.payload for each in answers if each.stream == stream and each.kind == frames.HEADERS]
    for block in reversed(blocks):
        _, found, rest = block.partition(b"\x0bgrpc-status")
        if found:
            return int(rest[1 : 1 + rest[0]])
    return None


# -- at the head --


@pytest.mark.parametrize("peeks", [True, False])
@pytest.mark.parametrize(("path", "code"), [(PATH, Code.PERMISSION_DENIED), ("/toy/Unknown", Code.UNIMPLEMENTED)])
async def test_a_call_is_refused_at_its_head(wire: Wire, guard: Guard, path: str, code: Code, peeks: bool) -> None:
    guard.peeks = peeks
    await wire.send_all(headers(1, path, key="bad"))

    assert status_of(wire.answers(), 1) == code
    assert wire.connection.streams == {}
    assert not wire.account.authenticated


async def test_a_failure_of_authentication_itself_is_an_internal_error(wire: Wire, guard: Guard) -> None:
    await wire.send_all(headers(1, PATH, key="broken"))

    assert status_of(wire.answers(), 1) == Code.INTERNAL


@pytest.mark.parametrize("path", [PATH, "/toy/Unknown"])
async def test_refused_calls_leave_no_state(wire: Wire, guard: Guard, path: str) -> None:
    """However many come, large or small; their sender is told to stop."""
    guard.peeks = True
    for number in range(50):
        stream = 2 * number + 1
        await wire.send_all(headers(stream, path) + body(stream, message(bytes(100_000))))
        assert wire.connection.buffered == 0
        assert wire.budget.bytes == 0
        assert len(wire.connection._rest) <= len(PART) + 9
    stopped = {each.stream for each in wire.answers() if each.kind == frames.RST_STREAM}
    assert stopped == {2 * number + 1 for number in range(50)}


async def test_nothing_more_is_read_before_authentication_ends(wire: Wire, guard: Guard) -> None:
    guard.says.clear()
    request = headers(1, PATH, key="good") + body(1, message(bytes(3_000_000)), end=True)
    wire.send(request)
    await wire.turns()
    assert wire.transport.paused
    assert len(wire.unread) > len(request) - 2 * len(PART)
    assert wire.account.requests

    guard.says.set()
    await wire.send_all(wire.unread)

    assert status_of(wire.answers(), 1) == Code.OK
    assert (guard.asked, guard.served) == (1, 1)
    assert wire.account.authenticated
    assert not wire.account.requests


async def test_an_authenticated_connection_goes_on_while_another_credential_is_verified(
    wire: Wire, guard: Guard
) -> None:
    await wire.send_all(call(1, PATH, key="good"))
    guard.says.clear()
    await wire.send_all(call(3, PATH, key="other"))
    await wire.send_all(call(5, PATH, key="good"))

    assert status_of(wire.answers(), 5) == Code.OK
    guard.says.set()
    await wire.turns()
    assert status_of(wire.answers(), 3) == Code.PERMISSION_DENIED


async def test_authentication_of_a_connection_is_renewed(wire: Wire, guard: Guard) -> None:
    for number, wait_s in enumerate((0.0, 1.0, 10.0)):
        wire.loop.advance(wait_s)
        await wire.send_all(call(2 * number + 1, PATH, key="good"))
    assert guard.asked == 2
    assert guard.served == 3


async def test_compressed_messages_of_unauthenticated_peers_are_not_decompressed(
    wire: Wire, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little it is as it comes."""
    unpacked: list[int] = []
    monkeypatch.setattr("zlib.decompressobj", lambda *_: unpacked.append(1))
    await wire.send_all(headers(1, PATH, grpc_encoding="gzip") + body(1, BOMB, end=True))

    assert unpacked == []
    assert status_of(wire.answers(), 1) == Code.PERMISSION_DENIED


# -- what is for everybody --


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize("path", ["/toy/Public", CHECK, WATCH, REFLECT])
async def test_large_messages_to_public_methods_are_refused(wire: Wire, guard: Guard, path: str, encoding: str) -> None:
    data = BOMB if encoding == "gzip" else message(bytes(100_000))
    await wire.send_all(headers(1, path, grpc_encoding=encoding) + body(1, data))
    if path != WATCH and encoding == "gzip":
        await wire.send_all(frames.frame(frames.DATA, frames.END_STREAM, 1, b""))

    assert status_of(wire.answers(), 1) == Code.RESOURCE_EXHAUSTED
    assert wire.connection.streams == {}
    assert wire.budget.bytes == 0


async def test_an_authenticated_call_of_a_public_method_counts_as_authenticated(
    wire: Wire, guard: Guard, toy: Toy
) -> None:
    """SDKs ask GetSystemInfo first, with their credential, and may be idle for long then."""
    guard.peeks = True
    toy._methods["/toy/Public"].peek = guard.peek
    await wire.send_all(call(1, "/toy/Public", key="bad"))
    assert not wire.account.authenticated
    await wire.send_all(call(3, "/toy/Public", key="good"))
    assert wire.account.authenticated


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
async def test_small_packed_messages_to_public_methods_are_served(wire: Wire, guard: Guard, encoding: str) -> None:
    """SDKs may pack every message."""
    data = message(gzip.compress(b"x"), 1) if encoding == "gzip" else message(b"x")
    await wire.send_all(headers(1, "/toy/Public", grpc_encoding=encoding) + body(1, data, end=True))

    assert status_of(wire.answers(), 1) == Code.OK


async def test_a_watch_takes_one_message(wire: Wire, guard: Guard) -> None:
    await wire.send_all(headers(1, WATCH) + body(1, message(b"")))
    assert status_of(wire.answers(), 1) is None
    await wire.send_all(body(1, message(b"")))

    assert status_of(wire.answers(), 1) == Code.INTERNAL
    assert wire.budget.bytes == 0


async def test_a_handler_that_does_not_read_bounds_what_is_kept(toy: Toy, guard: Guard) -> None:
    async def deaf(call: object) -> None:
        await asyncio.Event().wait()

    toy._methods["/toy/Deaf"] = Method("toy/Deaf", streaming=deaf, public=True)
    wire = Wire(toy).greet()
    await wire.send_all(headers(1, "/toy/Deaf") + body(1, message(bytes(10_000)) * 400))

    assert status_of(wire.answers(), 1) == Code.RESOURCE_EXHAUSTED
    assert wire.budget.bytes == 0


async def test_public_calls_of_one_connection_are_counted(wire: Wire, guard: Guard) -> None:
    """Those that are too many are refused, which costs little, and the connection goes on."""
    most = Bounds().connection.requests
    await wire.send_all(b"".join(headers(2 * number + 1, "/toy/Public") for number in range(most + 50)))

    refused = [each for each in wire.answers() if each.kind == frames.RST_STREAM]
    assert [each.error for each in refused] == [ErrorCode.REFUSED_STREAM] * 50
    assert len(wire.connection.streams) == most


async def test_an_unfinished_public_call_expires(wire: Wire, guard: Guard) -> None:
    await wire.send_all(headers(1, "/toy/Public") + headers(3, WATCH) + body(3, message(b""), end=True))
    wire.loop.advance(11)
    wire.budget.sweep()

    assert status_of(wire.answers(), 1) == Code.RESOURCE_EXHAUSTED
    assert list(wire.connection.streams) == [3]  # a watch waits for us, not for its client


async def test_streams_that_are_over_do_not_wait_for_the_garbage_collector(wire: Wire, guard: Guard) -> None:
    """Large metadata would pile up in them meanwhile."""
    gc.collect()
    gc.disable()
    try:
        await wire.send_all(call(1, "/toy/Public") + headers(3, "/toy/Public") + call(5, "/toy/Echo"))
        await wire.send_all(headers(7, WATCH) + body(7, message(b"")) + headers(9, WATCH) + body(9, message(b"") * 2))
        await wire.send_all(
            headers(11, PATH, key="bad") + headers(13, REFLECT) + frames.rst_stream(7, ErrorCode.CANCEL)
        )
        wire.loop.advance(11)
        wire.budget.sweep()
        await wire.turns()
        assert wire.connection.streams == {}
        # Not isinstance: other tests leave proxies that refuse to be asked for their class.
        assert not [each for each in gc.get_objects() if type(each) is Stream]
    finally:
        gc.enable()


async def test_metadata_of_public_calls_counts(toy: Toy, guard: Guard) -> None:
    wire = Wire(toy, Limits(max_strikes_unauthenticated=1_000_000)).greet()
    many = {f"x_{number}": "y" * 1_000 for number in range(40)}
    most = 0
    for number in range(50):
        await wire.send_all(split_headers(2 * number + 1, "/toy/Public", **many))
        most = max(most, wire.budget.bytes)

    assert 800_000 < most <= wire.budget.bounds.connection.bytes
    assert [each.error for each in wire.answers() if each.kind == frames.GOAWAY] == [ErrorCode.ENHANCE_YOUR_CALM]
    assert wire.budget.bytes == 0


def split_headers(stream: int, path: str, **more: str) -> bytes:
    """A long header block as HEADERS and CONTINUATION."""
    return frames.header_frames(stream, block_of(path, **more), frames.MIN_FRAME_LIMIT, end_stream=False)


# -- header blocks and connections --


async def test_an_unfinished_header_block_expires(wire: Wire, guard: Guard) -> None:
    wire.send(frames.frame(frames.HEADERS, 0, 1, bytes(10_000)))
    assert wire.budget.bytes == 10_000
    wire.loop.advance(11)
    wire.budget.sweep()

    assert wire.transport.closed
    wire.lose()
    assert wire.budget.bytes == 0


async def test_an_idle_connection_gets_goaway_and_is_closed(wire: Wire, guard: Guard) -> None:
    for _ in range(35):
        wire.loop.advance(1)
        wire.budget.sweep()
    assert [each.kind for each in wire.answers()][:1] == [frames.GOAWAY]
    assert wire.transport.ended


async def test_a_connection_with_a_call_is_not_idle(wire: Wire, guard: Guard, toy: Toy) -> None:
    await wire.send_all(call(1, "/toy/Hold"))
    for _ in range(200):
        wire.loop.advance(1)
        wire.budget.sweep()
    assert wire.answers() == []
    toy.release.set()
    await wire.turns()
    assert status_of(wire.answers(), 1) == Code.OK


async def test_unauthenticated_peers_are_read_in_small_pieces(wire: Wire, guard: Guard) -> None:
    assert len(wire.connection.get_buffer(-1)) == len(PART)
    await wire.send_all(call(1, PATH, key="good"))
    assert len(wire.connection.get_buffer(-1)) > len(PART)


async def test_unauthenticated_peers_without_cpu_budget_are_not_read(wire: Wire, guard: Guard) -> None:
    wire.account.spend_cpu(10.0)
    wire.send(frames.frame(frames.PING, 0, 0, bytes(8)))
    assert wire.transport.paused
    wire.loop.advance(10.1)
    assert not wire.transport.paused
