"""Nexus requests to versioned workers: which version gets them, and where they go when the routing changes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.puppet import Refused
from tests.parity.scenarios import limited_scenario, slow_scenario
from tests.parity.scenarios.deployments import current, options, version
from tests.parity.scenarios.nexus import endpoint, nexus_task, operation, respond
from tests.parity.scenarios.nexus_http import JSON, complete, services
from tests.parity.scenarios.version_sets import add, add_to, worker

if TYPE_CHECKING:
    import httpx

    from tests.parity.puppet import Pending, Puppet

SUCCESS: dict[str, Any] = {"sync_success": {}}


async def registered(p: Puppet, *builds: str) -> None:
    """Workers of these builds have polled the queue for workflow and Nexus tasks."""
    polls = [
        p.begin(f"Poll{kind}TaskQueue", record=False, **p.poll_fields(), **options(p, build_id))
        for build_id in builds
        for kind in ("Workflow", "Nexus")
    ]
    for build_id in builds:
        for _ in range(6000):
            try:
                described = await p.call(
                    "DescribeWorkerDeploymentVersion", record=False, deployment_version=version(p, build_id)
                )
            except Refused:
                await asyncio.sleep(0.05)
                continue
            if len(described.worker_deployment_version_info.task_queue_infos) == 2:
                break
            await asyncio.sleep(0.05)
    for poll in polls:
        await poll.abandon()


async def routed(p: Puppet) -> None:
    """Wait until the routing of the deployment is in effect."""
    for _ in range(6000):
        described = await p.call("DescribeWorkerDeployment", record=False, deployment_name=p.id("deployment"))
        if described.worker_deployment_info.routing_config_update_state != 1:  # in progress
            return
        await asyncio.sleep(0.05)


def polling(p: Puppet, **worker_fields: Any) -> Pending:
    return p.begin("PollNexusTaskQueue", record=False, **p.poll_fields(), **worker_fields)


def asking(p: Puppet) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(p.send(f"{services(p)}/svc/op", headers=JSON, body=b'"in"'))


async def goes_to(p: Puppet, label: str, winner: dict[str, Any], *others: dict[str, Any]) -> None:
    """Ask while workers of all these kinds poll: the winner gets the request, the others nothing."""
    idle = [polling(p, **fields) for fields in others]
    wins = polling(p, **winner)
    await p.arrived()
    asked = asking(p)
    task = await wins.answer()
    p.note(label, [task.request.start_operation.operation, *(poll.done() for poll in idle)])
    await complete(p, task, **SUCCESS)
    p.answered(await asked)
    for poll in idle:
        await poll.abandon()


@slow_scenario
async def nexus_requests_go_to_the_current_version(p: Puppet) -> None:
    await registered(p, "1", "2")
    first, second, unversioned = options(p, "1"), options(p, "2"), dict[str, Any]()
    await goes_to(p, "no version is current", unversioned, first, second)
    await current(p, "1")
    await goes_to(p, "the first is current", first, unversioned, second)
    await current(p, "2")
    await goes_to(p, "the second is current", second, unversioned, first)
    await p.call(
        "SetWorkerDeploymentRampingVersion", record=False, deployment_name=p.id("deployment"), build_id="1",
        percentage=100, identity="me",
    )  # fmt: skip
    await routed(p)
    await goes_to(p, "all are ramped to the first", first, unversioned, second)
    await current(p, "")
    await p.call("SetWorkerDeploymentRampingVersion", record=False, deployment_name=p.id("deployment"), identity="me")
    await routed(p)
    await goes_to(p, "none is current any more", unversioned, first, second)


@slow_scenario
async def a_waiting_nexus_request_moves_with_the_routing(p: Puppet) -> None:
    await registered(p, "1", "2")
    await current(p, "1")
    asked = asking(p)
    await p.arrived()
    await current(p, "2")
    task = await p.call("PollNexusTaskQueue", record=False, **p.poll_fields(), **options(p, "2"))
    p.note("request", task.request.start_operation.operation)
    await complete(p, task, **SUCCESS)
    p.answered(await asked)


@slow_scenario
async def operations_of_workflows_go_to_the_current_version(p: Puppet) -> None:
    await endpoint(p)
    caller = p.id("callers")
    await registered(p, "1", "2")
    await current(p, "1")
    await p.start(task_queue={"name": caller})
    await p.complete(await p.workflow_task(caller), operation(p))
    idle = [polling(p), polling(p, **options(p, "2"))]
    task = await nexus_task(p, **options(p, "1"))
    p.note("others", [poll.done() for poll in idle])
    for poll in idle:
        await poll.abandon()
    await respond(p, task, start_operation=SUCCESS)
    await p.complete(await p.workflow_task(caller), operation(p))
    await p.has_event("nexus_operation_scheduled", count=2)
    await p.arrived()
    await current(p, "2")
    await respond(p, await nexus_task(p, **options(p, "2")), start_operation=SUCCESS)
    await p.workflow_task(caller, record=False)
    await p.history()


@limited_scenario
async def nexus_requests_go_to_the_default_set(p: Puppet) -> None:
    p.transitions_race()
    for each in (add("1"), add("2"), add_to("2.1", "2", make_set_default=True)):
        await p.call("UpdateWorkerBuildIdCompatibility", record=False, task_queue=p.task_queue, **each)
    old, new = ({"worker_version_capabilities": worker(build_id)} for build_id in ("1", "2.1"))
    await goes_to(p, "the default of the default set", new, old, {})
    await p.attempt("PollNexusTaskQueue", **p.poll_fields(), worker_version_capabilities=worker("2"))


@limited_scenario
async def nexus_requests_go_by_assignment_rules(p: Puppet) -> None:
    p.transitions_race()
    token = (await p.call("GetWorkerVersioningRules", record=False, task_queue=p.task_queue)).conflict_token
    await p.call(
        "UpdateWorkerVersioningRules", record=False, task_queue=p.task_queue, conflict_token=token,
        insert_assignment_rule={"rule": {"target_build_id": "a"}},
    )  # fmt: skip
    assigned, other = ({"worker_version_capabilities": worker(build_id)} for build_id in ("a", "b"))
    await goes_to(p, "the build id of the rule", assigned, other, {})
