"""HTTP/2 frames and HPACK, as a peer without a credential sends them."""

from __future__ import annotations

import hpack as reference

from tests.net.grpc.conftest import Toy
from tests.net.grpc.wire import Wire
from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.grpc import frames
from whistlestop.net.grpc.frames import ErrorCode
from whistlestop.net.grpc.head import Head, Method
from whistlestop.net.grpc.health import Health
from whistlestop.net.grpc.hpack import Decoder, HpackError
from whistlestop.net.grpc.reflection import Reflection

_MOST_LIST = 1 << 20


async def _large(data: bytes, head: Head) -> bytes:
    return data * 1_000


def service() -> Toy:
    """Methods of all kinds: for everybody, for whoever is known, unknown ones, streams."""
    toy = Toy()
    for name in ("Bug", "Big"):  # which fail on purpose, and for a body that is no number
        del toy._methods[f"/toy/{name}"]
    toy._methods["/toy/Big"] = Method("toy/Big", _large)
    toy._methods |= Health(frozenset({"a"})).methods() | Reflection(frozenset({"a"})).methods()

    async def is_authenticated(head: Head) -> bool:
        return head.headers.get("authorization") == "good"

    def peek(head: Head) -> bool | None:
        return None if "authorization" in head.headers else False

    toy._methods["/toy/Guarded"] = Method("toy/Guarded", toy.echo, is_authenticated=is_authenticated, peek=peek)
    toy._methods["/toy/Public"] = Method("toy/Public", toy.echo, public=True, most=100)
    toy._methods["/toy/Unknown"] = Method("", refusal=ServiceError(Code.UNIMPLEMENTED, "unknown"))
    return toy


async def connection(data: bytes) -> None:
    """Serve the frames in as many pieces as the first byte says; raise if anything is left, or is no frame."""
    wire = Wire(service()).greet()
    size = max(1, len(data) // (1 + (data[0] % 7 if data else 0)))
    for at in range(1, len(data), size):
        await wire.send_all(data[at : at + size], patience=2_000)
    wire.loop.advance(30)
    wire.budget.sweep()
    for answer in wire.answers():
        if answer.kind == frames.GOAWAY:
            assert answer.error != ErrorCode.INTERNAL_ERROR, answer
    wire.lose()
    await wire.turns()
    budget = wire.budget
    assert (len(budget), budget.request_count, budget.bytes, wire.connection.buffered) == (0, 0, 0, 0)
    assert (wire.connection.streams, wire.connection._running, wire.connection._unsent) == ({}, 0, 0)


def header_blocks(data: bytes) -> None:
    """Decode blocks, each behind its length in two bytes, as another implementation does, or refuse them."""
    ours, theirs = Decoder(), reference.Decoder(max_header_list_size=4 * _MOST_LIST)
    at = 0
    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        block = data[at + 2 : at + 2 + size]
        at += 2 + size
        try:
            fields = ours.decode(block, _MOST_LIST)
        except HpackError:
            return
        if fields is None:
            return
        try:
            expected = [(bytes(name), bytes(value)) for name, value in theirs.decode(block, raw=True)]
        except (reference.HPACKError, UnicodeDecodeError):
            return  # it refuses a block without the table size update that it waits for, for one
        assert fields == expected
