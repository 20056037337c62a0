"""Versions that are made before their workers come, their compute configs, and who is in a ramp."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.puppet import Refused, cases
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


async def _made(p: Puppet, *builds: str) -> str:
    """A deployment with these versions; its name."""
    name = p.id("deployment")
    await p.call("CreateWorkerDeployment", record=False, deployment_name=name, request_id=p.id("request"))
    for build_id in builds:
        version = {"deployment_name": name, "build_id": build_id}
        await p.call("CreateWorkerDeploymentVersion", deployment_version=version, request_id=p.id("request"))
    return name


@scenario
async def versions_are_created(p: Puppet) -> None:
    name = await _made(p)
    create = "CreateWorkerDeploymentVersion"
    for version in cases(
        {"build_id": "1"}, {"deployment_name": name}, {"deployment_name": f"{name}-x", "build_id": "1"}
    ):
        await p.refused(create, deployment_version=version, request_id="r")
    version = {"deployment_name": name, "build_id": "1"}
    await p.call(create, deployment_version=version, request_id="r", identity="me")
    await p.call(create, deployment_version=version, request_id="r", identity="other")
    await p.refused(create, deployment_version=version, request_id="s")
    described = await p.call("DescribeWorkerDeploymentVersion", record=False, deployment_version=version)
    info = described.worker_deployment_version_info
    p.note("version", [info.version.removeprefix(name), info.status, info.last_modifier_identity])


@scenario
async def compute_configs_that_can_t_be_right(p: Puppet) -> None:
    name = await _made(p)
    good: dict[str, Any] = {"provider": {"type": "aws-lambda"}}
    for number, groups in enumerate(
        cases(
            {"a": {}},
            {"a": {"provider": {"type": "nope"}}},
            {"": good},
            {"a": good, "b": good},
            {"a": {**good, "task_queue_types": [1]}, "b": {**good, "task_queue_types": [1, 2]}},
            {"a": {**good, "task_queue_types": [0]}},
            {"a": {**good, "scaler": {"type": "nope"}}},
            {"a": {"provider": {"type": "k8s"}}},
        )
    ):
        for _ in range(20):
            refusal = await p.refused(
                "CreateWorkerDeploymentVersion",
                deployment_version={"deployment_name": name, "build_id": f"{number}"},
                request_id=f"r{number}",
                compute_config={"scaling_groups": groups},
            )
            if "b" not in groups or "entry b" in refusal.message:
                break
            # The real server walks a map: of two that don't go together it blames either. Ask until it is the second.
            p.transcript.entries.pop()


@scenario
async def compute_configs_of_versions_that_are_not_there(p: Puppet) -> None:
    name = await _made(p, "1")
    update = "UpdateWorkerDeploymentVersionComputeConfig"
    removal: Any = {"remove_compute_config_scaling_groups": ["default"]}
    for version in cases(
        {"build_id": "1"}, {"deployment_name": name}, {"deployment_name": name, "build_id": "2"},
        {"deployment_name": f"{name}-x", "build_id": "1"},
    ):  # fmt: skip
        await p.refused(update, deployment_version=version, request_id=p.id("r"), **removal)
    await p.call(update, deployment_version={"deployment_name": name, "build_id": "1"}, request_id="r", **removal)


async def _serve(p: Puppet, name: str, build_id: str, taken: list[str]) -> None:
    """Poll as a worker of the build until cancelled, completing each workflow at once."""
    options: Any = {"deployment_options": {"deployment_name": name, "build_id": build_id, "worker_versioning_mode": 2}}
    while True:
        task = await p.call(
            "PollWorkflowTaskQueue", record=False, task_queue={"name": p.task_queue}, identity=f"w{build_id}", **options
        )
        if not task.task_token:
            continue
        taken.append(task.workflow_execution.workflow_id)
        await p.call(
            "RespondWorkflowTaskCompleted", record=False, task_token=task.task_token, identity="w", **options,
            commands=[{"command_type": 4, "complete_workflow_execution_command_attributes": {}}],
        )  # fmt: skip


@slow_scenario
async def the_same_workflow_ids_are_in_a_ramp(p: Puppet) -> None:
    """By the hash of the id."""
    name = p.id("deployment")
    taken: dict[str, list[str]] = {"1": [], "2": []}
    workers = [asyncio.create_task(_serve(p, name, build_id, ids)) for build_id, ids in taken.items()]
    try:
        for build_id in ("1", "2"):
            await _registered(p, name, build_id)
        await p.call("SetWorkerDeploymentCurrentVersion", record=False, deployment_name=name, build_id="1")
        await p.call(
            "SetWorkerDeploymentRampingVersion", record=False, deployment_name=name, build_id="2", percentage=40
        )
        await asyncio.sleep(1)
        await _start_many(p)
        for _ in range(6000):
            if sum(len(ids) for ids in taken.values()) >= 40:
                break
            await asyncio.sleep(0.05)
        p.note("ramp", {build_id: sorted(set(ids)) for build_id, ids in taken.items()})
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _registered(p: Puppet, name: str, build_id: str) -> None:
    for _ in range(6000):
        try:
            await p.call(
                "DescribeWorkerDeploymentVersion", record=False,
                deployment_version={"deployment_name": name, "build_id": build_id},
            )  # fmt: skip
        except Refused:
            await asyncio.sleep(0.05)
        else:
            return


async def _start_many(p: Puppet) -> None:
    """Ids of many lengths, the same on both servers: what is made of the scenario's prefix would differ."""
    for number in range(40):
        await p.call(
            "StartWorkflowExecution", record=False, workflow_id="ramp-" + "x" * number,
            request_id=p.id("request"), workflow_type={"name": "T"}, task_queue={"name": p.task_queue},
        )  # fmt: skip
