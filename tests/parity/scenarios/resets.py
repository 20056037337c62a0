"""Resets of runs that wait for something: what was pending at that point, and what came of it before the reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as Any_
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.update.v1 import message_pb2 as update_pb

from tests.parity import commands
from tests.parity.commands import complete_workflow
from tests.parity.puppet import payload
from tests.parity.scenarios import nexus, scenario

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.parity.puppet import Puppet


async def _reset(p: Puppet, finish_event_id: int, run_id: str = "", **fields: Any) -> str:
    answer = await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(run_id=run_id), reason="why", request_id=p.id("reset"),
        workflow_task_finish_event_id=finish_event_id, **fields,
    )  # fmt: skip
    return str(answer.run_id)


def _child(p: Puppet, **attributes: Any) -> dict[str, Any]:
    return commands.child(p.id("child"), p.id("child-queue"), **attributes)


async def _with_child(p: Puppet, **attributes: Any) -> int:
    """A run whose child is under way, and which has completed the task that told it so; the event that did."""
    await p.start()
    await p.step(_child(p, **attributes))
    await p.has_event("child_workflow_execution_started")
    task = await p.step()
    return int(task.started_event_id) + 1


async def _child_ends(p: Puppet) -> None:
    await p.complete(await p.workflow_task(p.id("child-queue")), complete_workflow("child"))


@scenario
async def child_is_under_way(p: Puppet) -> None:
    point = await _with_child(p)
    await _reset(p, point)
    await p.history()
    await p.step()
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def child_has_ended(p: Puppet) -> None:
    point = await _with_child(p)
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await p.step()
    await _reset(p, point)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def child_ends_after_its_parent_and_the_reset(p: Puppet) -> None:
    point = await _with_child(p, parent_close_policy="PARENT_CLOSE_POLICY_ABANDON")
    await p.signal("go")
    await p.step(complete_workflow())
    await _reset(p, point)
    await p.step()
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await p.history()
    await p.terminate()


@scenario
async def child_of_the_shared_history_and_the_close_policy(p: Puppet) -> None:
    point = await _with_child(p)
    await _reset(p, point)
    await p.step(complete_workflow())
    await p.closed()
    await p.arrived()
    await p.arrived()
    await p.describe(p.id("child"))
    await p.terminate(p.id("child"))


@scenario
async def child_is_started_again(p: Puppet) -> None:
    point = await _with_child(p)
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await _reset(p, 4)
    await p.step(_child(p))
    await p.has_event("child_workflow_execution_started")
    await p.history()
    await _child_ends(p)
    await p.has_event("child_workflow_execution_completed")
    await p.step(complete_workflow())
    await p.history()
    p.note("point", point)


@scenario
async def child_that_still_runs_is_started_again(p: Puppet) -> None:
    await _with_child(p)
    await _reset(p, 4)
    await p.step(_child(p))
    await p.has_event("start_child_workflow_execution_failed")
    await p.history()
    await p.terminate()
    await p.terminate(p.id("child"))


# ---- signals, updates, operations ------------------------------------------------------------------------------------


@scenario
async def signals_along_a_chain(p: Puppet) -> None:
    run = await p.start()
    await p.signal("before", request_id=p.id("one"))
    await p.step()
    await p.signal("after", request_id=p.id("two"))
    await p.step(commands.continue_as_new(p.task_queue))
    await p.signal("continued", request_id=p.id("three"))
    await p.step()
    await _reset(p, 5, run)
    await p.history()
    await p.step(complete_workflow())


@scenario
async def update_had_been_completed(p: Puppet) -> None:
    await p.start()
    await p.step()
    update = p.begin("UpdateWorkflowExecution", **p.update_fields("u", "id"))
    await _answer_update(p)
    await update.answer()
    await p.signal("go")
    await p.step()
    await _reset(p, 4)
    await p.history()
    await p.terminate()


@scenario
async def update_had_been_completed_before_that_point(p: Puppet) -> None:
    await p.start()
    await p.step()
    update = p.begin("UpdateWorkflowExecution", **p.update_fields("u", "id"))
    await _answer_update(p)
    await update.answer()
    await p.signal("go")
    task = await p.step()
    await _reset(p, task.started_event_id + 1)
    await p.history()
    await p.call("UpdateWorkflowExecution", **p.update_fields("u", "id"))
    await p.step(complete_workflow())


async def _with_reapplied_update(p: Puppet) -> Any:
    """A reset to before an update that had completed; the new run's first task, which has it as an event."""
    await p.start()
    await p.step()
    update = p.begin("UpdateWorkflowExecution", **p.update_fields("u", "id"))
    await _answer_update(p)
    await update.answer()
    await _reset(p, 4)
    return await p.workflow_task()


def _body(message: Message) -> Any_:
    body = Any_()
    body.Pack(message)
    return body


