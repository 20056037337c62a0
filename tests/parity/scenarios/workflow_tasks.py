"""Workflow tasks: failure, time-out, attempts, buffered events, sticky queues, heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import WorkflowTaskFailedCause

from tests.parity.commands import (
    activity,
    cancel_activity,
    cancel_external,
    cancel_timer,
    child,
    complete_workflow,
    continue_as_new,
    marker,
    signal_external,
    timer,
    upsert_memo,
)  # fmt: skip
from tests.parity.puppet import Refused, payload, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


@scenario
async def failed_once(p: Puppet) -> None:
    await p.start()
    await p.fail_task(await p.workflow_task())
    await p.history()
    await p.describe()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def failed_twice_is_transient(p: Puppet) -> None:
    await p.start()
    for message in ("one", "two"):
        await p.fail_task(await p.workflow_task(), message)
    await p.history()
    await p.describe()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def fail_with_every_field(p: Puppet) -> None:
    await p.start()
    await p.fail_task(
        await p.workflow_task(),
        cause="NON_DETERMINISTIC_ERROR",
        binary_checksum="sum",
        worker_version={"build_id": "b", "use_versioning": False},
    )
    await p.history()
    await p.terminate()


@scenario
async def failed_for_each_cause(p: Puppet) -> None:
    """Also with something buffered, since one cause ends the run."""
    for cause in WorkflowTaskFailedCause.keys():  # noqa: SIM118 - an enum's wrapper is no mapping
        name = p.id(cause.lower().replace("_", "-"))
        await p.start(name, task_queue={"name": name})
        task = await p.workflow_task(name)
        await p.signal("meanwhile", workflow_id=name)
        try:
            await p.fail_task(task, cause=cause.removeprefix("WORKFLOW_TASK_FAILED_CAUSE_"))
        except Refused:
            p.note("refused", cause)
        await p.history(name)
        await p.attempt("TerminateWorkflowExecution", workflow_execution=p.execution(name), identity="client")


@slow_scenario
async def timed_out(p: Puppet) -> None:
    await p.start(workflow_task_timeout=seconds(1))
    old = await p.workflow_task()
    await p.has_event("workflow_task_timed_out")
    await p.refused("RespondWorkflowTaskCompleted", task_token=old.task_token, commands=[complete_workflow()])
    await p.step(complete_workflow())
    await p.history()


@scenario
async def token_of_a_finished_task(p: Puppet) -> None:
    await p.start()
    task = await p.step(timer())
    await p.refused("RespondWorkflowTaskCompleted", task_token=task.task_token)
    await p.refused("RespondWorkflowTaskFailed", task_token=task.task_token)
    await p.terminate()
    await p.refused("RespondWorkflowTaskCompleted", task_token=task.task_token)


@scenario
async def bad_tokens(p: Puppet) -> None:
    for rpc in (
        "RespondWorkflowTaskCompleted",
        "RespondWorkflowTaskFailed",
        "RespondActivityTaskCompleted",
        "RespondActivityTaskFailed",
        "RespondActivityTaskCanceled",
        "RecordActivityTaskHeartbeat",
        "RespondQueryTaskCompleted",
    ):
        await p.refused(rpc)
        await p.refused(rpc, task_token=b"\xff\xff nonsense")


@scenario
async def signal_during_task_is_buffered(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await p.signal("s", "1")
    await p.history()
    await p.complete(task, timer(), marker())
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def buffered_events_flush_in_order(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue), activity("b", p.task_queue))
    first, second = await p.activity_task(record=False), await p.activity_task(record=False)
    if first.activity_id != "a":
        first, second = second, first
    await p.signal("wake")
    task = await p.workflow_task()
    await p.complete_activity(second, "b")
    await p.signal("s1")
    await p.fail_activity(first, "a", non_retryable=True)
    await p.cancel()
    await p.signal("s2")
    await p.complete(task, timer())
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def unhandled_event_refuses_close(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await p.signal("s")
    await p.refused("RespondWorkflowTaskCompleted", task_token=task.task_token, commands=[complete_workflow()])
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def unhandled_event_refuses_continue_as_new(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await p.signal("s")
    await p.refused(
        "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=[continue_as_new(p.task_queue)]
    )
    await p.history()
    await p.terminate()


@scenario
async def failure_flushes_buffered(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await p.signal("s")
    await p.fail_task(task)
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def signal_during_transient_attempt(p: Puppet) -> None:
    await p.start()
    await p.fail_task(await p.workflow_task())
    task = await p.workflow_task()
    await p.signal("s")
    await p.complete(task, timer())
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def signal_before_transient_attempt_is_polled(p: Puppet) -> None:
    await p.start()
    await p.fail_task(await p.workflow_task())
    await p.signal("s")
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def heartbeat_with_forced_new_task(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    answer = await p.complete(task, force_create_new_workflow_task=True, return_new_workflow_task=True)
    await p.complete(answer.workflow_task, complete_workflow())
    await p.history()


@scenario
async def forced_new_task_through_the_queue(p: Puppet) -> None:
    await p.start()
    await p.step(force_create_new_workflow_task=True)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def return_new_task_after_buffered_signal(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await p.signal("s")
    answer = await p.complete(task, return_new_workflow_task=True)
    await p.complete(answer.workflow_task, complete_workflow())
    await p.history()


@scenario
async def sticky_task_carries_the_rest_only(p: Puppet) -> None:
    sticky = p.id("sticky")
    await p.start()
    poll = p.begin("PollWorkflowTaskQueue", **p.poll_fields(sticky, sticky=True))
    await p.step(timer(), sticky_attributes=_sticky(sticky, 60))
    await p.describe()
    await p.signal("s")
    task = await poll.answer()
    await p.complete(task, complete_workflow())
    await p.history()


@slow_scenario
async def sticky_task_falls_back(p: Puppet) -> None:
    sticky = p.id("sticky")
    await p.start()
    poll = p.begin("PollWorkflowTaskQueue", **p.poll_fields(sticky, sticky=True), record=False, deadline=1)
    await p.step(timer(), sticky_attributes=_sticky(sticky, 1))
    await poll.abandon()
    await p.signal("s")
    await p.has_event("workflow_task_timed_out")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def reset_sticky_task_queue(p: Puppet) -> None:
    sticky = p.id("sticky")
    await p.start()
    await p.step(timer(), sticky_attributes=_sticky(sticky, 60))
    await p.call("ResetStickyTaskQueue", execution=p.execution())
    await p.signal("s")
    await p.step(complete_workflow())
    await p.history()
    await p.attempt("ResetStickyTaskQueue", execution=p.execution())
    await p.refused("ResetStickyTaskQueue", execution=p.execution("nobody"))


def _sticky(queue: str, timeout: float) -> dict[str, object]:
    return {
        "worker_task_queue": {"name": queue, "kind": "TASK_QUEUE_KIND_STICKY"},
        "schedule_to_start_timeout": seconds(timeout),
    }


@scenario
async def sdk_metadata_and_metering(p: Puppet) -> None:
    await p.start()
    await p.step(
        complete_workflow(),
        sdk_metadata={"core_used_flags": [1, 2], "lang_used_flags": [3], "sdk_name": "puppet", "sdk_version": "1"},
        metering_metadata={"nonfirst_local_activity_execution_attempts": 2},
        binary_checksum="sum",
        worker_version_stamp={"build_id": "b"},
    )
    await p.history()


@scenario
async def commands_carry_user_metadata(p: Puppet) -> None:
    await p.start()
    await p.step({**timer(), "user_metadata": {"summary": payload("why")}})
    await p.history()
    await p.terminate()


@scenario
async def commands_carry_event_groups(p: Puppet) -> None:
    """Each event has the markers of its command."""
    label = {"label": {"id": "g", "label": payload("group")}}
    groups = [label, {"inbound_event": {"inbound_event_id": 1}}, {"inbound_update": {"inbound_update_id": "u"}}]
    await p.start()
    commands = (
        timer("1"),
        timer("2"),
        cancel_timer("2"),
        activity("a", p.task_queue),
        cancel_activity(8),
        marker(),
        upsert_memo(k="v"),
        child(p.id("child"), p.id("elsewhere")),
        signal_external(p.id("nobody")),
        cancel_external(p.id("nobody")),
    )
    given = [{**each, "event_group_markers": groups[: number % 4]} for number, each in enumerate(commands, 1)]
    await p.step(*given)
    for kind in ("timer_started", "timer_canceled", "activity_task_scheduled", "activity_task_cancel_requested",
                 "marker_recorded", "workflow_properties_modified", "start_child_workflow_execution_initiated",
                 "signal_external_workflow_execution_initiated",
                 "request_cancel_external_workflow_execution_initiated"):  # fmt: skip
        await _markers(p, kind)
    await p.terminate()


@scenario
async def a_closing_command_carries_event_groups(p: Puppet) -> None:
    await p.start()
    await p.step({**complete_workflow(), "event_group_markers": [{"inbound_event": {"inbound_event_id": 1}}]})
    await p.history()


async def _markers(p: Puppet, kind: str) -> None:
    """Note the event groups of all events of the type."""
    events = (await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution())).history.events
    found = [event for event in events if event.WhichOneof("attributes") == f"{kind}_event_attributes"]
    p.note(kind, [[p.normalised(each) for each in event.event_group_markers] for event in found])


@scenario
async def commands_in_one_completion(p: Puppet) -> None:
    await p.start()
    await p.step(timer("1"), timer("2"), cancel_timer("1"), marker(), complete_workflow())
    await p.history()


@scenario
async def no_commands_leave_it_open(p: Puppet) -> None:
    await p.start()
    await p.step()
    await p.history()
    await p.describe()
    await p.terminate()


@scenario
async def close_must_come_last(p: Puppet) -> None:
    await p.start()
    await p.bad_step(complete_workflow(), timer())
    await p.history()
    await p.terminate()


@scenario
async def poll_ends_empty(p: Puppet) -> None:
    # The server leaves a poll a little before the caller's deadline; that is answered without a task.
    for rpc in ("PollWorkflowTaskQueue", "PollActivityTaskQueue"):
        await p.attempt(rpc, deadline=1.5, **p.poll_fields())


@scenario
async def bad_polls(p: Puppet) -> None:
    for rpc in ("PollWorkflowTaskQueue", "PollActivityTaskQueue"):
        await p.refused(rpc)
        await p.refused(rpc, task_queue={"name": "x" * 1001})
        await p.refused(rpc, task_queue={"name": p.task_queue}, identity="x" * 1001)
        await p.refused(rpc, task_queue={"name": p.task_queue}, namespace="nowhere")
        await p.refused(rpc, task_queue={"name": p.task_queue}, namespace="")


@scenario
async def tasks_wait_in_the_backlog(p: Puppet) -> None:
    for name in "abc":
        await p.start(p.id(name))
    found = []
    for _ in "abc":
        task = await p.workflow_task(record=False)
        found.append(task.workflow_execution.workflow_id)
        await p.complete(task, complete_workflow())
    # The real server spreads a queue over partitions, so the order is not its promise.
    p.note("workflows", sorted(found))
