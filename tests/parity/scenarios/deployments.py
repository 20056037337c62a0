"""Runs on the versions of a worker deployment: what describes and histories say of where they are and where they go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity import commands
from tests.parity.puppet import Refused
from tests.parity.scenarios import slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

PINNED, AUTO_UPGRADE = "VERSIONING_BEHAVIOR_PINNED", "VERSIONING_BEHAVIOR_AUTO_UPGRADE"


def options(p: Puppet, build_id: str) -> dict[str, Any]:
    """What a worker of the build says of itself."""
    return {
        "deployment_options": {
            "deployment_name": p.id("deployment"),
            "build_id": build_id,
            "worker_versioning_mode": "WORKER_VERSIONING_MODE_VERSIONED",
        }
    }


def version(p: Puppet, build_id: str) -> dict[str, str]:
    return {"deployment_name": p.id("deployment"), "build_id": build_id}


async def registered(p: Puppet, *builds: str) -> None:
    """Workers of these builds have polled the queue, for workflows and for activities."""
    polls = [
        p.begin(f"Poll{kind}TaskQueue", record=False, **p.poll_fields(), **options(p, build_id))
        for build_id in builds
        for kind in ("Workflow", "Activity")
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


async def current(p: Puppet, build_id: str) -> None:
    """New tasks go to that version."""
    await p.call(
        "SetWorkerDeploymentCurrentVersion", record=False, deployment_name=p.id("deployment"), build_id=build_id,
        identity="me",
    )  # fmt: skip
    for _ in range(6000):
        described = await p.call("DescribeWorkerDeployment", record=False, deployment_name=p.id("deployment"))
        state = described.worker_deployment_info.routing_config_update_state
        if state != 1:  # in progress
            return
        await asyncio.sleep(0.05)


async def taken(p: Puppet, build_id: str, kind: str = "Workflow", *, record: bool = True) -> Any:
    """The next task that a worker of the build gets."""
    task = await p.call(f"Poll{kind}TaskQueue", record=record, **p.poll_fields(), **options(p, build_id))
    assert task.task_token, "the poll ended without a task"
    return task


async def completed(p: Puppet, task: Any, build_id: str, behavior: str, *given: dict[str, Any], **fields: Any) -> None:
    await p.complete(task, *given, versioning_behavior=behavior, **options(p, build_id), **fields)


async def described(p: Puppet, label: str, workflow_id: str | None = None, run_id: str = "") -> None:
    """What is shown of the run's version."""
    reply = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(workflow_id, run_id))
    info = reply.workflow_execution_info
    p.note(label, p.normalised(info.versioning_info) if info.HasField("versioning_info") else None)
    p.note(f"{label}: attributes", p.normalised(info.search_attributes))
    p.note(f"{label}: deployment", info.worker_deployment_name)


@slow_scenario
async def an_auto_upgrading_run_moves_with_the_routing(p: Puppet) -> None:
    await registered(p, "1", "2")
    await current(p, "1")
    await p.start()
    await described(p, "started")
    task = await taken(p, "1")
    await described(p, "its first task under way")
    await completed(p, task, "1", AUTO_UPGRADE)
    await described(p, "on the first version")
    await current(p, "2")
    await p.signal("go")
    await described(p, "signalled")
    task = await taken(p, "2")
    await described(p, "in transition")
    await p.fail_task(task)
    await described(p, "the task failed")
    task = await taken(p, "2")
    await described(p, "in transition again")
    await completed(p, task, "2", AUTO_UPGRADE)
    await described(p, "on the second version")
    await p.history()


@slow_scenario
async def a_transition_ends_with_the_task_that_is_lost(p: Puppet) -> None:
    await registered(p, "1", "2")
    await current(p, "1")
    await p.start(workflow_task_timeout={"seconds": 4})
    await completed(p, await taken(p, "1"), "1", AUTO_UPGRADE)
    await current(p, "2")
    await p.signal("go")
    await taken(p, "2")
    await p.has_event("workflow_task_timed_out")
    await described(p, "timed out")
    await completed(p, await taken(p, "2"), "2", PINNED)
    await described(p, "pinned")
    await p.history()


