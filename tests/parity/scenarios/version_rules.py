"""Rules that assign and redirect build ids: their changes, who gets which tasks, and what workflows tell of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.commands import activity, child, complete_workflow, continue_as_new
from tests.parity.scenarios import limited_scenario
from tests.parity.scenarios.version_sets import (
    add,
    describe_pending,
    none_for,
    take,
    taken,
    two_taken,
    work,
    worker,
)

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


def assign(build_id: str, percentage: float | None = None) -> dict[str, Any]:
    """An assignment rule."""
    ramp = {} if percentage is None else {"percentage_ramp": {"ramp_percentage": percentage}}
    return {"rule": {"target_build_id": build_id, **ramp}}


def insert(build_id: str, index: int = 0, percentage: float | None = None) -> dict[str, Any]:
    return {"insert_assignment_rule": {"rule_index": index, **assign(build_id, percentage)}}


def replace(build_id: str, index: int = 0, percentage: float | None = None, **more: Any) -> dict[str, Any]:
    return {"replace_assignment_rule": {"rule_index": index, **assign(build_id, percentage), **more}}


def delete(index: int = 0, **more: Any) -> dict[str, Any]:
    return {"delete_assignment_rule": {"rule_index": index, **more}}


def redirect(source: str, target: str, change: str = "add") -> dict[str, Any]:
    rule = {"source_build_id": source, "target_build_id": target}
    return {f"{change}_compatible_redirect_rule": {"rule": rule}}


def forget(source: str) -> dict[str, Any]:
    return {"delete_compatible_redirect_rule": {"source_build_id": source}}


def commit(build_id: str, **more: Any) -> dict[str, Any]:
    return {"commit_build_id": {"target_build_id": build_id, **more}}


async def change(p: Puppet, *changes: dict[str, Any]) -> None:
    """Try each on the rules as they are."""
    for fields in changes:
        token = (await p.call("GetWorkerVersioningRules", record=False, task_queue=p.task_queue)).conflict_token
        await p.attempt("UpdateWorkerVersioningRules", task_queue=p.task_queue, conflict_token=token, **fields)


@limited_scenario
async def assignment_rules(p: Puppet) -> None:
    await p.call("GetWorkerVersioningRules", task_queue=p.task_queue)
    await p.attempt("UpdateWorkerVersioningRules", task_queue=p.task_queue, **insert("1"))
    await change(
        p, insert("1", -1), insert("1", 0, -1), insert("1", 0, 101), insert("x" * 256), insert("1", 5, 30),
        insert("2"), insert("3", 1, 0), insert("4"), replace("2.1", 9), replace("2.1", -1), replace("2.1", 0, 101),
        replace("2.1", 0, 50), replace("2.1", 0, 50, force=True), delete(9), delete(1), delete(0), delete(0),
        delete(0, force=True), delete(0, force=True), commit("5"), commit("5", force=True), insert("6", 0, 10),
        commit("6", force=True), commit("x" * 256), insert(""), delete(0),
    )  # fmt: skip
    await p.call("GetWorkerVersioningRules", task_queue=p.task_queue)
    for queue in ("", "/_sys/a"):
        await p.attempt("GetWorkerVersioningRules", task_queue=queue)
        await p.attempt("UpdateWorkerVersioningRules", task_queue=queue, **insert("1"))


@limited_scenario
async def redirect_rules(p: Puppet) -> None:
    await change(
        p, redirect("1", ""), redirect("1", "2"), redirect("1", "3"), redirect("2", "1"), redirect("2", "3"),
        redirect("3", "4"), redirect("1", "9", "replace"), redirect("7", "9", "replace"), redirect("1", "", "replace"),
        insert("1", 0, 50), insert("8", 0, 50), redirect("8", "9"), forget("7"), forget("1"), redirect("1", "1"),
        redirect("x" * 256, "1"), redirect("", "4"),
    )  # fmt: skip
    await p.call("UpdateWorkerBuildIdCompatibility", task_queue=p.task_queue, **add("s"))
    await change(p, insert("s"), replace("s"), commit("s", force=True), redirect("s", "t"), redirect("t", "s"))
    await p.call("GetWorkerVersioningRules", task_queue=p.task_queue)


async def describe(p: Puppet, *build_ids: str) -> None:
    for build_id in build_ids:
        await p.call(
            "DescribeTaskQueue", task_queue={"name": p.task_queue}, api_mode="DESCRIBE_TASK_QUEUE_MODE_ENHANCED",
            versions={"build_ids": [build_id]}, report_task_reachability=True,
            task_queue_types=["TASK_QUEUE_TYPE_WORKFLOW"],
        )  # fmt: skip


@limited_scenario
async def assigned_and_redirected(p: Puppet) -> None:
    p.transitions_race()
    await change(p, insert("1"))
    await p.start()
    await p.together(none_for(p, "2"), none_for(p, "b", versioned=False))
    await p.describe()
    await work(p, "1", activity("a", p.task_queue, use_workflow_build_id=True), activity("b", p.task_queue))
    await asyncio.sleep(0.7)  # the real server writes down later what its queues decide
    await describe_pending(p)
    await change(p, redirect("1", "1.1"))
    await take(p, "1")
    for _ in range(2):
        # The two come in any order.
        fields = {**p.poll_fields(), "worker_version_capabilities": worker("1.1")}
        task = await p.call("PollActivityTaskQueue", record=False, **fields)
        if task.activity_id == "a":
            first = task
        else:
            second = task
    await describe_pending(p)
    for task in (first, second):
        await p.call(
            "RespondActivityTaskCompleted", task_token=task.task_token, identity="worker",
            worker_version=worker("1.1"),
        )  # fmt: skip
    await work(p, "1.1", complete_workflow())
    await p.history()
    await p.describe()


@limited_scenario
async def redirected_by_a_workflow_task(p: Puppet) -> None:
    p.transitions_race()
    await change(p, insert("1"))
    await p.start()
    await work(p, "1")
    await change(p, insert("2"), redirect("1", "1.1"))
    await p.signal("s")
    task = await take(p, "1.1")
    await p.attempt(
        "RespondWorkflowTaskCompleted", task_token=task.task_token, identity="worker",
        worker_version_stamp=worker("1"),
    )  # fmt: skip
    await p.fail_task(task, worker_version=worker("1.1"))
    await change(p, redirect("1.1", "1.2"))
    await work(p, "1.2")
    await p.history()
    await p.describe()


@limited_scenario
async def what_was_unversioned(p: Puppet) -> None:
    p.transitions_race()
    await p.start()
    await p.start(p.id("waits"))
    await p.step()
    await change(p, insert("1"), redirect("", "2"))
    await p.signal("s")
    await p.step(complete_workflow())
    await p.history()
    await work(p, "1", complete_workflow())
    await p.history(p.id("waits"))
    await p.describe(p.id("waits"))


@limited_scenario
async def children_by_rules(p: Puppet) -> None:
    p.transitions_race()
    await change(p, insert("1"))
    await p.start()
    await work(p, "1", child(p.id("kept"), p.task_queue, inherit_build_id=True))
    await p.has_event("child_workflow_execution_started")
    await change(p, insert("2"))
    tasks = await two_taken(p, "1")
    kept = tasks[p.id("kept")]
    await p.complete(kept, continue_as_new(p.task_queue, inherit_build_id=True), worker_version_stamp=worker("1"))
    await p.complete(tasks[p.workflow_id], child(p.id("new"), p.task_queue), worker_version_stamp=worker("1"))
    await work(p, "2", complete_workflow())
    await p.history(p.id("kept"), kept.workflow_execution.run_id)
    await p.describe(p.id("kept"))
    await p.history(p.id("new"))


@limited_scenario
async def after_a_reset(p: Puppet) -> None:
    p.transitions_race()
    await change(p, insert("1"))
    run_id = await p.start()
    await work(p, "1")
    await change(p, insert("2"), redirect("1", "1.1"))
    answer = await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(run_id=run_id), reason="r",
        workflow_task_finish_event_id=4, request_id=p.id("reset"),
    )  # fmt: skip
    # It has completed no task, so it is new work.
    await p.complete(await taken(p, "2"), complete_workflow(), worker_version_stamp=worker("2"))
    told = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution(run_id=answer.run_id))
    for event in told.history.events:
        # There a worker races with the note of where its task went: if it is first, that counts as a move.
        if event.HasField("workflow_task_started_event_attributes"):
            event.workflow_task_started_event_attributes.ClearField("build_id_redirect_counter")
        p.note("event", p.normalised(event))
    await p.describe(run_id=answer.run_id)


@limited_scenario
async def reachable_by_rules(p: Puppet) -> None:
    await p.start(p.id("old"))
    await p.step(complete_workflow())
    await p.listed(f"TaskQueue = '{p.task_queue}' AND BuildIds = 'unversioned'", count=1)
    await describe(p, "")
    await change(p, insert("1"))
    await p.start()
    await work(p, "1")
    await p.listed(f"TaskQueue = '{p.task_queue}' AND BuildIds = 'assigned:1'", count=1)
    await change(p, insert("2"))
    await describe(p, "", "1", "2", "9")
    await change(p, redirect("1", "3"))
    await describe(p, "1", "3")
    await p.call(
        "DescribeTaskQueue", task_queue={"name": p.task_queue}, api_mode="DESCRIBE_TASK_QUEUE_MODE_ENHANCED",
        report_pollers=True, task_queue_types=["TASK_QUEUE_TYPE_WORKFLOW"],
    )  # fmt: skip
