"""Tasks that are placed by older routing than the one in force are found again at once, while a poll stands there."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.api.deployment_site import PINNED, opened, options
from tests.simulation.backend import NAMESPACE, Backend, Process
from tests.simulation.faults import Weather
from whistlestop.common.clients import decoded
from whistlestop.common.context import CallContext
from whistlestop.common.proto.nexus_pb2 import DispatchNexusTaskRequest, NexusEndpointData
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.storage.records import NexusEndpointRecord

MOMENT_S = 2.0
"""Within so much time a task is found again that was placed by stale data."""


async def _settle() -> None:
    for _ in range(500):
        await asyncio.sleep(0)


async def _call(process: Process, method: str, *, can_long_poll: bool = True, **fields: Any) -> Any:
    request = getattr(rr, f"{method}Request")(namespace=NAMESPACE, **fields)
    context = CallContext(can_long_poll=can_long_poll)
    reply = await process.frontend.call(f"temporal.api.workflowservice.v1.WorkflowService/{method}", request, context)
    return decoded(reply, getattr(rr, f"{method}Response"))


def _poll(process: Process, build_id: str, kind: str = "Workflow", queue: str = "q") -> asyncio.Task[Any]:
    """A poll that stands until it gets a task."""
    worker = {"task_queue": {"name": queue}, "identity": f"w{build_id}", **options(build_id)}
    return asyncio.ensure_future(_call(process, f"Poll{kind}TaskQueue", **worker))


async def _start(process: Process, workflow_id: str, queue: str = "q") -> None:
    await _call(
        process, "StartWorkflowExecution", workflow_id=workflow_id, request_id=workflow_id,
        workflow_type={"name": "T"}, task_queue={"name": queue},
    )  # fmt: skip


async def _cluster(processes: int) -> Backend:
    weather = Weather()
    weather.clear()
    backend = Backend(random.Random(1), processes=processes, weather=weather, note=lambda _: None)
    await backend.open()
    return backend


async def test_a_start_by_a_process_without_the_new_version_finds_the_waiting_poll() -> None:
    backend = await _cluster(2)
    one, other = backend.processes
    await _start(one, "before")  # the process has read the deployments, of which there are none
    poll = _poll(other, "1")
    await _settle()
    await _call(other, "SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="1")
    first = await poll
    assert first.workflow_execution.workflow_id == "before"
    poll = _poll(other, "1")
    await _settle()
    await _start(one, "after")
    await backend.clock.advance(MOMENT_S)
    await _settle()
    assert poll.done()
    assert poll.result().workflow_execution.workflow_id == "after"
    await backend.close()


async def test_tasks_placed_by_functions_with_old_routing_are_moved() -> None:
    """The one that changes the routing waits until no other goes by the older one."""
    backend = await _cluster(2)
    one, other = backend.processes
    for process in backend.processes:
        process.history.engine.misplaced_tasks = None
    poll = _poll(other, "1")
    await _settle()
    await one.history.engine.deployments.read(backend.namespace_id)
    change = asyncio.ensure_future(
        _call(other, "SetWorkerDeploymentCurrentVersion", can_long_poll=False, deployment_name="d", build_id="1")
    )
    await _settle()
    await _start(one, "w")
    await backend.clock.advance(MOMENT_S)
    await _settle()
    await change
    assert poll.done()
    assert poll.result().workflow_execution.workflow_id == "w"
    await backend.close()


async def test_a_start_written_while_routing_changes_finds_the_waiting_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened() as site:
        (process,) = site.backend.processes
        poll = _poll(process, "1")
        await _settle()
        store: Any = process.history.engine.store
        commit, gate = store.commit, asyncio.Event()

        async def slow(transition: Any) -> Any:
            await gate.wait()
            return await commit(transition)

        monkeypatch.setattr(process.history.engine.store, "commit", slow, raising=False)
        start = asyncio.ensure_future(_start(process, "w"))
        await _settle()
        await site.current("1")
        gate.set()
        await start
        await _settle()
        assert poll.done()
        assert poll.result().workflow_execution.workflow_id == "w"


async def test_a_query_that_was_placed_by_older_routing_is_answered() -> None:
    backend = await _cluster(2)
    one, other = backend.processes
    for build_id in ("1", "2"):
        poll = _poll(other, build_id)
        await _settle()
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)
    await _call(other, "SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="1")
    await _start(other, "w")
    task = await _poll(other, "1")
    await _call(
        other, "RespondWorkflowTaskCompleted", task_token=task.task_token, versioning_behavior=2, **options("1")
    )  # fmt: skip
    await backend.clock.advance(2)
    await _call(one, "DescribeTaskQueue", task_queue={"name": "q"})
    await one.history.engine.deployments.read(backend.namespace_id)
    await _call(other, "SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="2")
    poll = _poll(other, "2")
    query = asyncio.ensure_future(
        _call(one, "QueryWorkflow", execution={"workflow_id": "w"}, query={"query_type": "q"})
    )
    await _settle()
    assert not poll.done()
    for _ in range(4):
        await backend.clock.advance(1)
        await _settle()
    assert poll.done()
    asked = poll.result()
    assert asked.query.query_type == "q"
    await _call(other, "RespondQueryTaskCompleted", task_token=asked.task_token, completed_type=1)
    await _settle()
    await query
    await backend.close()


async def _operation(process: Process, backend: Backend) -> Any:
    data = NexusEndpointData(target_namespace_id=backend.namespace_id)
    data.endpoint.spec.target.worker.task_queue = "q"
    await process.history.store.create_nexus_endpoint(NexusEndpointRecord("e-id", "e", data.SerializeToString(), 0))
    await _call(
        process, "StartNexusOperationExecution", operation_id="o", endpoint="e", service="s", operation="op",
        schedule_to_close_timeout={"seconds": 60},
    )  # fmt: skip


async def _request(process: Process, backend: Backend) -> Any:
    asked = DispatchNexusTaskRequest(task_queue="q")
    asked.request.start_operation.operation = "op"
    context = CallContext(namespace_id=backend.namespace_id, namespace=NAMESPACE)
    return await process.history.call(HistoryService.DispatchNexusTask, asked, context)


@pytest.mark.parametrize("ask", [_operation, _request])
async def test_a_nexus_request_that_was_placed_by_older_routing_finds_the_poll_that_stands(ask: Any) -> None:
    """An operation's, which is rerouted, and that of a caller over HTTP, who looks for a change himself."""
    backend = await _cluster(2)
    one, other = backend.processes
    for build_id in ("1", "2"):
        poll = _poll(other, build_id, "Nexus")
        await _settle()
        poll.cancel()
        await asyncio.gather(poll, return_exceptions=True)
    await _call(other, "SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="1")
    await backend.clock.advance(2)
    await one.history.engine.deployments.read(backend.namespace_id)
    await _call(other, "SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="2")
    poll = _poll(other, "2", "Nexus")
    asking = asyncio.ensure_future(ask(one, backend))
    await _settle()
    assert not poll.done()
    for _ in range(4):
        await backend.clock.advance(1)
        await _settle()
    assert poll.done()
    task = poll.result()
    assert task.request.start_operation.operation == "op"
    done: dict[str, Any] = {"start_operation": {"sync_success": {}}}
    await _call(other, "RespondNexusTaskCompleted", task_token=task.task_token, response=done)
    await _settle()
    await asking
    assert not await one.history.store.backlog(backend.namespace_id, "/_sys/d:1/q", 3, 10)
    await backend.close()


@pytest.mark.parametrize("seed", range(12))
async def test_no_task_stays_where_older_routing_has_put_it(seed: int) -> None:
    """Three processes whose caches are behind, routing that changes, and polls that stand for what is current alone."""
    backend, chance = await _cluster(3), random.Random(seed)
    queues, builds = ("q", "r"), ("1", "2", "")
    polls: dict[str, asyncio.Task[Any]] = {}
    taken: set[str] = set()
    current = ""

    async def gone(*names: str) -> None:
        leaving = [polls.pop(name) for name in names if name in polls]
        for poll in leaving:
            poll.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)

    async def work(build_id: str) -> None:
        """Workers of the build finish what they get and poll again, wherever they are connected."""
        for queue in queues:
            while (poll := polls.get(queue)) is None or poll.done():
                if poll is not None and (task := poll.result()).task_token:
                    taken.add(task.workflow_execution.workflow_id)
                    versioned = {"versioning_behavior": PINNED, **options(build_id)} if build_id else {}
                    done = {"command_type": 4, "complete_workflow_execution_command_attributes": {}}
                    await _call(
                        chance.choice(backend.processes), "RespondWorkflowTaskCompleted", task_token=task.task_token,
                        commands=[done], **versioned,
                    )  # fmt: skip
                polls[queue] = _poll(chance.choice(backend.processes), build_id, queue=queue)
                await _settle()

    for build_id in builds:
        await work(build_id)
        await gone(*queues)
    started = 0
    for _ in range(25):
        await work(current)
        if chance.random() < 0.3:
            await gone(*queues)
            current = chance.choice(builds)
            await _call(
                chance.choice(backend.processes), "SetWorkerDeploymentCurrentVersion", deployment_name="d",
                build_id=current, identity=str(started),
            )  # fmt: skip
            await work(current)
        for _ in range(chance.randrange(3)):
            started += 1
            await _start(chance.choice(backend.processes), f"w{started}", chance.choice(queues))
        await backend.clock.advance(chance.choice([0, 0, 0.01, 0.3, 0.9]))
    for _ in range(4):
        await work(current)
        await backend.clock.advance(MOMENT_S / 2)
    await work(current)
    assert taken == {f"w{number + 1}" for number in range(started)}
    await gone(*queues)
    await backend.close()