@slow_scenario
async def a_task_queue_tells_its_routing(p: Puppet) -> None:
    async def told(label: str) -> None:
        for kind in ("TASK_QUEUE_TYPE_WORKFLOW", "TASK_QUEUE_TYPE_ACTIVITY"):
            for _ in range(6000):
                found = await p.call(
                    "DescribeTaskQueue", record=False, task_queue={"name": p.task_queue}, task_queue_type=kind
                )
                if found.versioning_info.current_deployment_version.build_id == expected[0] and (
                    found.versioning_info.ramping_version_percentage == expected[1]
                ):
                    break
                await asyncio.sleep(0.05)
            p.note(f"{label}: {kind}", p.normalised(found.versioning_info))

    async def ramp(build_id: str, percentage: float) -> None:
        await p.call(
            "SetWorkerDeploymentRampingVersion", record=False, deployment_name=p.id("deployment"), build_id=build_id,
            percentage=percentage, identity="me",
        )  # fmt: skip

    expected = "", 0.0
    await told("nobody")
    await registered(p, "1", "2")
    await told("registered")
    await current(p, "1")
    expected = "1", 0.0
    await told("current")
    await ramp("2", 30)
    expected = "1", 30.0
    await told("ramping")
    await current(p, "2")
    expected = "2", 0.0
    await told("the ramping one has become current")
    await ramp("", 40)
    expected = "2", 40.0
    await told("unversioned workers ramp")
    await current(p, "")
    expected = "", 0.0
    await told("no version is current any more")


@slow_scenario
async def versions_tell_when_their_routing_changed(p: Puppet) -> None:
    """Each time is shown as its place among all of them."""
    fields = (
        "current_since_time", "ramping_since_time", "routing_update_time", "first_activation_time", "last_current_time",
        "last_deactivation_time",
    )  # fmt: skip

    async def told(label: str) -> None:
        for _ in range(6000):
            reply = await p.call("DescribeWorkerDeployment", record=False, deployment_name=p.id("deployment"))
            if reply.worker_deployment_info.routing_config_update_state != 1:  # in progress
                break
            await asyncio.sleep(0.05)
        info = reply.worker_deployment_info
        of_routing = [name for name in info.routing_config.DESCRIPTOR.fields_by_name if name.endswith("_time")]
        shown: dict[str, tuple[Any, Any]] = {"routing": (info.routing_config, of_routing)}
        for summary in info.version_summaries:
            shown[summary.deployment_version.build_id] = (summary, fields)
        times = {
            (name, field): getattr(message, field).ToNanoseconds()
            for name, (message, names) in shown.items()
            for field in names
            if message.HasField(field)
        }
        order = sorted(set(times.values()))
        p.note(label, {f"{name} {field}": order.index(at) for (name, field), at in sorted(times.items())})
        statuses = {each.deployment_version.build_id: each.status for each in info.version_summaries}
        p.note(f"{label}: statuses", dict(sorted(statuses.items())))

    async def ramp(build_id: str, percentage: float) -> None:
        await p.call(
            "SetWorkerDeploymentRampingVersion", record=False, deployment_name=p.id("deployment"), build_id=build_id,
            percentage=percentage, identity="me",
        )  # fmt: skip

    await registered(p, "1", "2")
    await told("registered")
    await current(p, "1")
    await told("1 is current")
    await ramp("2", 20)
    await told("2 ramps")
    await ramp("2", 50)
    await told("2 ramps more")
    await current(p, "2")
    await told("2 is current")
    await ramp("1", 10)
    await told("1 ramps")
    await ramp("", 0)
    await told("nothing ramps")
    await current(p, "1")
    await told("1 is current again")
    await current(p, "")
    await told("none is current")


@slow_scenario
async def an_activity_begins_a_transition(p: Puppet) -> None:
    """The workflow moves first; the activity starts when it has."""
    await registered(p, "1", "2")
    await current(p, "1")
    await p.start()
    await completed(p, await taken(p, "1"), "1", AUTO_UPGRADE, commands.activity("a", p.task_queue))
    await current(p, "2")
    activity = p.begin("PollActivityTaskQueue", **p.poll_fields(), **options(p, "2"))
    task = await taken(p, "2")
    await described(p, "in transition")
    p.note("the activity waits", not activity.done())
    await completed(p, task, "2", AUTO_UPGRADE)
    await p.complete_activity(await activity.answer())
    await described(p, "moved")
    await p.history()


@slow_scenario
async def children_and_later_runs_inherit(p: Puppet) -> None:
    await registered(p, "1", "2")
    await current(p, "1")
    for behavior in (AUTO_UPGRADE, PINNED):
        name = p.id(behavior[-6:])
        first = await p.start(name)
        child = commands.child(f"{name}-child", p.task_queue, parent_close_policy="PARENT_CLOSE_POLICY_ABANDON")
        await completed(p, await taken(p, "1"), "1", behavior, child)
        await p.has_event("child_workflow_execution_started", name)
        await described(p, "child", f"{name}-child")
        tasks = [await taken(p, "1", record=False) for _ in range(2)]
        for task in sorted(tasks, key=lambda each: str(each.workflow_execution.workflow_id)):
            of_child = task.workflow_execution.workflow_id != name
            following = [] if of_child else [commands.continue_as_new(p.task_queue)]
            await completed(p, task, "1", behavior, *following)
        await p.history(f"{name}-child")
        await p.history(name, first)
        await described(p, "continued", name)
        await p.history(name)
        await p.terminate(name)


