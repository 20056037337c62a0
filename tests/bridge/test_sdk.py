"""The official SDK and CLI through the bridge, which has nothing but the target's HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import uuid
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr
from temporalio.client import Client, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from tests.bridge.programs import QUEUE, Cancelled, Order, Outcome, Parcel, charge, endless
from tests.patience import LONG_POLL_S, PATIENCE_S
from tests.support.waiting import eventually
from whistlestop.bridge import BridgeConfig, RunningBridge, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bridge.targets import Front

pytestmark = pytest.mark.sdk

TEMPORAL = Path(sys.executable).with_name("temporal")


def worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[Order, Parcel, Cancelled], activities=[charge, endless])


async def test_an_order_goes_through(target: str) -> None:
    """Activity with a retry, timer, signal, query, update and child, on one worker."""
    async with asyncio.timeout(PATIENCE_S), connect(target) as client, worker(client):
        handle = await client.start_workflow(Order.run, "tea", id=f"order-{uuid.uuid4()}", task_queue=QUEUE)
        await handle.signal(Order.note, "by train")
        assert await handle.execute_update(Order.address, "Paddington") == "sent to Paddington"
        expected = Outcome("charged tea", ["by train"], "Paddington", "parcel of tea")
        assert await handle.result() == expected
        assert await handle.query(Order.state) == "charged tea"


async def test_an_activity_learns_of_its_cancellation_by_its_heartbeat(target: str) -> None:
    async with asyncio.timeout(PATIENCE_S), connect(target) as client, worker(client):
        handle = await client.start_workflow(Cancelled.run, id=f"cancelled-{uuid.uuid4()}", task_queue=QUEUE)
        async for event in handle.fetch_history_events(wait_new_event=True):
            if event.HasField("activity_task_scheduled_event_attributes"):
                break
        await handle.cancel()
        assert await handle.result() in {"cancelled after heartbeats", "cancelled"}


async def test_errors_keep_their_details(target: str) -> None:
    """The SDK decides by them: already started, query failed, not found."""
    async with asyncio.timeout(PATIENCE_S), connect(target) as client, worker(client):
        workflow_id = f"twice-{uuid.uuid4()}"
        handle = await client.start_workflow(Order.run, "tea", id=workflow_id, task_queue=QUEUE)
        with pytest.raises(WorkflowAlreadyStartedError) as again:
            await client.start_workflow(Order.run, "tea", id=workflow_id, task_queue=QUEUE)
        assert again.value.run_id == handle.first_execution_run_id
        with pytest.raises(WorkflowQueryFailedError, match="no such thing"):
            await handle.query(Order.broken)
        with pytest.raises(RPCError) as missing:
            await client.get_workflow_handle("nobody").describe()
        assert missing.value.status is RPCStatusCode.NOT_FOUND
        assert missing.value.grpc_status.details[0].type_url.endswith("errordetails.v1.NotFoundFailure")
        await handle.terminate("enough")
        with pytest.raises(WorkflowFailureError):
            await handle.result()


async def test_a_worker_shuts_down_at_once(target: str) -> None:
    """Its polls wait in the bridge, which ends them."""
    async with asyncio.timeout(LONG_POLL_S), connect(target) as client:
        for number in range(5):
            async with worker(client):
                parcel = client.execute_workflow(Parcel.run, "tea", id=f"parcel-{number}", task_queue=QUEUE)
                assert await parcel == "parcel of tea"


async def test_a_deadline_ends_a_call(target: str) -> None:
    """A query that no worker answers, and a long poll that is empty in time."""
    async with asyncio.timeout(PATIENCE_S), connect(target) as client:
        handle = await client.start_workflow(Parcel.run, "tea", id="unserved", task_queue="nobody-polls")
        with pytest.raises(RPCError) as late:
            await handle.query("state", rpc_timeout=timedelta(seconds=1))
        assert late.value.status in {RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}
        poll = rr.PollWorkflowTaskQueueRequest(namespace="default", identity="me")
        poll.task_queue.name = "empty"
        answer = await client.workflow_service.poll_workflow_task_queue(poll, timeout=timedelta(seconds=4))
        assert answer == rr.PollWorkflowTaskQueueResponse()


async def test_a_cancelled_poll_leaves_the_bridge(target: str) -> None:
    async with asyncio.timeout(PATIENCE_S), RunningBridge(BridgeConfig(target)) as running:
        client = await Client.connect(running.address)
        poll = rr.PollWorkflowTaskQueueRequest(namespace="default", identity="me")
        poll.task_queue.name = "empty"
        call = asyncio.create_task(client.workflow_service.poll_workflow_task_queue(poll))
        await eventually(lambda: running.bridge.waiting == 1)
        call.cancel()
        await eventually(lambda: running.bridge.waiting == 0)


async def test_large_payloads_go_zipped(target: str) -> None:
    """Both ways: a request of a megabyte, and an answer of one."""
    async with asyncio.timeout(PATIENCE_S), RunningBridge(BridgeConfig(target)) as running:
        client = await Client.connect(running.address)
        async with worker(client):
            result = await client.execute_workflow(Parcel.run, "x" * 1_000_000, id="large", task_queue=QUEUE)
        assert result == "parcel of " + "x" * 1_000_000
        assert running.counters.bytes_out < 200_000
        assert running.counters.bytes_in < 200_000


async def test_the_cli_lists_and_shows(target: str) -> None:
    async with asyncio.timeout(PATIENCE_S), RunningBridge(BridgeConfig(target)) as running:
        client = await Client.connect(running.address)
        async with worker(client):
            await client.execute_workflow(Parcel.run, "tea", id="shown", task_queue=QUEUE)
        listed = json.loads(await _cli(running.address, "workflow", "list", "--output", "json"))
        assert [each["execution"]["workflowId"] for each in listed] == ["shown"]
        shown = json.loads(await _cli(running.address, "workflow", "show", "-w", "shown", "--output", "json"))
        assert shown["events"][-1]["eventType"] == "EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED"


async def _cli(address: str, *arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        TEMPORAL, *arguments, "--address", address, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, complaints = await process.communicate()
    assert process.returncode == 0, complaints
    return output


async def test_workers_go_on_when_the_target_was_down(start_dev: Callable[..., Any], tmp_path: Path) -> None:
    """The worker, its client and the bridge stay; the server is killed and comes back on its port and file."""
    path = str(tmp_path / "state.db")
    server = start_dev("-f", path)
    port = server.port("HTTP")
    async with asyncio.timeout(PATIENCE_S), connect(f"http://127.0.0.1:{port}") as client, worker(client):
        handle = await client.start_workflow(Order.run, "tea", id="survivor", task_queue=QUEUE)
        await handle.signal(Order.note, "by train")
        await asyncio.to_thread(server.end, signal.SIGKILL)
        with pytest.raises(RPCError) as down:
            await client.workflow_service.get_system_info(rr.GetSystemInfoRequest(), retry=False)
        assert down.value.status is RPCStatusCode.UNAVAILABLE
        await asyncio.to_thread(start_dev, "-f", path, "--http-port", str(port))
        assert await handle.execute_update(Order.address, "Paddington") == "sent to Paddington"
        assert (await handle.result()).child == "parcel of tea"


async def test_calls_are_counted_by_kind(functions: tuple[str, Front]) -> None:
    """And the front saw as many."""
    url, front = functions
    front.paths.clear()
    async with asyncio.timeout(PATIENCE_S), RunningBridge(BridgeConfig(url)) as running:
        client = await Client.connect(running.address)
        async with worker(client):
            await client.execute_workflow(Parcel.run, "tea", id="counted", task_queue=QUEUE)
    counters = running.counters
    assert counters.total == len(front.paths)
    assert counters.calls["probe"] == front.paths.count("ProbeBacklog")
    assert counters.calls["poll"] == sum(path.startswith("Poll") for path in front.paths)
    assert counters.tasks == 1


async def test_metadata_reaches_the_target(functions: tuple[str, Front]) -> None:
    """What the SDK says of itself and what its user adds; an API key of the bridge only where the caller has none."""
    url, front = functions
    async with connect(url, api_key="of-the-bridge", rpc_metadata={"x-team": "trains"}) as client:
        await client.service_client.check_health()
        await client.count_workflows()
        assert front.headers[-1]["x-team"] == "trains"
        assert front.headers[-1]["client-name"] == "temporal-python"
        assert front.headers[-1]["authorization"] == "Bearer of-the-bridge"
    async with connect(url, api_key="of-the-bridge", rpc_metadata={"authorization": "Bearer mine"}) as client:
        await client.count_workflows()
        assert front.headers[-1]["authorization"] == "Bearer mine"
