"""What one connection may cost all others, whoever it is of: turns, the cost of frames, answers nobody fetches."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.net.grpc.peer import message
from tests.net.grpc.wire import Wire, body, call, headers
from whistlestop.net.grpc import frames, strikes
from whistlestop.net.grpc.frames import ErrorCode, frame
from whistlestop.net.grpc.limits import Limits
from whistlestop.net.grpc.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.net.grpc.conftest import Toy

PING = frame(frames.PING, 0, 0, bytes(8))
MANY = 10_000


class Counted(dict[int, Stream]):
    """Streams that count how often one is looked at by going through them all."""

    looks = 0

    def values(self) -> Iterator[Stream]:  # type: ignore[override]  # as much of a view as is needed
        for each in super().values():
            self.looks += 1
            yield each


async def known(toy: Toy, limits: Limits | None = None, *settings: tuple[int, int]) -> Wire:
    """A connection whose caller has made a call."""
    wire = Wire(toy, limits).greet(*settings)
    wire.send(frames.window_update(0, 1 << 30))
    await wire.send_all(call(1, "/toy/Echo"))
    if settings:
        wire.send(frames.window_update(1, 1 << 20))
    wire.answers()
    assert wire.account.authenticated
    return wire


def is_paused(wire: Wire) -> bool:
    return wire.transport.paused


# -- turns --


async def test_a_connection_lets_others_go_first(toy: Toy) -> None:
    wire = await known(toy, Limits(turn_s=0.0))
    wire.send(PING * 1_000)
    assert wire.transport.paused
    assert len(wire.answers()) < 100

    answered = 0
    while is_paused(wire):
        await wire.turns(1)
        answered += 1
    assert answered > 10
    assert len(wire.answers()) > 900


async def test_writes_of_one_turn_are_sent_together(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await known(toy)
    writes: list[int] = []
    monkeypatch.setattr(wire.transport, "write", lambda data: writes.append(len(data)))
    wire.send(PING * 500)
    await wire.turns(50)

    assert sum(writes) == 500 * len(PING)
    assert len(writes) < 20


async def test_the_calls_of_one_turn_are_bounded(toy: Toy) -> None:
    wire = await known(toy)
    wire.send(b"".join(call(number, "/toy/Hold") for number in range(3, 2_003, 2)))
    assert wire.transport.paused
    assert len(wire.connection.streams) < 2 * wire.connection.limits.calls_per_turn

    while is_paused(wire):
        await wire.turns(1)
    assert len(wire.connection.streams) == 1_000


async def test_frames_keep_their_order_over_turns(toy: Toy) -> None:
    wire = await known(toy, Limits(turn_s=0.0))
    wire.send(b"".join(frame(frames.PING, 0, 0, number.to_bytes(8, "big")) for number in range(500)))
    await wire.turns(1_000)
    assert [int.from_bytes(each.payload, "big") for each in wire.answers()] == list(range(500))


# -- the cost of frames --


@pytest.mark.parametrize("per_frame", [1, 2_730])
async def test_settings_do_not_walk_the_streams(toy: Toy, per_frame: int) -> None:
    """Their cost is that of their bytes, however many streams are open."""
    wire = await known(toy)
    await wire.send_all(b"".join(headers(number, "/toy/Hold") for number in range(3, 2 * MANY, 2)))
    assert len(wire.connection.streams) == MANY - 1
    wire.connection.streams = streams = Counted(wire.connection.streams)
    flips = b"".join(struct.pack(">HI", 4, 65_535 + number % 2) for number in range(per_frame))
    await wire.send_all(frame(frames.SETTINGS, 0, 0, flips) * 10)

    assert streams.looks == 0
    assert sum(each.kind == frames.SETTINGS for each in wire.answers()) == 10


async def test_settings_that_free_many_answers_cost_as_much(toy: Toy) -> None:
    """A peer that shuts and opens the windows of many streams is cut off before long."""
    wire = await known(toy, Limits(), (frames.INITIAL_WINDOW_SIZE, 0))
    await wire.send_all(b"".join(call(number, "/toy/Big", b"256") for number in range(3, 2 * 2_000, 2)))
    assert len(wire.connection._blocked_streams) == 1_999
    one, none = (frames.settings(((frames.INITIAL_WINDOW_SIZE, value),)) for value in (1, 0))
    before = len(wire.transport.written)
    await wire.send_all((one + none) * 10)

    assert wire.connection.strikes.count >= 10 * 1_999 / 50
    # Of each answer one byte could go; it does not go anew with each frame.
    assert len(wire.transport.written) - before < 2 * 1_999 * 10 + 20 * 9


async def test_a_window_that_overflows_is_found_without_a_walk(toy: Toy) -> None:
    wire = await known(toy)
    await wire.send_all(headers(3, "/toy/Hold") + frames.window_update(3, frames.MAX_WINDOW - 65_535))
    wire.send(frames.settings(((frames.INITIAL_WINDOW_SIZE, 65_536),)))
    assert [each.error for each in wire.answers() if each.kind == frames.GOAWAY] == [ErrorCode.FLOW_CONTROL_ERROR]


async def test_deadlines_of_many_calls_are_checked_rarely(toy: Toy) -> None:
    wire = await known(toy)
    calls = (call(2 * number + 3, "/toy/Hold", grpc_timeout=f"{1_000 + number}m") for number in range(4_000))
    for each in calls:
        wire.send(each)
        await wire.turns(2)
    wire.connection.streams = streams = Counted(wire.connection.streams)
    wire.loop.advance(10)
    await wire.turns()

    assert not streams
    assert streams.looks < 4_000 * 4_000 / 8


# -- strikes --


async def test_a_successful_call_reduces_the_debt(toy: Toy) -> None:
    wire = await known(toy)
    await wire.send_all(PING * 10 + call(3, "/toy/Echo"))
    assert wire.connection.strikes.count == 10 - strikes.OF_A_CALL


@pytest.mark.parametrize("path", ["/toy/Fail", "/toy/Bug"])
async def test_a_refused_call_reduces_no_debt(toy: Toy, path: str) -> None:
    wire = await known(toy)
    await wire.send_all(PING * 10 + call(3, path, b"x"))
    assert wire.connection.strikes.count == 10


async def test_calls_that_are_reset_cost_what_calls_cost(toy: Toy) -> None:
    """Rapid reset, and those by which a peer has us reset (CVE-2023-44487, CVE-2025-8671)."""
    wire = await known(toy)
    resets = (frames.rst_stream(3, 8), frames.window_update(5, 0), frame(frames.PRIORITY, 0, 7, b""))
    for number, reset in zip((3, 5, 7), resets, strict=True):
        await wire.send_all(headers(number, "/toy/Hold") + reset)
    assert wire.connection.strikes.count == 3 * strikes.OF_A_CALL
    assert (toy.held, wire.connection._running) == (0, 0)


@pytest.mark.parametrize("path", ["/toy/Hold", "/toy/Count"])
async def test_calls_that_are_reset_before_their_handler_begins_are_not_counted_for_ever(toy: Toy, path: str) -> None:
    """Once as many were reset as may run, a connection would take no more."""
    wire = await known(toy, Limits(max_streams=10))
    for number in range(3, 103, 2):
        await wire.send_all(call(number, path) + frames.rst_stream(number, 8))
    assert wire.connection._running == 0
    await wire.send_all(call(103, "/toy/Echo"))
    assert any(each.kind == frames.DATA and each.stream == 103 for each in wire.answers())


async def test_a_flood_is_cut_off_and_a_slow_one_is_not(toy: Toy) -> None:
    limits = Limits(max_strikes=100, strikes_forgiven_per_s=10)
    fast, slow = await known(toy, limits), await known(toy, limits)
    await fast.send_all(PING * 200)
    assert [each.error for each in fast.answers() if each.kind == frames.GOAWAY] == [ErrorCode.ENHANCE_YOUR_CALM]
    for _ in range(500):
        slow.send(PING)
        slow.loop.advance(0.2)
    assert not [each for each in slow.answers() if each.kind == frames.GOAWAY]


# -- answers that nobody fetches --


async def test_answers_that_wait_are_bounded(toy: Toy) -> None:
    """One more is replaced by an error."""
    wire = await known(toy, Limits(max_unsent=1_000_000), (frames.INITIAL_WINDOW_SIZE, 0))
    for number in range(3, 43, 2):
        await wire.send_all(call(number, "/toy/Big", b"102400"))

    assert wire.connection._unsent <= 1_000_000
    refused = [each for each in wire.answers() if each.kind == frames.HEADERS and b"grpc-status\x018" in each.payload]
    assert len(refused) == 20 - 9
    wire.send(frames.settings(((frames.INITIAL_WINDOW_SIZE, 1 << 20),)))
    assert wire.connection._unsent == 0


async def test_an_answer_whose_window_stays_shut_is_given_up(toy: Toy) -> None:
    wire = await known(toy, Limits(stalled_s=50), (frames.INITIAL_WINDOW_SIZE, 0))
    await wire.send_all(call(3, "/toy/Big", b"1024") + call(5, "/toy/Big", b"1024"))
    for _ in range(20):
        wire.loop.advance(10)
        wire.send(frames.window_update(5, 1))  # this one gets on

    resets = [(each.stream, each.error) for each in wire.answers() if each.kind == frames.RST_STREAM]
    assert resets == [(3, ErrorCode.CANCEL)]


async def test_a_peer_that_reads_nothing_is_given_up(toy: Toy) -> None:
    wire = await known(toy, Limits(stalled_s=50))
    wire.transport.stuck = True
    await wire.send_all(call(3, "/toy/Big", b"1024"))
    assert wire.connection._paused
    wire.loop.advance(49)
    assert not wire.transport.closed
    wire.loop.advance(2)
    assert wire.transport.closed


async def test_a_peer_that_reads_slowly_is_not(toy: Toy) -> None:
    wire = await known(toy, Limits(stalled_s=50))
    wire.transport.stuck = True
    for number in range(3, 23, 2):
        await wire.send_all(call(number, "/toy/Big", b"1024"))
        wire.loop.advance(40)
        wire.connection.resume_writing()
    assert not wire.transport.closed


async def test_bodies_of_authenticated_callers_share_a_bound(toy: Toy) -> None:
    wire = await known(toy, Limits(max_buffered=100_000))
    for number in range(3, 33, 2):
        await wire.send_all(headers(number, "/toy/Echo") + body(number, message(bytes(20_000))[:-1]))
    assert wire.connection.buffered <= 100_000
