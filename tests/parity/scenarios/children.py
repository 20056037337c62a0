"""Child workflows, as parent and child see them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.parity.commands import (
    cancel_external,
    cancel_workflow,
    child,
    complete_workflow,
    continue_as_new,
    fail_workflow,
)
from tests.parity.puppet import Refused, attribute, payload, payloads, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

CLOSE = "PARENT_CLOSE_POLICY_"


async def _with_child(p: Puppet, **attributes: Any) -> tuple[str, Any]:
    """A parent that has a started child; the child's id, and its first task. Their tasks come from two queues."""
    kid, queue = p.id("child"), p.id("child-queue")
    await p.start()
    await p.step(child(kid, queue, **attributes))
    task = await p.workflow_task(queue)
    await p.has_event("child_workflow_execution_started")
    return kid, task


@scenario
async def completes(p: Puppet) -> None:
    kid, task = await _with_child(
        p,
        input=payloads("in"),
        memo={"fields": {"m": payload("m")}},
        header={"fields": {"h": payload("h")}},
        control="c",
        workflow_run_timeout=seconds(50),
        workflow_task_timeout=seconds(5),
        search_attributes={"indexed_fields": {"ParityKeyword": attribute('"k"')}},
    )
    await p.describe()
    await p.describe(kid)
    await p.step()
    await p.complete(task, complete_workflow("out"))
    await p.step(complete_workflow())
    await p.history(kid)
    await p.history()


@scenario
async def fails(p: Puppet) -> None:
    kid, task = await _with_child(p)
    await p.step()
    await p.complete(task, fail_workflow())
    await p.step(complete_workflow())
    await p.history(kid)
    await p.history()


@scenario
async def is_terminated(p: Puppet) -> None:
    kid, _ = await _with_child(p)
    await p.step()
    await p.terminate(kid, reason="why")
    await p.step(complete_workflow())
    await p.history()


@slow_scenario
async def times_out(p: Puppet) -> None:
    await _with_child(p, workflow_run_timeout=seconds(1))
    await p.step()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def continues_as_new(p: Puppet) -> None:
    kid, task = await _with_child(p)
    await p.step()
    queue = p.id("child-queue")
    await p.complete(task, continue_as_new(queue, workflow_type={"name": "Leg"}))
    await p.complete(await p.workflow_task(queue), complete_workflow("from the second run"))
    await p.step(complete_workflow())
    await p.history(kid)
    await p.history()


@slow_scenario
async def is_retried(p: Puppet) -> None:
    kid, task = await _with_child(p, retry_policy={"initial_interval": seconds(1), "maximum_attempts": 2})
    await p.step()
    await p.complete(task, fail_workflow("one"))
    await p.complete(await p.workflow_task(p.id("child-queue")), fail_workflow("two"))
    await p.step(complete_workflow())
    await p.history(kid)
    await p.history()


@scenario
async def start_fails_as_the_id_is_taken(p: Puppet) -> None:
    await p.start(p.id("child"), task_queue={"name": p.id("nobody")})
    await p.start()
    await p.step(child(p.id("child"), p.task_queue))
    await p.has_event("start_child_workflow_execution_failed")
    await p.step(complete_workflow())
    await p.history()
    await p.terminate(p.id("child"))


TERMINATE_IF_RUNNING = {"workflow_id_reuse_policy": "WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING"}


@scenario
async def takes_the_place_of_a_running_workflow(p: Puppet) -> None:
    old = await p.start(p.id("child"), task_queue={"name": p.id("nobody")})
    await p.start()
    await p.step(child(p.id("child"), p.id("child-queue"), **TERMINATE_IF_RUNNING))
    await p.has_event("child_workflow_execution_started")
    await p.history(p.id("child"), old)
    await p.complete(await p.workflow_task(p.id("child-queue")), complete_workflow("out"))
    await p.has_event("child_workflow_execution_completed")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def takes_the_place_of_another_child(p: Puppet) -> None:
    """The first one's parent hears that it was terminated."""
    await p.start()
    await p.step(child(p.id("child"), p.id("nobody")))
    await p.has_event("child_workflow_execution_started")
    await p.step(child(p.id("child"), p.id("child-queue"), **TERMINATE_IF_RUNNING))
    await p.has_event("child_workflow_execution_started", count=2)
    await p.has_event("child_workflow_execution_terminated")
    await p.complete(await p.workflow_task(p.id("child-queue")), complete_workflow("out"))
    await p.has_event("child_workflow_execution_completed")
    history = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution())
    p.note(
        "events", sorted(event.WhichOneof("attributes") for event in history.history.events if "child" in str(event))
    )


