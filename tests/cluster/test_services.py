"""Workflows through frontend, history and matching as three processes over one Postgres."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from temporalio.api.enums.v1 import TaskQueueKind
from temporalio.api.workflowservice.v1 import PollWorkflowTaskQueueRequest
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from tests.cluster.conftest import a_cluster
from tests.cluster.services import Deployment
from tests.cluster.workflows import WORKFLOWS, Counter, Echo, Parent, Retries, fails_twice
from tests.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from temporalio.client import Client

    from tests.cluster.conftest import Cluster


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One of each, for the tests that kill none."""
    with a_cluster(tmp_path_factory.mktemp("three")) as cluster:
        history, matching = free_ports(2)
        made = Deployment(cluster, [history], [matching])
        made.start(*made.names)
        yield made


@pytest.fixture
async def client(three: Deployment) -> Client:
    return await three.cluster.client("frontend")


def metric(deployment: Deployment, name: str) -> float:
    """Of matching."""
    with urllib.request.urlopen(f"http://127.0.0.1:{deployment.metrics}/metrics", timeout=PATIENCE_S) as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def until(holds: Callable[[], bool]) -> None:
    """Asked over HTTP, in a thread."""
    await eventually(lambda: asyncio.to_thread(holds))


async def test_a_workflow_goes_through_all_three(three: Deployment, client: Client) -> None:
    """Activities with retries, a child, external signals, a query, an update; a fresh task wakes its poll at once."""
    async with Worker(client, task_queue="all", workflows=WORKFLOWS, activities=[fails_twice]):
        for n in range(20):
            assert await client.execute_workflow(Echo.run, f"{n}", id=f"echo-{n}", task_queue="all") == f"{n}"
        assert await client.execute_workflow(Retries.run, "it", id="retries", task_queue="all") == "it at attempt 3"
        assert await client.execute_workflow(Parent.run, "family", id="family", task_queue="all") == 3
        handle = await client.start_workflow(Counter.run, id="counter", task_queue="all")
        assert await handle.execute_update(Counter.add_and_tell, 1) == 1
        await handle.signal(Counter.add, 2)
        assert await handle.query(Counter.value) == 3
        await handle.signal(Counter.end)
        assert await handle.result() == 3
    # Handed over as history offered them, without a look at the store.
    assert metric(three, 'whistlestop_polls_total{outcome="fresh"}') >= 20


async def test_errors_arrive_with_their_details(client: Client) -> None:
    """SDKs decide by them."""
    handle = await client.start_workflow(Echo.run, "x", id="once", task_queue="nobody")
    with pytest.raises(WorkflowAlreadyStartedError) as caught:
        await client.start_workflow(Echo.run, "x", id="once", task_queue="nobody")
    assert caught.value.run_id == handle.first_execution_run_id
    with pytest.raises(RPCError) as refused:
        await client.get_workflow_handle("nothing").signal("x")
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_a_poll_that_is_given_up_ends_where_it_waits(three: Deployment, client: Client) -> None:
    """In another process: else it would take a task that nobody gets."""
    request = PollWorkflowTaskQueueRequest(namespace="default", identity="leaves")
    request.task_queue.name, request.task_queue.kind = "left", TaskQueueKind.TASK_QUEUE_KIND_NORMAL
    polling = asyncio.create_task(client.workflow_service.poll_workflow_task_queue(request))
    await until(lambda: metric(three, "whistlestop_polls_waiting") == 1)
    polling.cancel()
    await until(lambda: metric(three, "whistlestop_polls_waiting") == 0)


async def test_a_deadline_ends_a_call(client: Client) -> None:
    handle = await client.start_workflow(Counter.run, id="waits", task_queue="nobody")
    with pytest.raises(RPCError) as caught:
        await handle.query(Counter.value, rpc_timeout=timedelta(seconds=0.3))
    assert caught.value.status in {RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}
    await handle.terminate()


async def test_members_show_their_roles(three: Deployment) -> None:
    found = {(member["role"], member["address"]) for member in await three.cluster.members()}
    assert found == {
        ("frontend", f"127.0.0.1:{three.frontend}"),
        ("history", f"127.0.0.1:{three.histories[0]}"),
        ("matching", f"127.0.0.1:{three.matchings[0]}"),
    }


async def test_frontend_and_matching_in_one_process_history_in_another(cluster: Cluster) -> None:
    """Doors and polls in one process, executions in the other."""
    endpoint, polls = free_ports(2)
    cluster.launch(
        "history", "--services", "history", "--internal-port", str(endpoint),
        "--matching-url", f"http://127.0.0.1:{polls}",
    )  # fmt: skip
    cluster.launch(
        "front", "--services", "frontend,matching", "--port", "0", "--internal-port", str(polls),
        "--history-url", f"http://127.0.0.1:{endpoint}",
    )  # fmt: skip
    for each in cluster.servers.values():
        each.until_ready()
    client = await cluster.client("front")
    async with Worker(client, task_queue="q", workflows=WORKFLOWS):
        assert await client.execute_workflow(Echo.run, "x", id="echo", task_queue="q") == "x"
    assert await cluster.stop("front") == 0
    assert await cluster.stop("history") == 0
