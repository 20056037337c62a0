"""Workflow rules: made, listed, dropped, and what they do to activities that are about to start."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.parity.commands import command
from tests.parity.puppet import Refused, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

SEEN_BY_ALL_S = 3.0
"""The real server's parts read namespaces again every two seconds or so."""


async def namespace(p: Puppet) -> str:
    """One of the scenario's own: rules hold for all of a namespace."""
    name = p.id("namespace")
    await p.call("RegisterNamespace", record=False, namespace=name, workflow_execution_retention_period=seconds(86400))
    for _ in range(3000):
        try:
            await p.call("GetWorkflowExecutionHistory", record=False, namespace=name, execution=p.execution("nobody"))
        except Refused as refusal:
            if "Namespace" not in refusal.message:
                return name
        await asyncio.sleep(0.1)
    raise AssertionError("no namespace")


def work(p: Puppet, activity_id: str, kind: str = "Work", queue: str = "") -> dict[str, Any]:
    return command(
        "schedule_activity_task", activity_id=activity_id, activity_type={"name": kind},
        task_queue={"name": queue or p.task_queue}, start_to_close_timeout=seconds(60),
    )  # fmt: skip


def spec(name: str, predicate: str = "ActivityType = 'Work'", **fields: Any) -> dict[str, Any]:
    return {
        "id": name, "activity_start": {"predicate": predicate}, "actions": [{"activity_pause": {}}], **fields,
    }  # fmt: skip


@slow_scenario
async def rules_come_and_go(p: Puppet) -> None:
    name = await namespace(p)
    await p.call("ListWorkflowRules", namespace=name)
    faults: tuple[dict[str, Any], ...] = ({}, {"spec": {}}, {"spec": spec("r" * 1001)})
    for given in faults:
        await p.refused("CreateWorkflowRule", namespace=name, **given)
    await p.call(
        "CreateWorkflowRule", namespace=name, spec=spec("a"), identity="who", description="why", request_id="r",
        force_scan=True,
    )  # fmt: skip
    await p.refused("CreateWorkflowRule", namespace=name, spec=spec("a"), request_id="r")
    await p.call("CreateWorkflowRule", namespace=name, spec={"id": "empty"})
    await p.call("CreateWorkflowRule", namespace=name, spec=spec("odd", "this is no filter"))
    await p.call("DescribeWorkflowRule", namespace=name, rule_id="a")
    await p.refused("DescribeWorkflowRule", namespace=name, rule_id="b")
    await p.refused("DescribeWorkflowRule", namespace=name)
    listed = await p.call("ListWorkflowRules", record=False, namespace=name)
    p.note("listed", sorted(rule.spec.id for rule in listed.rules))
    await p.call("DeleteWorkflowRule", namespace=name, rule_id="empty")
    await p.refused("DeleteWorkflowRule", namespace=name, rule_id="empty")
    await p.refused("DeleteWorkflowRule", namespace=name)
    await p.refused("TriggerWorkflowRule", namespace=name, id="a", execution=p.execution())


@slow_scenario
async def rules_have_a_limit(p: Puppet) -> None:
    name = await namespace(p)
    later = datetime(2040, 1, 1, tzinfo=UTC)
    for number in range(10):
        expires: dict[str, Any] = {"expiration_time": later + timedelta(days=number)} if number > 8 else {}
        await p.call("CreateWorkflowRule", record=False, namespace=name, spec=spec(f"r{number}", **expires))
    await p.call("CreateWorkflowRule", namespace=name, spec=spec("one more"))
    await p.refused("CreateWorkflowRule", namespace=name, spec=spec("too many"))
    listed = await p.call("ListWorkflowRules", record=False, namespace=name)
    p.note("listed", sorted(rule.spec.id for rule in listed.rules))


