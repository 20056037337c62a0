"""TestService, by which tests move the clock of a whole server: locks, sleeps and their refusals."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.testservice.v1 import request_response_pb2 as pb
from temporalio.api.testservice.v1 import service_pb2_grpc

from whistlestop.common.clock import FakeClock, SkippingClock
from whistlestop.server.config import ServerConfig
from whistlestop.server.process import Server
from whistlestop.server.time_skipping import TimeSkippingServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOUR_S = 3600
CONFIG = ServerConfig(port=0, http_port=None, metrics_port=None, drain_s=0.1)


class Client:
    """The service with seconds for durations."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = service_pb2_grpc.TestServiceStub(channel)  # type: ignore[arg-type]  # made for both kinds

    async def ahead(self) -> float:
        """How far the server's clock is ahead, seconds."""
        reply = await self._stub.GetCurrentTime(Empty())
        return float(reply.time.ToNanoseconds() / 1e9 - time.time())

    async def lock(self) -> None:
        await self._stub.LockTimeSkipping(pb.LockTimeSkippingRequest())

    async def unlock(self) -> None:
        await self._stub.UnlockTimeSkipping(pb.UnlockTimeSkippingRequest())

    async def sleep(self, seconds: float, within_s: float = 10) -> None:
        await self._stub.Sleep(pb.SleepRequest(duration=_duration(seconds)), timeout=within_s)

    async def sleep_until(self, seconds_ahead: float) -> None:
        timestamp = Timestamp()
        timestamp.FromNanoseconds(round((time.time() + seconds_ahead) * 1e9))
        await self._stub.SleepUntil(pb.SleepUntilRequest(timestamp=timestamp))

    async def unlock_with_sleep(self, seconds: float, within_s: float = 10) -> None:
        await self._stub.UnlockTimeSkippingWithSleep(pb.SleepRequest(duration=_duration(seconds)), timeout=within_s)


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[Client]:
    async with server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Client(channel)


async def test_a_locked_clock_goes_as_everybodys() -> None:
    async with served(TimeSkippingServer(CONFIG)) as client:
        began = time.monotonic()
        await client.sleep(0.1)
        assert time.monotonic() - began >= 0.09
        assert await client.ahead() == pytest.approx(0, abs=0.5)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.sleep(HOUR_S, within_s=0.2)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_sleeps_move_an_unlocked_clock() -> None:
    """To the earliest end first; what lies in the past is over at once."""
    async with served(TimeSkippingServer(CONFIG, locked=False)) as client:
        await asyncio.gather(client.sleep(3 * HOUR_S), client.sleep(HOUR_S))
        assert await client.ahead() == pytest.approx(3 * HOUR_S, abs=1)
        await client.sleep_until(5 * HOUR_S)
        assert await client.ahead() == pytest.approx(5 * HOUR_S, abs=1)
        for past in (0, -HOUR_S):
            await client.sleep(past)
            await client.sleep_until(past)
        assert await client.ahead() == pytest.approx(5 * HOUR_S, abs=1)


async def test_unlocking_for_a_sleep_locks_behind_it() -> None:
    async with served(TimeSkippingServer(CONFIG)) as client:
        await client.unlock_with_sleep(HOUR_S)
        await client.unlock_with_sleep(0)
        assert await client.ahead() == pytest.approx(HOUR_S, abs=1)
        with pytest.raises(grpc.aio.AioRpcError):
            await client.sleep(HOUR_S, within_s=0.1)
        assert await client.ahead() == pytest.approx(HOUR_S, abs=1)


async def test_locks_are_counted() -> None:
    """Two locks need two unlocks; below none there is nothing to unlock, and nothing is changed by trying."""
    async with served(TimeSkippingServer(CONFIG)) as client:
        await client.lock()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.unlock_with_sleep(HOUR_S, within_s=0.2)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await client.unlock()
        # Its lock comes back when the hour is over, though nobody waits for it any more.
        for _ in range(500):
            if await client.ahead() > HOUR_S - 1:
                break
        await client.unlock()
        for refused in (client.unlock(), client.unlock_with_sleep(1)):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await refused
            assert error.value.code() is grpc.StatusCode.UNKNOWN
            assert "Unbalanced lock and unlock calls" in (error.value.details() or "")
        await client.sleep(5 * HOUR_S)


async def test_other_servers_know_no_such_service() -> None:
    async with served(Server(CONFIG)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.ahead()
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.value.details() == "unknown service temporal.api.testservice.v1.TestService"


async def test_a_skip_wakes_who_sleeps_by_that_clock() -> None:
    base = FakeClock()
    clock = SkippingClock(base)
    sleeper = asyncio.create_task(clock.sleep(100))
    await asyncio.sleep(0)
    clock.skip_to(clock.now_ns() + 99 * 10**9)
    await base.advance(0.5)
    assert not sleeper.done()
    await base.advance(0.5)
    assert sleeper.done()
    clock.skip_to(0)
    assert clock.now_ns() == base.now_ns() + 99 * 10**9
