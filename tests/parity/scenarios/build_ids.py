"""What older versioning (build-id sets and rules, their reachability) answers on a server as it is by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity.puppet import cases
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


@scenario
async def sets_and_rules(p: Puppet) -> None:
    queue = p.task_queue
    await p.attempt("GetWorkerBuildIdCompatibility", task_queue=queue)
    await p.attempt("UpdateWorkerBuildIdCompatibility", task_queue=queue, add_new_build_id_in_new_default_set="1")
    await p.attempt("GetWorkerVersioningRules", task_queue=queue)
    rule: dict[str, Any] = {"rule": {"target_build_id": "1"}}
    await p.attempt("UpdateWorkerVersioningRules", task_queue=queue, insert_assignment_rule=rule)
    for fields in cases({}, {"build_ids": ["1"]}, {"build_ids": ["1"], "task_queues": [queue]}, {"build_ids": [""]}):
        await p.attempt("GetWorkerTaskReachability", **fields)


@scenario
async def a_build_id_that_nothing_is_for(p: Puppet) -> None:
    """Workers may be versioned by build ids alone, though no queue has sets or rules: they get no unversioned work."""
    await p.start()
    versioned = {"build_id": "1", "use_versioning": True}
    for rpc in ("PollWorkflowTaskQueue", "PollActivityTaskQueue"):
        await p.call(rpc, deadline=3.5, worker_version_capabilities=versioned, **p.poll_fields())
        for fields in cases({"build_id": ""}, {"build_id": "x" * 256}):
            await p.attempt(rpc, worker_version_capabilities={**versioned, **fields}, **p.poll_fields())
    task = await p.workflow_task()
    for stamp in cases({"use_versioning": True}, {"build_id": "x" * 256}, {"build_id": "1"}):
        await p.attempt(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, identity="worker", worker_version_stamp=stamp
        )
    await p.describe()
    await p.history()


@scenario
async def task_queues_by_build_id(p: Puppet) -> None:
    await p.start()
    for versions in cases({}, {"unversioned": True}, {"build_ids": ["1"]}, {"all_active": True}):
        for more in cases({}, {"report_task_reachability": True}):
            await p.attempt(
                "DescribeTaskQueue", task_queue={"name": p.task_queue}, api_mode="DESCRIBE_TASK_QUEUE_MODE_ENHANCED",
                versions=versions, task_queue_types=["TASK_QUEUE_TYPE_WORKFLOW"], **more,
            )  # fmt: skip


@scenario
async def runs_are_found_by_unversioned_builds_while_they_are_open(p: Puppet) -> None:
    build_id = p.id("build")
    await p.start()
    await p.complete(await p.workflow_task(), worker_version_stamp={"build_id": build_id})
    await p.listed(f"BuildIds = 'unversioned:{build_id}' AND ExecutionStatus = 'Running'", count=1)
    await p.signal("go")
    await p.complete(await p.workflow_task(), worker_version_stamp={"build_id": f"{build_id}-2"})
    await p.listed(f"BuildIds = 'unversioned:{build_id}-2' AND ExecutionStatus = 'Running'", count=1)


@scenario
async def only_versioned_workers_say_how_a_workflow_behaves(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    options = {"deployment_name": p.id("deployment"), "build_id": "1"}
    for worker in cases({}, {"deployment_options": options | {"worker_versioning_mode": 1}}):
        for behavior in ("VERSIONING_BEHAVIOR_PINNED", "VERSIONING_BEHAVIOR_AUTO_UPGRADE"):
            await p.attempt(
                "RespondWorkflowTaskCompleted", task_token=task.task_token, identity="worker",
                versioning_behavior=behavior, **worker,
            )  # fmt: skip
    await p.history()
