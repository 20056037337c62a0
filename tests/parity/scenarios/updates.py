"""Updates: accepted, completed, rejected; wait stages; the same id again; update-with-start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.update.v1 import message_pb2 as update_pb

from tests.parity.commands import complete_workflow, continue_as_new, protocol_message, timer
from tests.parity.puppet import cases, failure, seconds
from tests.parity.scenarios import scenario, slow_scenario
from tests.parity.updating import STAGE, accept, admitted, begin_update, finish, idle, packed, protocol, reject, respond

if TYPE_CHECKING:
    from tests.parity.puppet import Pending, Puppet


@scenario
async def accepted_and_completed_at_once(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await update.answer()
    await p.history()
    await p.describe()
    await p.terminate()


@scenario
async def accepted_then_completed(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p, stage="ACCEPTED")
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0])])
    await update.answer()
    poll = p.begin(
        "PollWorkflowExecutionUpdate",
        update_ref={"workflow_execution": p.execution(), "update_id": "u"},
        wait_policy={"lifecycle_stage": STAGE + "COMPLETED"},
    )
    await p.signal("s")
    task = await p.workflow_task()
    await respond(p, task, [finish("u")])
    await poll.answer()
    await p.history()
    await p.terminate()


@scenario
async def fails(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u", failure=failure("broken"))])
    await update.answer()
    await p.history()
    await p.terminate()


@scenario
async def rejected_leaves_no_events(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await respond(p, task, [reject(task.messages[0])])
    await update.answer()
    await p.history()
    await p.signal("s")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def rejected_with_a_command_leaves_events(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await respond(p, task, [reject(task.messages[0])], timer("2"))
    await update.answer()
    await p.history()
    await p.terminate()


@scenario
async def before_the_first_task(p: Puppet) -> None:
    await p.start()
    update = begin_update(p)
    await admitted(p)
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await update.answer()
    await p.history()
    await p.terminate()


@scenario
async def with_a_scheduled_task(p: Puppet) -> None:
    await idle(p)
    await p.signal("s")
    update = begin_update(p)
    await admitted(p)
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")], complete_workflow())
    await update.answer()
    await p.history()


@scenario
async def comes_while_a_task_is_out(p: Puppet) -> None:
    await idle(p)
    await p.signal("s")
    task = await p.workflow_task()
    update = begin_update(p)
    await admitted(p)
    await p.complete(task)
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await update.answer()
    await p.history()
    await p.terminate()


@scenario
async def signal_comes_during_speculative_task(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await p.signal("s")
    await p.history()
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await update.answer()
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def rejected_while_a_signal_came(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await p.signal("s")
    await respond(p, task, [reject(task.messages[0])])
    await update.answer()
    await p.history()
    await p.terminate()


@scenario
async def speculative_task_fails(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await p.fail_task(task)
    await p.history()
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await update.answer()
    await p.history()
    await p.terminate()


@scenario
async def same_id_is_one_update(p: Puppet) -> None:
    await idle(p)
    first, second = begin_update(p), begin_update(p)
    await admitted(p)
    await p.arrived()
    task = await p.workflow_task()
    p.note("messages", len(task.messages))
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await first.answer()
    await second.answer()
    await begin_update(p).answer()
    await p.history()
    await p.terminate()


@scenario
async def several_at_once(p: Puppet) -> None:
    await idle(p)
    updates = []
    for name in "xyz":
        updates.append(begin_update(p, name))
        await admitted(p, name)
    task = await p.workflow_task()
    answers = []
    for request in task.messages:
        answers += [accept(request), finish(request.protocol_instance_id)]
    await respond(p, task, answers)
    for update in updates:
        await update.answer()
    await p.history()
    await p.terminate()


@scenario
async def polled_for_its_outcome(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")], complete_workflow())
    await update.answer()
    for stage in ("UNSPECIFIED", "ACCEPTED", "COMPLETED"):
        await p.attempt(
            "PollWorkflowExecutionUpdate",
            update_ref={"workflow_execution": p.execution(), "update_id": "u"},
            wait_policy={"lifecycle_stage": STAGE + stage},
        )
    await p.attempt(
        "PollWorkflowExecutionUpdate", update_ref={"workflow_execution": p.execution(), "update_id": "nobody"}
    )
    await p.attempt(
        "PollWorkflowExecutionUpdate", update_ref={"workflow_execution": p.execution("nobody"), "update_id": "u"}
    )


@scenario
async def workflow_completes_over_an_accepted_one(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0])], complete_workflow())
    await update.answer()
    await p.history()


@scenario
async def workflow_completes_over_an_open_one(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    await p.complete(task, complete_workflow())
    await update.refused()
    await p.history()


@scenario
async def workflow_is_terminated_over_it(p: Puppet) -> None:
    await idle(p)
    update = begin_update(p)
    await p.workflow_task()
    await p.terminate()
    await update.refused()
    await p.history()


@scenario
async def goes_on_in_the_next_run(p: Puppet) -> None:
    first = await p.start()
    await p.step(timer())
    update = begin_update(p)
    task = await p.workflow_task()
    await p.complete(task, continue_as_new(p.task_queue))
    await p.history(run_id=first)
    task = await p.workflow_task(record=False)
    p.note("messages", len(task.messages))
    if task.messages:
        await respond(p, task, [accept(task.messages[0]), finish("u")])
        await update.answer()
    else:
        await update.refused()
    await p.terminate()


@scenario
async def to_a_closed_one(p: Puppet) -> None:
    await p.start()
    await p.step(complete_workflow())
    await p.refused("UpdateWorkflowExecution", **p.update_fields("change", "u"))


@scenario
async def wrong_ones(p: Puppet) -> None:
    await p.refused("UpdateWorkflowExecution")
    good = p.update_fields("change", "u")
    for fields in cases(
        {},
        {"request": {}},
        {"request": {"meta": {"update_id": "u"}}},
        {"request": {"meta": {"update_id": "u"}, "input": {}}},
        {"request": {"meta": {"update_id": "x" * 1001}, "input": {"name": "n"}}},
        {"wait_policy": {"lifecycle_stage": STAGE + "ADMITTED"}},
        {"workflow_execution": {}},
        {"workflow_execution": p.execution(run_id="no uuid")},
        {"namespace": "nowhere"},
        {"first_execution_run_id": "no uuid"},
    ):
        await p.refused("UpdateWorkflowExecution", **{**good, **fields})
    await p.refused("PollWorkflowExecutionUpdate")
    await p.refused("PollWorkflowExecutionUpdate", update_ref={"workflow_execution": p.execution()})
    await p.refused(
        "PollWorkflowExecutionUpdate",
        update_ref={"workflow_execution": p.execution(run_id="no uuid"), "update_id": "u"},
    )


@scenario
async def bad_messages(p: Puppet) -> None:
    bad: tuple[list[dict[str, Any]], ...] = (
        [protocol("accept", "nobody", update_pb.Acceptance(accepted_request_message_id="x"))],
        [finish("nobody")],
        [{"id": "1", "protocol_instance_id": "x"}],
        [{"id": "", "protocol_instance_id": "x", "body": packed(update_pb.Acceptance())}],
    )
    for messages in bad:
        await p.start()
        task = await p.workflow_task(record=False)
        await p.attempt(
            "RespondWorkflowTaskCompleted",
            task_token=task.task_token,
            messages=messages,
            identity="worker",
            commands=[protocol_message(message["id"]) for message in messages],
        )
        await p.history()
        await p.attempt("TerminateWorkflowExecution", workflow_execution=p.execution())


@scenario
async def command_for_no_message(p: Puppet) -> None:
    await p.start()
    await p.bad_step(protocol_message("nobody"))
    await p.history()
    await p.terminate()


@scenario
async def update_is_refused_after_task_failures(p: Puppet) -> None:
    await idle(p)
    await p.signal("s")
    for _ in range(3):
        await p.fail_task(await p.workflow_task(record=False))
    await p.attempt("UpdateWorkflowExecution", deadline=3, **p.update_fields("change", "u"))
    await p.terminate()


def _with_start(p: Puppet, *, start: dict[str, Any] | None = None, update: dict[str, Any] | None = None) -> Pending:
    started = {
        "namespace": "default",
        **p.start_fields(
            **{"workflow_id_conflict_policy": "WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING", **(start or {})}
        ),
    }
    updated = {"namespace": "default", **p.update_fields("change", "u"), **(update or {})}
    return p.begin("ExecuteMultiOperation", operations=[{"start_workflow": started}, {"update_workflow": updated}])


@scenario
async def with_start_starts(p: Puppet) -> None:
    both = _with_start(p)
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await both.answer()
    await p.history()
    await p.terminate()


@scenario
async def with_start_uses_the_running_one(p: Puppet) -> None:
    await idle(p)
    both = _with_start(p)
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await both.answer()
    await p.history()
    await p.terminate()


@scenario
async def with_start_rejected(p: Puppet) -> None:
    both = _with_start(p)
    task = await p.workflow_task()
    await respond(p, task, [reject(task.messages[0])])
    await both.answer()
    await p.history()
    await p.terminate()


@scenario
async def with_start_conflicts(p: Puppet) -> None:
    await idle(p)
    await _with_start(p, start={"workflow_id_conflict_policy": "WORKFLOW_ID_CONFLICT_POLICY_FAIL"}).refused()
    await p.history()
    await p.terminate()


@scenario
async def with_start_of_a_closed_one(p: Puppet) -> None:
    await p.start()
    await p.step(complete_workflow())
    await _with_start(p, start={"workflow_id_reuse_policy": "WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE"}).refused()


@scenario
async def with_start_terminates_the_running_one(p: Puppet) -> None:
    first = await p.start()
    await p.step(timer())
    both = _with_start(p, start={"workflow_id_conflict_policy": "WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING"})
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await both.answer()
    await p.history(run_id=first)
    await p.terminate()


@scenario
async def with_start_wrong_ones(p: Puppet) -> None:
    start = {
        "namespace": "default",
        **p.start_fields(workflow_id_conflict_policy="WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING"),
    }
    update = {"namespace": "default", **p.update_fields("change", "u")}
    lists: list[list[dict[str, Any]]] = [
        [],
        [{"start_workflow": start}],
        [{"update_workflow": update}, {"start_workflow": start}],
        [{"start_workflow": start}, {"start_workflow": start}],
        [{}, {}],
        [{"start_workflow": start}, {"update_workflow": {**update, "workflow_execution": p.execution("other")}}],
        [{"start_workflow": {**start, "workflow_id": ""}}, {"update_workflow": update}],
        [{"start_workflow": {**start, "cron_schedule": "* * * * *"}}, {"update_workflow": update}],
        [{"start_workflow": {**start, "request_eager_execution": True}}, {"update_workflow": update}],
        [{"start_workflow": {**start, "workflow_start_delay": seconds(5)}}, {"update_workflow": update}],
        [{"start_workflow": {**start, "namespace": "other"}}, {"update_workflow": update}],
        [
            {"start_workflow": start},
            {
                "update_workflow": {
                    **update,
                    "workflow_execution": p.execution(run_id="01a20d28-154e-7ce0-b390-dac353ef0fba"),
                }
            },
        ],
        [{"start_workflow": start}, {"update_workflow": {**update, "request": {}}}],
    ]
    for operations in lists:
        await p.refused("ExecuteMultiOperation", operations=operations)


@slow_scenario
async def speculative_task_times_out(p: Puppet) -> None:
    await p.start(workflow_task_timeout=seconds(1))
    await p.step(timer())
    update = begin_update(p)
    await p.workflow_task()
    await p.has_event("workflow_task_timed_out")
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await update.answer()
    await p.history()
    await p.terminate()


@scenario
async def sticky_worker_is_gone(p: Puppet) -> None:
    """Nobody polls the sticky queue: the update's task goes to the run's own queue at once, and leaves no trace there."""
    await p.start()
    sticky = {
        "worker_task_queue": {"name": p.id("sticky"), "kind": "TASK_QUEUE_KIND_STICKY", "normal_name": p.task_queue},
        "schedule_to_start_timeout": seconds(60),
    }
    await p.step(sticky_attributes=sticky)
    update = begin_update(p)
    task = await p.workflow_task()
    p.note("sequencing", task.messages[0].event_id)
    await respond(p, task, [accept(task.messages[0]), finish("u")])
    await update.answer()
    await p.history()


@scenario
async def requests_of_updates_are_told(p: Puppet) -> None:
    """By their request ids, with the event that accepted them; a reset admits them again."""
    run_id = await p.start()
    await p.step(timer())
    for update_id, request_id in (("u", p.id("accepted")), ("v", p.id("rejected"))):
        fields = p.update_fields("change", update_id)
        fields["request"]["request_id"] = request_id
        asked = p.begin("UpdateWorkflowExecution", **fields)
        task = await p.workflow_task()
        if update_id == "u":
            await respond(p, task, [accept(task.messages[0]), finish("u")])
        else:
            await respond(p, task, [reject(task.messages[0])])
        await asked.answer()
        await p.describe()
    await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(run_id=run_id), workflow_task_finish_event_id=4,
        request_id=p.id("reset"),
    )  # fmt: skip
    task = await p.workflow_task()
    admitted = "workflow_execution_update_admitted_event_attributes"
    p.note("admitted again", [event.WhichOneof("attributes") for event in task.history.events].count(admitted))
    await p.complete(task, timer())
    await p.terminate()
