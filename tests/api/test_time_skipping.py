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
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.operatorservice.v1 import service_pb2_grpc as operator_grpc
from temporalio.api.testservice.v1 import request_response_pb2 as pb
from temporalio.api.testservice.v1 import service_pb2_grpc
from temporalio.api.workflowservice.v1 import request_response_pb2 as workflow_pb
from temporalio.api.workflowservice.v1 import service_pb2_grpc as workflow_grpc

from tests.patience import PATIENCE_S
from whistlestop.common.clock import FakeClock, SkippingClock
from whistlestop.server import time_skipping
from whistlestop.server.config import ServerConfig
from whistlestop.server.process import Server
from whistlestop.server.time_skipping import TimeSkippingServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whistlestop.common.metrics import Metrics
    from whistlestop.common.notify import Notifier
    from whistlestop.server.assembly import Services
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import Transition

HOUR_S = 3600
CONFIG = ServerConfig(port=0, http_port=None, metrics_port=None, drain_s=0.1)


class Client:
    """The service with seconds for durations."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = service_pb2_grpc.TestServiceStub(channel)  # type: ignore[arg-type]  # made for both kinds
        self._workflows: Any = workflow_grpc.WorkflowServiceStub(channel)  # type: ignore[arg-type]
        self.operator: Any = operator_grpc.OperatorServiceStub(channel)  # type: ignore[arg-type]

    async def ahead(self) -> float:
        """How far the server's clock is ahead, seconds."""
        reply = await self._stub.GetCurrentTime(Empty())
        return float(reply.time.ToNanoseconds() / 1e9 - time.time())

    async def lock(self) -> None:
        await self._stub.LockTimeSkipping(pb.LockTimeSkippingRequest())

    async def unlock(self) -> None:
        await self._stub.UnlockTimeSkipping(pb.UnlockTimeSkippingRequest())

    async def sleep(self, seconds: float, within_s: float = PATIENCE_S) -> None:
        await self._stub.Sleep(pb.SleepRequest(duration=_duration(seconds)), timeout=within_s)

    async def sleep_until(self, seconds_ahead: float) -> None:
        timestamp = Timestamp()
        timestamp.FromNanoseconds(round((time.time() + seconds_ahead) * 1e9))
        await self.sleep_until_instant(timestamp)

    async def sleep_until_instant(self, timestamp: Timestamp) -> None:
        await self._stub.SleepUntil(pb.SleepUntilRequest(timestamp=timestamp))

    async def unlock_with_sleep(self, seconds: float, within_s: float = PATIENCE_S) -> None:
        await self._stub.UnlockTimeSkippingWithSleep(pb.SleepRequest(duration=_duration(seconds)), timeout=within_s)

    async def call(self, rpc: str, *, namespace: str = "default", **fields: Any) -> Any:
        """An RPC of WorkflowService."""
        request = getattr(workflow_pb, f"{rpc}Request")(namespace=namespace, **fields)
        return await getattr(self._workflows, rpc)(request)

    async def start(self, workflow_id: str, **fields: Any) -> None:
        await self.call(
            "StartWorkflowExecution", workflow_id=workflow_id, workflow_type={"name": "w"}, task_queue={"name": "q"},
            request_id=workflow_id, **fields,
        )  # fmt: skip

    async def wait_for(self, seconds: float) -> None:
        """One workflow task that starts a timer."""
        task = await self.call("PollWorkflowTaskQueue", task_queue={"name": "q"})
        timer = {"timer_id": "t", "start_to_fire_timeout": _duration(seconds)}
        command = {"command_type": "COMMAND_TYPE_START_TIMER", "start_timer_command_attributes": timer}
        await self.call("RespondWorkflowTaskCompleted", task_token=task.task_token, commands=[command])

    async def times(self, workflow_id: str) -> list[float]:
        """Of the events: seconds after the first."""
        reply = await self.call("GetWorkflowExecutionHistory", execution={"workflow_id": workflow_id})
        instants = [event.event_time.ToNanoseconds() / 1e9 for event in reply.history.events]
        return [instant - instants[0] for instant in instants]


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[Client]:
    async with server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Client(channel)


