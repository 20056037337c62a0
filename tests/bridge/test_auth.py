"""The bridge at targets that ask who calls: its own key, its callers' keys, and both beside a signature."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from tests.bridge.programs import QUEUE, Order, Outcome, Parcel, charge
from tests.bridge.targets import Front, serving
from tests.functions.client import Cloud, opened
from tests.functions.conftest import platform
from tests.patience import PATIENCE_S
from whistlestop.bridge import connect
from whistlestop.bridge.auth import CALLER_AUTHORIZATION, ApiKey, InOrder, SigV4
from whistlestop.common.clock import SystemClock
from whistlestop.common.ids import RandomIds
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.auth.config import BEHIND_A_SIGNATURE, AuthConfig
from whistlestop.frontend.auth.keys import ApiKey as StoredKey
from whistlestop.frontend.auth.keys import hash_of, new_key, render
from whistlestop.frontend.service import Frontend
from whistlestop.server.config import ServerConfig
from whistlestop.server.process import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KEY, WORKER, READER = new_key(), new_key(), new_key()
DOCUMENT = render(
    [
        StoredKey("app", hash_of(KEY), ("default:write",)),
        StoredKey("worker", hash_of(WORKER), ("default:worker",)),
        StoredKey("reader", hash_of(READER), ("default:read",)),
    ]
)


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async with Server(ServerConfig(port=0, metrics_port=None, auth=AuthConfig(DOCUMENT))) as running:
        yield f"http://127.0.0.1:{running.http_port}"


@asynccontextmanager
async def guarded_functions(folder: Path, keys: str) -> AsyncIterator[str]:
    """The URL of functions over one SQLite file, which ask for keys of this document."""
    env = {"WHISTLESTOP_SQLITE_PATH": str(folder / "store.db"), "WHISTLESTOP_API_KEYS": keys}
    async with opened(env) as store:
        await store.migrate()
        nobody: Any = None
        await ensure_namespace(Frontend(store, nobody, nobody, SystemClock(), RandomIds()).ports, "default")
    with platform("warm") as instances:
        async with serving(Front(Cloud(instances, env))) as url:
            yield url


@pytest.fixture
async def functions(tmp_path: Path) -> AsyncIterator[str]:
    async with guarded_functions(tmp_path, DOCUMENT) as url:
        yield url


@pytest.fixture(params=["server", "functions"])
def target(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.mark.sdk
async def test_an_order_goes_through_with_the_bridges_key(target: str) -> None:
    """Probes, polls and completions of the bridge included."""
    async with asyncio.timeout(PATIENCE_S), connect(target, api_key=KEY) as client:
        worker = Worker(client, task_queue=QUEUE, workflows=[Order, Parcel], activities=[charge])
        async with worker:
            handle = await client.start_workflow(Order.run, "tea", id=f"order-{uuid.uuid4()}", task_queue=QUEUE)
            await handle.signal(Order.note, "by train")
            assert await handle.execute_update(Order.address, "Paddington") == "sent to Paddington"
            assert await handle.result() == Outcome("charged tea", ["by train"], "Paddington", "parcel of tea")


@pytest.mark.sdk
async def test_a_worker_needs_no_more_than_the_workers_role(target: str) -> None:
    """Its polls and completions go with its key, the starter's calls with theirs."""
    async with (
        asyncio.timeout(PATIENCE_S),
        connect(target, api_key=WORKER) as theirs,
        connect(target, api_key=KEY) as mine,
    ):
        async with Worker(theirs, task_queue=QUEUE, workflows=[Parcel]):
            assert await mine.execute_workflow(Parcel.run, "tea", id="parcel", task_queue=QUEUE) == "parcel of tea"
        with pytest.raises(RPCError, match="Request unauthorized"):
            await theirs.start_workflow(Parcel.run, "tea", id="parcel-2", task_queue=QUEUE)


async def test_callers_are_authenticated_by_their_own_key(target: str) -> None:
    async with asyncio.timeout(PATIENCE_S), connect(target, api_key=KEY) as client:
        client.service_client.update_rpc_metadata({"authorization": f"Bearer {READER}"})
        assert (await client.count_workflows()).count == 0
        with pytest.raises(RPCError) as refused:
            await client.start_workflow("Order", id="order", task_queue="orders")
        assert refused.value.status is RPCStatusCode.PERMISSION_DENIED
        assert refused.value.grpc_status.details[0].type_url.endswith("errordetails.v1.PermissionDeniedFailure")


async def test_polls_without_a_key_are_refused(target: str) -> None:
    """They do not wait for ever in the bridge."""
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    async with asyncio.timeout(PATIENCE_S), connect(target) as client:
        poll = rr.PollWorkflowTaskQueueRequest(namespace="default", identity="me")
        poll.task_queue.name = "orders"
        with pytest.raises(RPCError) as refused:
            await client.workflow_service.poll_workflow_task_queue(poll)
        assert refused.value.status is RPCStatusCode.PERMISSION_DENIED


async def test_the_command_takes_its_key_from_the_environment(server: str) -> None:
    """And does not say it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "whistlestop.server", "bridge", "--target", server, "--listen", "127.0.0.1:0",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, "WHISTLESTOP_API_KEY": KEY},
    )  # fmt: skip
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        said = ""
        while "Target:" not in said:
            said += (await process.stdout.readline()).decode()
        client = await Client.connect(said.partition("gRPC:")[2].split()[0])
        assert (await client.count_workflows()).count == 0
        process.terminate()
        rest, log = await process.communicate()
    assert KEY not in said + rest.decode() + log.decode()


async def test_a_key_beside_a_signature_moves_to_a_header_of_ours() -> None:
    class Credentials:
        access_key, secret_key, token = "AKIDEXAMPLE", "secret", None

        def get_frozen_credentials(self) -> Credentials:
            return self

    url = "https://abc.lambda-url.eu-central-1.on.aws/x"
    headers = {"content-type": "application/proto"}
    await InOrder(ApiKey(KEY), SigV4(url, credentials=Credentials())).sign(url, headers, b"")
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 ")
    assert headers[CALLER_AUTHORIZATION] == f"Bearer {KEY}"
    assert CALLER_AUTHORIZATION == BEHIND_A_SIGNATURE
    assert KEY not in json.dumps(headers["authorization"])
