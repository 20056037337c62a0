"""Compatible sets of build ids: their changes, who gets which tasks, and what workflows tell of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.commands import activity, child, complete_workflow, continue_as_new, fail_workflow
from tests.parity.puppet import cases, payloads, seconds
from tests.parity.scenarios import limited_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


def add(build_id: str) -> dict[str, Any]:
    """A new default set."""
    return {"add_new_build_id_in_new_default_set": build_id}


def add_to(build_id: str, existing: str, **more: Any) -> dict[str, Any]:
    """Into the set of `existing`."""
    compatible = {"new_build_id": build_id, "existing_compatible_build_id": existing, **more}
    return {"add_new_compatible_build_id": compatible}


def merge(primary: str, secondary: str) -> dict[str, Any]:
    return {"merge_sets": {"primary_set_build_id": primary, "secondary_set_build_id": secondary}}


async def change(p: Puppet, *changes: dict[str, Any], queue: str = "") -> None:
    """Try each, and look at the sets after it."""
    for fields in changes:
        await p.attempt("UpdateWorkerBuildIdCompatibility", task_queue=queue or p.task_queue, **fields)
        await p.call("GetWorkerBuildIdCompatibility", task_queue=queue or p.task_queue)


@limited_scenario
async def every_change(p: Puppet) -> None:
    await change(
        p, add("1"), add("1"), add_to("1.1", "1"), add_to("1.1", "1"), add("1"), add("2"), add("1.1"),
        add_to("1", "1"), add_to("1.1", "1", make_set_default=True), add_to("2", "1"), add_to("3", "9"),
        {"promote_set_by_build_id": "1"}, {"promote_set_by_build_id": "1"}, {"promote_set_by_build_id": "9"},
        {"promote_build_id_within_set": "1"}, {"promote_build_id_within_set": "1"},
        {"promote_build_id_within_set": "9"},
        add_to("2.1", "2", make_set_default=True), add_to("2.2", "2"),
    )  # fmt: skip
    await p.call("GetWorkerBuildIdCompatibility", task_queue=p.task_queue, max_sets=1)
    await p.call("GetWorkerBuildIdCompatibility", task_queue=p.task_queue, max_sets=9)
    await change(p, merge("2", "9"), merge("9", "2"), merge("1", "1.1"), merge("1.1", "2"))


@limited_scenario
async def limits_of_sets(p: Puppet) -> None:
    await change(p, add("a"), add("b"), add("c"), add("d"), add_to("a1", "a"), add_to("a2", "a"), merge("a", "b"))
    build_id = p.id("everywhere")
    for number in range(20):
        await p.call("UpdateWorkerBuildIdCompatibility", task_queue=p.id(f"{number}"), **add(build_id))
    await change(p, add(build_id), add("d"), queue=p.id("one-more"))


@limited_scenario
async def bad_changes(p: Puppet) -> None:
    p.transitions_race()
    long = "x" * 256
    await change(
        p, {}, add(""), add(long), add_to("", ""), add_to("a", ""), add_to(long, "a"), add_to("a", long),
        {"promote_set_by_build_id": ""}, {"promote_set_by_build_id": long},
        {"promote_build_id_within_set": ""}, {"promote_build_id_within_set": long},
        merge("", ""), merge("a", ""), merge(long, long),
    )  # fmt: skip
    for queue in ("", "/_sys/a", "x" * 201):
        await p.attempt("UpdateWorkerBuildIdCompatibility", task_queue=queue, **add("a"))
        await p.attempt("GetWorkerBuildIdCompatibility", task_queue=queue)
    await p.call("GetWorkerBuildIdCompatibility", task_queue=p.id("other"))


def worker(build_id: str, *, versioned: bool = True) -> dict[str, Any]:
    """What a poll says of its build."""
    return {"build_id": build_id, "use_versioning": versioned}


async def take(p: Puppet, build_id: str, *, versioned: bool = True, sticky: str = "", kind: str = "Workflow") -> Any:
    """Poll a task as a worker of that build."""
    fields = p.poll_fields(sticky or None, sticky=bool(sticky))
    return await p.attempt(
        f"Poll{kind}TaskQueue", worker_version_capabilities=worker(build_id, versioned=versioned), **fields
    )


async def taken(p: Puppet, build_id: str) -> Any:
    """A workflow task polled as a worker of that build, and not written down."""
    fields = {**p.poll_fields(), "worker_version_capabilities": worker(build_id)}
    return await p.call("PollWorkflowTaskQueue", record=False, **fields)


async def two_taken(p: Puppet, build_id: str) -> dict[str, Any]:
    """By workflow id: a parent's and a child's come in any order."""
    tasks = [await taken(p, build_id) for _ in range(2)]
    return {task.workflow_execution.workflow_id: task for task in tasks}


async def none_for(p: Puppet, build_id: str, *, versioned: bool = True, kind: str = "Workflow") -> None:
    """A worker of that build finds nothing."""
    pending = p.begin(
        f"Poll{kind}TaskQueue", deadline=3.5, worker_version_capabilities=worker(build_id, versioned=versioned),
        **p.poll_fields(),
    )  # fmt: skip
    await pending.answer()


async def work(p: Puppet, build_id: str, *commands: dict[str, Any], **fields: Any) -> Any:
    """Take a workflow task as a worker of that build, and complete it."""
    task = await take(p, build_id)
    await p.complete(task, *commands, worker_version_stamp=worker(build_id), **fields)
    return task


async def describe_pending(p: Puppet) -> None:
    """A description, with its pending activities in order: the real server's come in any."""
    answer = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
    shown = p.normalised(answer)
    shown["pending_activities"].sort(key=lambda activity: activity["activity_id"])
    p.transcript.add("DescribeWorkflowExecution", shown)