@slow_scenario
async def a_rule_pauses_activities_that_are_about_to_start(p: Puppet) -> None:
    name = await namespace(p)
    where = "WorkflowType = 'Journey' AND ExecutionStatus = 'Running' AND WorkflowId starts_with 'p'"
    await p.call(
        "CreateWorkflowRule", record=False, namespace=name, identity="who", description="why",
        spec=spec("held", "ActivityType = 'Work' AND (Attempts <= 1 OR TaskQueue = 'nowhere')", visibility_query=where),
    )  # fmt: skip
    await asyncio.sleep(SEEN_BY_ALL_S)
    await p.call("StartWorkflowExecution", record=False, namespace=name, **p.start_fields())
    task = await p.call("PollWorkflowTaskQueue", record=False, namespace=name, **p.poll_fields())
    await p.call(
        "RespondWorkflowTaskCompleted", record=False, namespace=name, task_token=task.task_token, identity="worker",
        commands=[work(p, "held"), work(p, "free", "Play", p.id("other"))],
    )  # fmt: skip
    task = await p.call("PollActivityTaskQueue", record=False, namespace=name, **p.poll_fields(p.id("other")))
    p.note("started", task.activity_id)
    poll = p.begin("PollActivityTaskQueue", record=False, namespace=name, **p.poll_fields())
    described = None
    for _ in range(6000):
        described = await p.call("DescribeWorkflowExecution", record=False, namespace=name, execution=p.execution())
        if any(activity.paused for activity in described.pending_activities):
            break
        await asyncio.sleep(0.05)
    await poll.abandon()
    assert described is not None
    pending = sorted(described.pending_activities, key=lambda activity: activity.activity_id)
    for activity in pending:
        activity.ClearField("last_started_time")
        p.note("pending", p.normalised(activity))
    await p.call("DeleteWorkflowRule", namespace=name, rule_id="held")
    await asyncio.sleep(SEEN_BY_ALL_S)
    await p.call("UnpauseActivity", namespace=name, execution=p.execution(), id="held")
    task = await p.call("PollActivityTaskQueue", record=False, namespace=name, **p.poll_fields())
    p.note("started", task.activity_id)


@slow_scenario
async def a_rule_pauses_activities_that_are_about_to_be_retried(p: Puppet) -> None:
    name = await namespace(p)
    await p.call("StartWorkflowExecution", record=False, namespace=name, **p.start_fields())
    task = await p.call("PollWorkflowTaskQueue", record=False, namespace=name, **p.poll_fields())
    await p.call(
        "RespondWorkflowTaskCompleted", record=False, namespace=name, task_token=task.task_token, identity="worker",
        commands=[work(p, "held")],
    )  # fmt: skip
    task = await p.call("PollActivityTaskQueue", record=False, namespace=name, **p.poll_fields())
    await p.call("CreateWorkflowRule", record=False, namespace=name, spec=spec("held", "Attempts > 0 AND Attempts < 5"))
    await p.call(
        "CreateWorkflowRule", record=False, namespace=name,
        spec=spec("over", expiration_time=datetime(2020, 1, 1, tzinfo=UTC)),
    )  # fmt: skip
    await asyncio.sleep(SEEN_BY_ALL_S)
    await p.call(
        "RespondActivityTaskFailed", namespace=name, task_token=task.task_token, identity="worker",
        failure={"message": "broken", "application_failure_info": {"type": "Boom"}},
    )  # fmt: skip
    described = await p.call("DescribeWorkflowExecution", record=False, namespace=name, execution=p.execution())
    for activity in described.pending_activities:
        activity.ClearField("next_attempt_schedule_time")
        p.note("pending", p.normalised(activity))


@scenario
async def what_no_server_offers(p: Puppet) -> None:
    await p.refused("FetchWorkerConfig")
    await p.refused("UpdateWorkerConfig")
    await p.refused("FetchWorkerConfig", namespace="")
    for rpc in (
        "DescribeDeployment", "ListDeployments", "GetDeploymentReachability", "GetCurrentDeployment",
        "SetCurrentDeployment", "GetWorkerBuildIdCompatibility", "UpdateWorkerBuildIdCompatibility",
        "GetWorkerVersioningRules", "UpdateWorkerVersioningRules", "GetWorkerTaskReachability",
    ):  # fmt: skip
        await p.refused(rpc)