@scenario
async def starts_where_a_workflow_ran(p: Puppet) -> None:
    """TERMINATE_IF_RUNNING allows duplicates of what has ended."""
    await p.start(p.id("child"))
    await p.step(complete_workflow())
    await p.start()
    await p.step(child(p.id("child"), p.id("child-queue"), **TERMINATE_IF_RUNNING))
    await p.has_event("child_workflow_execution_started")
    await p.has_event("workflow_task_scheduled", count=2)
    await p.history()


@scenario
async def start_fails_by_reuse_policy(p: Puppet) -> None:
    await p.start(p.id("child"))
    await p.step(complete_workflow())
    await p.start()
    await p.step(
        child(p.id("child"), p.task_queue, workflow_id_reuse_policy="WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE")
    )
    await p.has_event("start_child_workflow_execution_failed")
    await p.step(complete_workflow())
    await p.history()


async def _parent_closes(p: Puppet, policy: str) -> str:
    kid, task = await _with_child(p, parent_close_policy=CLOSE + policy)
    await p.complete(task)
    await p.step(complete_workflow())
    await p.history()
    return kid


@scenario
async def parent_close_terminates(p: Puppet) -> None:
    kid = await _parent_closes(p, "TERMINATE")
    await p.has_event("workflow_execution_terminated", kid)
    await p.history(kid)


@scenario
async def parent_close_requests_cancel(p: Puppet) -> None:
    kid = await _parent_closes(p, "REQUEST_CANCEL")
    await p.has_event("workflow_execution_cancel_requested", kid)
    await p.history(kid)
    await p.terminate(kid)


@scenario
async def parent_close_abandons(p: Puppet) -> None:
    kid = await _parent_closes(p, "ABANDON")
    await p.describe(kid)
    await p.history(kid)
    await p.terminate(kid)


@scenario
async def parent_is_terminated(p: Puppet) -> None:
    kid, _ = await _with_child(p)
    await p.terminate(reason="stop")
    await p.has_event("workflow_execution_terminated", kid)
    await p.history(kid)
    await p.history()


@scenario
async def abandoned_child_started_and_closed_at_once(p: Puppet) -> None:
    kid, queue = p.id("child"), p.id("child-queue")
    await p.start()
    await p.step(child(kid, queue, parent_close_policy=CLOSE + "ABANDON"), complete_workflow())
    await p.history()
    for _ in range(30):
        await asyncio.sleep(0.1)
        try:
            await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(kid))
        except Refused as refusal:
            last = refusal.code
        else:
            last = "started"
            break
    p.note("child", last)


@scenario
async def cancelled_by_parent(p: Puppet) -> None:
    kid, task = await _with_child(p)
    await p.step(cancel_external(kid, child_workflow_only=True, reason="why"))
    await p.has_event("external_workflow_execution_cancel_requested")
    await p.complete(task)
    await p.step()
    await p.complete(await p.workflow_task(p.id("child-queue")), cancel_workflow("d"))
    await p.step(complete_workflow())
    await p.history(kid)
    await p.history()


@scenario
async def bad_children(p: Puppet) -> None:
    queue = p.task_queue
    for bad in (
        child("", queue),
        child("x" * 1001, queue),
        child(p.id("c"), queue, namespace="nowhere"),
        child(p.id("c"), "x" * 1001),
        child(p.id("c"), queue, workflow_run_timeout=seconds(-1)),
        child(p.id("c"), queue, workflow_task_timeout=seconds(-1)),
        child(p.id("c"), queue, workflow_execution_timeout=seconds(-1)),
        child(p.id("c"), queue, cron_schedule="now and then"),
        child(p.id("c"), queue, retry_policy={"maximum_attempts": -1}),
        child(p.id("c"), queue, search_attributes={"indexed_fields": {"NoSuchAttribute": attribute("1")}}),
    ):
        await p.start()
        await p.bad_step(bad)
        await p.history()
        await p.terminate()


@scenario
async def same_child_twice(p: Puppet) -> None:
    queue = p.id("child-queue")
    await p.start()
    await p.step(child(p.id("c"), queue))
    await p.has_event("child_workflow_execution_started")
    await p.step(child(p.id("c"), queue))
    await p.has_event("start_child_workflow_execution_failed")
    await p.history()
    await p.terminate()