async def reachability(p: Puppet, *build_ids: str, kind: str = "UNSPECIFIED", queue: str = "") -> None:
    for build_id in build_ids:
        await p.call(
            "GetWorkerTaskReachability", build_ids=[build_id], task_queues=[queue or p.task_queue],
            reachability=f"TASK_REACHABILITY_{kind}",
        )  # fmt: skip


@limited_scenario
async def only_the_default_gets_new_work(p: Puppet) -> None:
    p.transitions_race()
    await change(p, add("1"), add("2"), add_to("2.1", "2"))
    await p.start()
    await take(p, "2")
    await p.together(none_for(p, "1"), none_for(p, "9"), none_for(p, "b", versioned=False))
    await work(p, "2.1", activity("a", p.task_queue, use_workflow_build_id=True), activity("b", p.task_queue))
    await describe_pending(p)
    await change(p, add("3"))
    first = await take(p, "2.1", kind="Activity")
    second = await take(p, "3", kind="Activity")
    for task, build_id in ((first, "2.1"), (second, "3")):
        await p.call(
            "RespondActivityTaskCompleted", task_token=task.task_token, identity="worker",
            worker_version=worker(build_id),
        )  # fmt: skip
    await none_for(p, "3")
    await work(p, "2.1", complete_workflow())
    await p.history()
    await p.describe()


@limited_scenario
async def what_waits(p: Puppet) -> None:
    await change(p, add("1"))
    await p.start()
    await p.start(p.id("other"))
    await asyncio.sleep(0.3)
    queue = {"name": p.task_queue}
    for fields in cases(
        {"report_stats": True, "task_queue_type": "TASK_QUEUE_TYPE_WORKFLOW"},
        {"api_mode": "DESCRIBE_TASK_QUEUE_MODE_ENHANCED", "report_stats": True},
        {"api_mode": "DESCRIBE_TASK_QUEUE_MODE_ENHANCED", "report_stats": True, "versions": {"build_ids": ["1"]}},
    ):
        described = await p.call("DescribeTaskQueue", record=False, task_queue=queue, **fields)
        counts = [described.stats.approximate_backlog_count]
        for info in described.versions_info.values():
            counts += [info.types_info[1].stats.approximate_backlog_count]
        p.note("waiting", counts)


@limited_scenario
async def compatible_builds_go_on(p: Puppet) -> None:
    p.transitions_race()
    await change(p, add("1"))
    await p.start()
    sticky = {"sticky_attributes": {
        "worker_task_queue": {"name": p.id("sticky"), "kind": "TASK_QUEUE_KIND_STICKY", "normal_name": p.task_queue},
    }}  # fmt: skip
    await work(p, "1", **sticky)
    polled = p.begin(
        "PollWorkflowTaskQueue", worker_version_capabilities=worker("1"),
        **p.poll_fields(p.id("sticky"), sticky=True),
    )  # fmt: skip
    await asyncio.sleep(0.2)
    await p.signal("s")
    await p.complete(await polled.answer(), worker_version_stamp=worker("1"), **sticky)
    await change(p, add_to("1.1", "1"))
    await p.signal("s")
    await take(p, "1", sticky=p.id("sticky"))
    await take(p, "1")
    task = await take(p, "1.1")
    await p.attempt("RespondWorkflowTaskCompleted", task_token=task.task_token, identity="worker")
    await p.complete(task, worker_version_stamp=worker("1.1"))
    await p.history()
    await p.describe()
    await p.listed(f"BuildIds = 'versioned:1.1' AND TaskQueue = '{p.task_queue}'", count=1)