@scenario
async def update_that_is_reapplied_is_accepted_again(p: Puppet) -> None:
    task = await _with_reapplied_update(p)
    admitted = task.history.events[-3]
    asked = admitted.workflow_execution_update_admitted_event_attributes.request
    accepted = update_pb.Acceptance(
        accepted_request_message_id="id/request", accepted_request_sequencing_event_id=admitted.event_id,
        accepted_request=asked,
    )  # fmt: skip
    answered = update_pb.Response(meta=asked.meta, outcome=update_pb.Outcome(success=common_pb.Payloads()))
    await p.complete(
        task,
        commands.protocol_message("accept"),
        commands.protocol_message("answer"),
        messages=[
            {"id": "accept", "protocol_instance_id": "id", "body": _body(accepted)},
            {"id": "answer", "protocol_instance_id": "id", "body": _body(answered)},
        ],
    )
    await p.history()
    await p.call("UpdateWorkflowExecution", **p.update_fields("u", "id"))
    await p.terminate()


@scenario
async def update_that_is_reapplied_is_rejected(p: Puppet) -> None:
    task = await _with_reapplied_update(p)
    asked = task.history.events[-3].workflow_execution_update_admitted_event_attributes.request
    rejected = update_pb.Rejection(
        rejected_request_message_id="id/request", rejected_request_sequencing_event_id=task.history.events[-3].event_id,
        rejected_request=asked,
    )  # fmt: skip
    rejected.failure.message = "no"
    rejected.failure.application_failure_info.type = "No"
    await p.complete(task, messages=[{"id": "reject", "protocol_instance_id": "id", "body": _body(rejected)}])
    await p.history()
    await p.terminate()


@scenario
async def update_that_is_reapplied_to_a_worker_that_says_nothing(p: Puppet) -> None:
    await p.complete(await _with_reapplied_update(p))
    await p.history()
    await p.terminate()


async def _answer_update(p: Puppet) -> None:
    """Accept and complete the update that comes with the next workflow task."""
    task = await p.workflow_task()
    asked = update_pb.Request()
    task.messages[0].body.Unpack(asked)
    accepted, answered = Any_(), Any_()
    accepted.Pack(
        update_pb.Acceptance(
            accepted_request_message_id=task.messages[0].id,
            accepted_request_sequencing_event_id=task.messages[0].event_id,
            accepted_request=asked,
        )
    )
    answered.Pack(update_pb.Response(meta=asked.meta, outcome=update_pb.Outcome(success=common_pb.Payloads())))
    instance = task.messages[0].protocol_instance_id
    await p.complete(
        task,
        commands.protocol_message("accept"),
        commands.protocol_message("answer"),
        messages=[
            {"id": "accept", "protocol_instance_id": instance, "body": accepted},
            {"id": "answer", "protocol_instance_id": instance, "body": answered},
        ],
    )


@scenario
async def operation_goes_on(p: Puppet) -> None:
    point = await _with_operation(p)
    await _reset(p, point)
    await p.history()
    await p.terminate()


async def _with_operation(p: Puppet) -> int:
    """A run whose operation is under way, and which has completed the task that told it so; the event that did."""
    await nexus.endpoint(p)
    await p.start()
    await p.step(nexus.operation(p))
    task = await nexus.nexus_task(p)
    await nexus.respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    await p.has_event("nexus_operation_started")
    return int((await p.step()).started_event_id) + 1


@scenario
async def operation_had_been_started_after_that_point(p: Puppet) -> None:
    await nexus.endpoint(p)
    await p.start()
    await p.step(nexus.operation(p), force_create_new_workflow_task=True)
    await p.step()
    task = await nexus.nexus_task(p)
    await nexus.respond(p, task, start_operation={"async_success": {"operation_token": "token"}})
    await p.has_event("nexus_operation_started")
    await _reset(p, 8)
    await p.history()
    await p.terminate()


@scenario
async def operation_had_ended_after_that_point(p: Puppet) -> None:
    await nexus.endpoint(p)
    await p.start()
    await p.step(nexus.operation(p), force_create_new_workflow_task=True)
    await p.step()
    await nexus.respond(p, await nexus.nexus_task(p), start_operation={"sync_success": {"payload": payload("out")}})
    await p.has_event("nexus_operation_completed")
    await p.step()
    await _reset(p, 8)
    await p.history()
    await p.terminate()


@scenario
async def what_others_were_asked_for_is_answered_after_that_point(p: Puppet) -> None:
    """The target's own history is not compared: it is asked once here, and twice on the real server."""
    await p.start(p.id("target"), task_queue={"name": p.id("elsewhere")})
    await p.start()
    answer = await p.complete(
        await p.workflow_task(), commands.signal_external(p.id("target")), commands.cancel_external(p.id("target")),
        force_create_new_workflow_task=True, return_new_workflow_task=True,
    )  # fmt: skip
    await p.has_event("workflow_execution_signaled", p.id("target"))
    await p.has_event("workflow_execution_cancel_requested", p.id("target"))
    await p.complete(answer.workflow_task)
    await p.has_event("external_workflow_execution_signaled")
    await p.has_event("external_workflow_execution_cancel_requested")
    await _reset(p, 9)
    await p.has_event("external_workflow_execution_signaled")
    await p.has_event("external_workflow_execution_cancel_requested")
    await p.complete(await p.workflow_task(record=False), complete_workflow())
    answer = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution())
    p.note("events", sorted(event.event_type for event in answer.history.events))