@slow_scenario
async def retried_runs_inherit(p: Puppet) -> None:
    await registered(p, "1")
    await current(p, "1")
    for behavior in (AUTO_UPGRADE, PINNED):
        name = p.id(behavior[-6:])
        await p.start(name, retry_policy={"maximum_attempts": 2})
        await completed(p, await taken(p, "1"), "1", behavior, commands.fail_workflow())
        await described(p, "retried", name)
        await p.history(name)
        await p.terminate(name)


@slow_scenario
async def a_run_moves_to_unversioned_workers(p: Puppet) -> None:
    await registered(p, "1")
    await current(p, "1")
    await p.start()
    await completed(p, await taken(p, "1"), "1", AUTO_UPGRADE)
    await current(p, "")
    await p.signal("go")
    task = await p.workflow_task()
    await described(p, "in transition")
    await p.complete(task)
    await described(p, "unversioned")
    await current(p, "1")
    await p.signal("back")
    await completed(p, await taken(p, "1"), "1", AUTO_UPGRADE)
    await described(p, "and back")
    await p.history()


@slow_scenario
async def what_a_reset_does_after_names_versions_that_are_there(p: Puppet) -> None:
    await registered(p, "1")
    await current(p, "1")
    run_id = await p.start()
    await completed(p, await taken(p, "1"), "1", AUTO_UPGRADE)
    for build_id in ("nope", "1"):
        override = {"pinned": {"behavior": "PINNED_OVERRIDE_BEHAVIOR_PINNED", "version": version(p, build_id)}}
        operation = {
            "update_workflow_options": {
                "workflow_execution_options": {"versioning_override": override},
                "update_mask": {"paths": ["versioning_override"]},
            }
        }
        await p.attempt(
            "ResetWorkflowExecution", workflow_execution=p.execution(run_id=run_id), reason="again",
            workflow_task_finish_event_id=4, request_id=p.id(f"reset-{build_id}"), post_reset_operations=[operation],
        )  # fmt: skip
    await described(p, "reset")
    await p.history()
    await p.refused(
        "ResetWorkflowExecution", workflow_execution=p.execution(run_id=run_id), reason="again",
        workflow_task_finish_event_id=4, request_id=p.id("reset-nothing"), post_reset_operations=[{}],
    )  # fmt: skip


@slow_scenario
async def what_replies_tell_of_versions(p: Puppet) -> None:
    """Which fields are set, by reply; times and numbers aside."""

    def fields_of(message: Any) -> dict[str, Any]:
        drainage = message.drainage_info
        return {
            "fields": sorted(field.name for field, _ in message.ListFields()),
            "drainage": [*sorted(field.name for field, _ in drainage.ListFields()), drainage.status],
        }

    async def told(label: str) -> None:
        for _ in range(6000):
            info = await p.call("DescribeWorkerDeployment", record=False, deployment_name=p.id("deployment"))
            listed = await p.call("ListWorkerDeployments", record=False, page_size=1000)
            lines = [line for line in listed.worker_deployments if line.name == p.id("deployment")]
            routing = info.worker_deployment_info.routing_config
            settled = info.worker_deployment_info.routing_config_update_state != 1  # in progress
            if settled and lines and lines[0].routing_config == routing:
                break
            await asyncio.sleep(0.05)
        summaries = info.worker_deployment_info.version_summaries
        shown = {f"summary of {each.deployment_version.build_id}": fields_of(each) for each in summaries}
        for name in ("latest", "current", "ramping"):
            if lines[0].HasField(f"{name}_version_summary"):
                shown[f"{name} in the list"] = fields_of(getattr(lines[0], f"{name}_version_summary"))
        for build_id in ("1", "2"):
            version_info = await p.call(
                "DescribeWorkerDeploymentVersion", record=False, deployment_version=version(p, build_id)
            )
            shown[f"version {build_id}"] = fields_of(version_info.worker_deployment_version_info)
        p.note(label, shown)

    async def ramp(build_id: str, percentage: float) -> None:
        await p.call(
            "SetWorkerDeploymentRampingVersion", record=False, deployment_name=p.id("deployment"), build_id=build_id,
            percentage=percentage, identity="me",
        )  # fmt: skip

    for build_id in ("1", "2"):
        await registered(p, build_id)
    await told("registered")
    await current(p, "1")
    await told("1 is current")
    await ramp("2", 20)
    await told("2 ramps")
    await ramp("", 0)
    await told("2 ramps no more")
    await ramp("2", 20)
    await told("2 ramps again")
    await current(p, "2")
    await told("2 is current")
    await current(p, "")
    await told("none is current")