async def test_a_locked_clock_passes_normally() -> None:
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


async def test_no_clock_is_set_beyond_what_64_bits_hold() -> None:
    """Spans and instants that nobody could wait for are refused, and leave the clock and its lock alone."""
    too_far = 137 * 365 * 24 * HOUR_S
    async with served(TimeSkippingServer(CONFIG)) as client:
        for refused in (
            client.sleep(too_far), client.unlock_with_sleep(too_far), client.sleep_until(too_far),
            client.sleep_until_instant(Timestamp(seconds=10**15)),
        ):  # fmt: skip
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await refused
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await client.sleep_until_instant(Timestamp(seconds=-(10**15), nanos=-5))
        await client.unlock_with_sleep(135 * 365 * 24 * HOUR_S)
        await client.start("w", workflow_execution_timeout=_duration(100 * 365 * 24 * HOUR_S))
        assert await client.times("w") == pytest.approx([0, 0], abs=1)


async def test_time_skips_past_many_long_waiting_runs_to_the_next_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of a run that waits is as early as its last workflow task's timeout, and there may be a page of them."""
    monkeypatch.setattr(time_skipping, "PAGE", 2)
    async with served(TimeSkippingServer(CONFIG)) as client:
        for number in range(4):
            await client.start(f"w{number}")
            await client.wait_for(24 * HOUR_S)
        await client.start("delayed", workflow_start_delay=_duration(HOUR_S))
        # The delayed workflow's task has nobody who would do it: nothing goes on beyond it.
        with pytest.raises(grpc.aio.AioRpcError):
            await client.unlock_with_sleep(5 * HOUR_S, within_s=1)
        assert await client.ahead() == pytest.approx(HOUR_S, abs=2)
        assert await client.times("delayed") == pytest.approx([0, HOUR_S], abs=1)


async def test_runs_of_a_deleted_namespace_do_not_stop_time_skipping() -> None:
    async with served(TimeSkippingServer(CONFIG)) as client:
        retention = _duration(24 * HOUR_S)
        await client.call("RegisterNamespace", namespace="n", workflow_execution_retention_period=retention)
        await client.start("w", namespace="n")
        await client.operator.DeleteNamespace(operator_pb.DeleteNamespaceRequest(namespace="n"))
        await client.unlock_with_sleep(HOUR_S)


class _SlowlyWriting(TimeSkippingServer):
    """Each commit waits until it is let through."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.begun, self.goes_on = asyncio.Event(), asyncio.Event()

    def _assemble(self, store: Store, notifier: Notifier, metrics: Metrics) -> Services:
        services = super()._assemble(store, notifier, metrics)
        commit = services.store.commit

        async def slowly(transition: Transition) -> None:
            self.begun.set()
            await self.goes_on.wait()
            await commit(transition)

        services.store.commit = slowly  # type: ignore[method-assign]
        return services


async def test_no_time_is_skipped_under_a_commit_on_its_way() -> None:
    """What was decided at an instant would else begin long after its own timeouts."""
    server = _SlowlyWriting()
    async with served(server) as client:
        starting = asyncio.ensure_future(client.start("w", workflow_execution_timeout=_duration(60)))
        await server.begun.wait()
        sleeping = asyncio.ensure_future(client.unlock_with_sleep(HOUR_S))
        await asyncio.sleep(0.3)
        assert await client.ahead() == pytest.approx(0, abs=1)
        assert not sleeping.done()
        server.goes_on.set()
        await starting
        await client.call("TerminateWorkflowExecution", workflow_execution={"workflow_id": "w"})
        await sleeping
        assert await client.times("w") == pytest.approx([0, 0, 0], abs=2)


async def test_other_servers_know_no_such_service() -> None:
    async with served(Server(CONFIG)) as client:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.ahead()
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.value.details() == "unknown service temporal.api.testservice.v1.TestService"


async def test_a_skip_ends_sleeps_on_the_skipped_clock() -> None:
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