@limited_scenario
async def who_was_unversioned_stays_so(p: Puppet) -> None:
    p.transitions_race()
    await p.start()
    await p.start(p.id("waits"))
    task = await p.workflow_task()
    await p.complete(task, activity("a", p.task_queue, use_workflow_build_id=True))
    await change(p, add("1"))
    await p.activity_task()
    await p.signal("s")
    await p.step(complete_workflow())
    await p.history()
    # What no worker has seen yet is new work.
    await work(p, "1", complete_workflow())
    await p.history(p.id("waits"))


@limited_scenario
async def children(p: Puppet) -> None:
    p.transitions_race()
    await change(p, add("1"))
    await p.start()
    await work(p, "1", child(p.id("kept"), p.task_queue, inherit_build_id=True))
    await p.has_event("child_workflow_execution_started")
    await change(p, add("2"))
    tasks = await two_taken(p, "1")
    await p.complete(tasks[p.workflow_id], child(p.id("new"), p.task_queue), worker_version_stamp=worker("1"))
    await p.complete(tasks[p.id("kept")], complete_workflow(), worker_version_stamp=worker("1"))
    await work(p, "2", complete_workflow())
    await p.has_event("child_workflow_execution_completed", count=2)
    for name in ("kept", "new"):
        await p.history(p.id(name))
        await p.describe(p.id(name))


@limited_scenario
async def the_next_run(p: Puppet) -> None:
    p.transitions_race()
    for inherit in cases({"inherit_build_id": True}, {}):
        p.task_queue = p.id(f"queue-{len(inherit)}")
        await change(p, add("1"))
        await p.start(p.id(f"run-{len(inherit)}"))
        task = await take(p, "1")
        await change(p, add("2"))
        await p.complete(task, continue_as_new(p.task_queue, **inherit), worker_version_stamp=worker("1"))
        await work(p, "1" if inherit else "2", complete_workflow())
        await p.history(p.id(f"run-{len(inherit)}"))
        await p.describe(p.id(f"run-{len(inherit)}"))


@limited_scenario
async def queries_retries_and_resets(p: Puppet) -> None:
    p.transitions_race()
    await change(p, add("1"))
    run_id = await p.start(retry_policy={"maximum_attempts": 2, "initial_interval": seconds(0.01)})
    await work(p, "1")
    await change(p, add("2"))
    asked = p.begin("QueryWorkflow", execution=p.execution(), query={"query_type": "q"})
    task = await take(p, "1")
    await p.call(
        "RespondQueryTaskCompleted", task_token=task.task_token, completed_type="QUERY_RESULT_TYPE_ANSWERED",
        query_result=payloads("here"),
    )  # fmt: skip
    await asked.answer()
    answer = await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(run_id=run_id), reason="r",
        workflow_task_finish_event_id=4, request_id=p.id("reset"),
    )  # fmt: skip
    await work(p, "2", fail_workflow())
    await p.history(run_id=answer.run_id)
    await work(p, "2", complete_workflow())
    await p.history()
    await p.describe()


@limited_scenario
async def how_reachable(p: Puppet) -> None:
    await p.start(p.id("old"))
    await p.step(complete_workflow())
    await asyncio.sleep(0.5)
    await reachability(p, "")
    await change(p, add("1"), add("2"), add_to("2.1", "2"))
    for kind in ("UNSPECIFIED", "NEW_WORKFLOWS", "EXISTING_WORKFLOWS", "OPEN_WORKFLOWS", "CLOSED_WORKFLOWS"):
        await reachability(p, "", "1", "2", "2.1", "9", kind=kind)
    await p.start()
    await p.listed(f"WorkflowId = '{p.workflow_id}'", count=1)
    await reachability(p, "2.1", kind="OPEN_WORKFLOWS")
    await work(p, "2.1")
    await p.listed(f"BuildIds = 'versioned:2.1' AND TaskQueue = '{p.task_queue}'", count=1)
    await reachability(p, "2.1", kind="OPEN_WORKFLOWS")
    await reachability(p, "2.1", kind="CLOSED_WORKFLOWS")
    wide = p.id("wide")
    await change(p, add(wide), queue=p.id("second"))
    await change(p, add(wide), queue=p.id("other"))
    await p.call("GetWorkerTaskReachability", build_ids=[wide, p.id("nowhere")])
    for fields in cases(
        {}, {"build_ids": [""]}, {"build_ids": ["1", "2", "3", "4", "5", "6"]}, {"build_ids": ["x" * 256]},
        {"build_ids": ["1"], "task_queues": [""]}, {"build_ids": ["1"], "task_queues": ["/_sys/a"]},
        {"build_ids": ["1"], "task_queues": [p.task_queue], "reachability": 9},
    ):  # fmt: skip
        await p.attempt("GetWorkerTaskReachability", **fields)
