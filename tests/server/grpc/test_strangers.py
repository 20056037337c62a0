"""Who calls is asked before much of a request is kept or unpacked."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.server.grpc.peer import Peer, message
from whistlestop.common.grpc import frames
from whistlestop.common.grpc.calls import MOST_FROM_STRANGERS
from whistlestop.common.grpc.head import Head, Method
from whistlestop.common.grpc.limits import Limits

if TYPE_CHECKING:
    from tests.server.grpc.conftest import Start, Toy

PATH = "/toy/Guarded"
PART = bytes(frames.LEAST_MAX_FRAME)
LIMITS = Limits(stream_window=8 * len(PART))


class Guard:
    """Knows a key, once it is let say so."""

    def __init__(self) -> None:
        self.asked = self.served = 0
        self.says = asyncio.Event()
        self.says.set()

    async def knows(self, head: Head) -> bool:
        self.asked += 1
        await self.says.wait()
        if head.headers.get("key") == "broken":
            raise RuntimeError("a secret")
        return head.headers.get("key") == "good"

    async def measure(self, data: bytes, head: Head) -> bytes:
        """The method: how much came."""
        self.served += 1
        return b"%d" % len(data)


@pytest_asyncio.fixture
async def guard(toy: Toy) -> Guard:
    made = Guard()
    toy._methods[PATH] = Method("toy/Guarded", made.measure, knows=made.knows)
    return made


@pytest_asyncio.fixture
async def peer(start: Start, guard: Guard) -> Peer:
    return await Peer.greet(await start(LIMITS))


def begin(peer: Peer, parts: int, **more: str) -> int:
    """A request of which as many parts are sent, and one is missing."""
    stream = peer.headers(PATH, **more)
    body = message(bytes((parts + 1) * len(PART)))
    for at in range(parts):
        peer.frame(frames.DATA, 0, stream, body[at * len(PART) : (at + 1) * len(PART)])
    return stream


@pytest.mark.parametrize(("key", "code"), [("bad", "7"), ("broken", "13")])
async def test_a_stranger_is_refused_before_the_end(peer: Peer, guard: Guard, key: str, code: str) -> None:
    answer = await peer.answer(begin(peer, 2, key=key))
    assert answer.status[0] == code
    assert (guard.asked, guard.served) == (1, 0)


async def test_no_more_is_let_come_until_it_is_known_from_whom(peer: Peer, guard: Guard) -> None:
    guard.says.clear()
    stream = begin(peer, 8, key="good")
    peer.frame(frames.PING, 0, 0, b"are here")
    following = await peer.read()
    assert following is not None
    assert following.kind == frames.PING
    guard.says.set()
    more = await peer.until(lambda frame: frame.kind == frames.WINDOW_UPDATE)
    assert (more.stream, int.from_bytes(more.payload, "big")) == (stream, 8 * len(PART))
    peer.frame(frames.DATA, 0, stream, PART)
    peer.frame(frames.DATA, frames.END_STREAM, stream, bytes(len(message(b""))))
    assert (await peer.answer(stream)).messages == [b"%d" % (9 * len(PART))]


async def test_much_that_a_stranger_packed_is_not_unpacked(peer: Peer, guard: Guard) -> None:
    """However little it is as it comes; a friend's is, and so is a little of anybody."""
    for key, size, status in (("bad", 100_000, "7"), ("good", 100_000, "0"), ("bad", 5, "0")):
        stream = peer.headers(PATH, grpc_encoding="gzip", key=key)
        peer.frame(frames.DATA, frames.END_STREAM, stream, message(gzip.compress(bytes(size)), 1))
        answer = await peer.answer(stream)
        assert (key, size, answer.status[0]) == (key, size, status)
        assert answer.messages == ([b"%d" % size] if status == "0" else [])


async def test_friends_notice_nothing(peer: Peer, guard: Guard) -> None:
    """And of small requests nobody is asked here: their method does."""
    for key, size, asked in (("bad", 5, 0), ("bad", MOST_FROM_STRANGERS - 5, 0), ("good", MOST_FROM_STRANGERS, 1)):
        guard.asked = 0
        assert (await peer.answer(peer.call(PATH, bytes(size), key=key))).messages == [b"%d" % size]
        assert guard.asked == asked
