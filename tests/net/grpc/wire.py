"""A connection without a socket and without a wall clock: bytes in, frames out, time by hand.

The event loop is the running one, so that handlers run; its timers are replaced by some that a test lets go off.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING, Any

from tests.net.grpc.peer import Frame, message, request_fields
from whistlestop.net.budget import Bounds, Budget
from whistlestop.net.grpc import frames
from whistlestop.net.grpc.connection import READ_SIZE, Connection
from whistlestop.net.grpc.hpack import literal
from whistlestop.net.grpc.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.net.grpc.limits import Service


class Nobody:
    """For an account whose connection has not come yet."""

    def activity(self) -> int:
        return 0

    def is_busy(self) -> bool:
        return False

    def close_idle(self) -> None:
        return

    def abort(self) -> None:
        return


class Timer:
    def __init__(self, callback: Callable[..., object], arguments: tuple[object, ...]) -> None:
        self._callback = callback
        self._arguments = arguments
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def run(self) -> None:
        if not self.cancelled:
            self._callback(*self._arguments)


class ManualLoop:
    """As much of an event loop as a connection needs; `now` goes on by `advance` alone."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._loop = asyncio.get_running_loop()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, callback: Callable[..., object], *arguments: object) -> Timer:
        timer = Timer(callback, arguments)
        heapq.heappush(self._timers, (at, next(self._numbers), timer))
        return timer

    def call_later(self, delay_s: float, callback: Callable[..., object], *arguments: object) -> Timer:
        return self.call_at(self.now + delay_s, callback, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def advance(self, by_s: float) -> None:
        until = self.now + by_s
        while self._timers and self._timers[0][0] <= until:
            at, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, at)
            timer.run()
        self.now = until


class Transport(asyncio.Transport):
    """Takes everything, and remembers it. `stuck`: its peer reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.ended = False
        self.paused = False
        self.stuck = False
        self.most_paused = 0
        self.connection: Connection | None = None

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True
        self.most_paused += 1

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.written += data
        if self.stuck and self.connection is not None:
            self.connection.pause_writing()

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class Wire:
    """One connection, and both of its ends."""

    def __init__(
        self, service: Service, limits: Limits | None = None, *, bounds: Bounds | None = None,
        budget: Budget | None = None, loop: ManualLoop | None = None, address: str = "192.0.2.1",
    ) -> None:  # fmt: skip
        self.loop = loop or ManualLoop()
        self.budget = budget or Budget(self.loop.time, bounds)
        account = self.budget.connect((address, 50_000), Nobody())
        assert account is not None
        self.account = account
        self.gone = 0
        self.connection = Connection(
            service, limits or Limits(), self.loop, account,  # type: ignore[arg-type]  # as much of a loop as it needs
            memoryview(bytearray(READ_SIZE)), lambda _: None, lambda _: self._gone(),
        )  # fmt: skip
        self.transport = self.connection_transport = Transport()
        self.transport.connection = self.connection
        self.connection.connection_made(self.transport)
        self._read = 0
        self.sent = 0

    def _gone(self) -> None:
        self.gone += 1

    def greet(self, *settings: tuple[int, int]) -> Wire:
        """Send the preface; what the server says first is not kept."""
        self.send(frames.PREFACE + frames.settings(settings) + frames.SETTINGS_ACK)
        self.answers()
        return self

    def send(self, data: bytes) -> None:
        """Hand the bytes to the connection as a transport would: in pieces, and none while it does not read."""
        self.sent += len(data)
        view = memoryview(data)
        while view and not (self.transport.paused or self.transport.closed):
            buffer = self.connection.get_buffer(-1)
            size = min(len(buffer), len(view))
            buffer[:size] = view[:size]
            self.connection.buffer_updated(size)
            view = view[size:]
        self.unread = bytes(view)

    async def send_all(self, data: bytes, patience: int = 100_000) -> None:
        """As `send`, and give the loop its turns until everything is read, or the connection is over."""
        self.send(data)
        for _ in range(patience):
            if not self.transport.paused and not self.unread:
                break
            if self.transport.closed or self.connection.lost:
                break
            self.loop.advance(0.01)
            await asyncio.sleep(0)
            if not self.transport.paused and self.unread:
                self.sent -= len(self.unread)
                self.send(self.unread)
        await self.turns()

    async def turns(self, count: int = 5) -> None:
        """Let handlers go on."""
        for _ in range(count):
            await asyncio.sleep(0)

    def answers(self) -> list[Frame]:
        """The frames that came since the last look."""
        found = []
        data = bytes(self.transport.written)
        while len(data) - self._read >= 9:
            size = int.from_bytes(data[self._read : self._read + 3], "big")
            start = self._read + 9
            assert len(data) >= start + size, "half a frame was written"
            found.append(
                Frame(data[self._read + 3], data[self._read + 4], int.from_bytes(data[start - 4 : start], "big"),
                      data[start : start + size])
            )  # fmt: skip
            self._read = start + size
        return found

    def lose(self) -> None:
        """The peer is gone."""
        self.connection.connection_lost(None)


def block_of(path: str, **more: str) -> bytes:
    """A header block without any compression."""
    return b"".join(literal(name.encode(), value.encode()) for name, value in request_fields(path, **more))


def headers(stream: int, path: str, *, end: bool = False, **more: str) -> bytes:
    """A request's head."""
    flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
    return frames.frame(frames.HEADERS, flags, stream, block_of(path, **more))


def call(stream: int, path: str, data: bytes = b"", **more: str) -> bytes:
    """A whole unary request of one DATA frame."""
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block_of(path, **more))
    return head + frames.frame(frames.DATA, frames.END_STREAM, stream, message(data))


def body(stream: int, data: bytes, *, end: bool = False) -> bytes:
    """DATA frames of the agreed size."""
    size = frames.MIN_FRAME_LIMIT
    pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    return b"".join(
        frames.frame(frames.DATA, frames.END_STREAM if end and piece is pieces[-1] else 0, stream, piece)
        for piece in pieces
    )
