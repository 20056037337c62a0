"""What is too large or too much where requests are checked one by one: payloads, names, messages, updates, attributes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.parity import commands as c
from tests.parity.puppet import attribute, failure, payload, payloads, seconds
from tests.parity.scenarios import limited_scenario, scenario
from tests.parity.updating import accept, admitted, begin_update, finish, idle, respond

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

BIG = "x" * 3000
LONG = "i" * 201
MEMO = {"fields": {"k": payload("y" * 1500)}}


async def _first_task(p: Puppet, name: str) -> Any:
    """The first task of a workflow with a queue of its own."""
    queue = p.id(f"{name}-queue")
    await p.start(p.id(name), task_queue={"name": queue})
    return await p.workflow_task(queue)


@limited_scenario
async def payloads_of_commands(p: Puppet) -> None:
    """Whatever the command, the workflow ends."""
    elsewhere = p.id("elsewhere")
    for number, command in enumerate(
        (
            c.fail_workflow(BIG),
            c.cancel_workflow(BIG),
            c.child(p.id("child"), elsewhere, input=payloads(BIG)),
            c.child(p.id("child"), elsewhere, memo=MEMO),
            c.continue_as_new(elsewhere, input=payloads(BIG)),
            c.continue_as_new(elsewhere, memo=MEMO),
            c.command(
                "signal_external_workflow_execution",
                execution={"workflow_id": p.id("nobody")},
                signal_name="s",
                input=payloads(BIG),
            ),
            c.upsert_memo(a=BIG),
        )
    ):
        task = await _first_task(p, f"w{number}")
        await p.attempt(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=[command], identity="worker"
        )
        await p.history(p.id(f"w{number}"))


@limited_scenario
async def payloads_of_messages(p: Puppet) -> None:
    """An outcome of an update that is too large ends the workflow, too."""
    await idle(p)
    update = begin_update(p)
    task = await p.workflow_task()
    messages = [accept(task.messages[0]), finish("u", success=payloads(BIG))]
    await p.attempt(
        "RespondWorkflowTaskCompleted",
        task_token=task.task_token,
        commands=[c.protocol_message(message["id"]) for message in messages],
        messages=messages,
        identity="worker",
    )
    await update.refused()
    await p.history()


@limited_scenario
async def failures(p: Puppet) -> None:
    """They are cut, and what went with them is dropped."""
    long = failure("m" * 3000, "Boom", details=payloads("d"))
    task = await _first_task(p, "task")
    await p.attempt(
        "RespondWorkflowTaskFailed", task_token=task.task_token, cause="WORKFLOW_TASK_FAILED_CAUSE_UNSPECIFIED",
        failure=long, identity="worker",
    )  # fmt: skip
    await p.history(p.id("task"))
    for name, fields in (
        ("failure", {"failure": long}),
        ("heartbeat", {"failure": failure("short"), "last_heartbeat_details": payloads(BIG)}),
    ):
        task = await _first_task(p, name)
        queue = p.id(f"{name}-queue")
        await p.complete(task, c.activity("a", queue, retry_policy={"maximum_attempts": 1}))
        task = await p.activity_task(queue)
        if name == "failure":
            await p.attempt("RespondActivityTaskFailed", task_token=task.task_token, identity="worker", **fields)
        else:
            await p.attempt(
                "RespondActivityTaskFailedById",
                workflow_id=p.id(name),
                activity_id="a",
                identity="worker",
                **fields,
            )
        await p.history(p.id(name))


@limited_scenario
async def queries(p: Puppet) -> None:
    await p.start()
    await p.step(c.timer())
    await p.attempt("QueryWorkflow", execution=p.execution(), query={"query_type": "q", "query_args": payloads(BIG)})
    asked = p.begin("QueryWorkflow", execution=p.execution(), query={"query_type": "q"})
    task = await p.workflow_task()
    await p.call(
        "RespondQueryTaskCompleted",
        task_token=task.task_token,
        completed_type="QUERY_RESULT_TYPE_ANSWERED",
        query_result=payloads(BIG),
    )
    await asked.refused()
    await p.signal("s")
    asked = p.begin("QueryWorkflow", execution=p.execution(), query={"query_type": "q"})
    await p.arrived()
    task = await p.workflow_task()
    answers = {name: {"result_type": "QUERY_RESULT_TYPE_ANSWERED", "answer": payloads(BIG)} for name in task.queries}
    await p.complete(task, query_results=answers)
    await asked.refused()


@limited_scenario
async def requests(p: Puppet) -> None:
    """What comes with a request to start, signal or update."""
    start = p.start_fields()
    await p.attempt("SignalWithStartWorkflowExecution", **start, signal_name="s", signal_input=payloads(BIG))
    await p.attempt("SignalWithStartWorkflowExecution", **start, signal_name="s", input=payloads(BIG))
    await p.attempt("SignalWithStartWorkflowExecution", **start, signal_name="s", memo=MEMO)
    schedule = {"spec": {"interval": [{"interval": seconds(3600)}]}}
    action = {"start_workflow": {"workflow_id": p.id("s"), "workflow_type": {"name": "T"}, "task_queue": {"name": "q"}}}
    large: dict[str, Any] = {"start_workflow": {**action["start_workflow"], "input": payloads(BIG)}}
    await p.attempt("CreateSchedule", schedule_id=p.id("s"), schedule={**schedule, "action": large}, request_id="r")
    await p.attempt(
        "CreateSchedule", schedule_id=p.id("s"), schedule={**schedule, "action": action}, request_id="r", memo=MEMO
    )
    await p.attempt("UpdateSchedule", schedule_id=p.id("s"), schedule={**schedule, "action": large}, request_id="r")
    await p.attempt("PatchSchedule", schedule_id=p.id("s"), patch={"pause": BIG}, request_id="r")
    await p.attempt("DeleteSchedule", schedule_id=p.id("s"), identity="client")


@limited_scenario
async def names(p: Puppet) -> None:
    """All that has a length."""
    execution = p.execution()
    for rpc, fields in (
        ("StartWorkflowExecution", p.start_fields(request_id=LONG)),
        ("StartWorkflowExecution", p.start_fields(identity=LONG)),
        ("StartWorkflowExecution", p.start_fields(namespace=LONG)),
        ("SignalWorkflowExecution", {"workflow_execution": execution, "signal_name": LONG}),
        ("SignalWorkflowExecution", {"workflow_execution": execution, "signal_name": "s", "request_id": LONG}),
        ("SignalWithStartWorkflowExecution", p.start_fields(signal_name=LONG)),
        ("SignalWithStartWorkflowExecution", p.start_fields(LONG, signal_name="s")),
        ("RequestCancelWorkflowExecution", {"workflow_execution": execution, "request_id": LONG}),
        ("RequestCancelWorkflowExecution", {"workflow_execution": p.execution(LONG)}),
        ("TerminateWorkflowExecution", {"workflow_execution": p.execution(LONG)}),
        ("ResetWorkflowExecution", {"workflow_execution": execution, "request_id": LONG, "workflow_task_finish_event_id": 3}),
        ("PollWorkflowTaskQueue", {"task_queue": {"name": LONG}}),
        ("PollWorkflowTaskQueue", {"task_queue": {"name": "q"}, "identity": LONG}),
        ("PollActivityTaskQueue", {"task_queue": {"name": LONG}}),
        ("PollNexusTaskQueue", {"task_queue": {"name": LONG}}),
        ("DescribeTaskQueue", {"task_queue": {"name": LONG}}),
        ("UpdateWorkflowExecution", p.update_fields("change", LONG)),
        ("RegisterNamespace", {"namespace": LONG, "workflow_execution_retention_period": seconds(86400)}),
        ("CreateSchedule", {"schedule_id": LONG, "request_id": "r"}),
        ("PauseActivity", {"execution": execution, "id": LONG}),
        ("StartActivityExecution", {"activity_id": LONG, "activity_type": {"name": "a"}, "task_queue": {"name": "q"}}),
        ("StartNexusOperationExecution", {"operation_id": LONG, "endpoint": "e", "service": "s", "operation": "o"}),
        ("SetWorkerDeploymentCurrentVersion", {"deployment_name": LONG, "build_id": "b"}),
        ("StartBatchOperation", {"job_id": LONG, "reason": "r", "visibility_query": "WorkflowId='x'",
                                 "termination_operation": {}}),
    ):  # fmt: skip
        await p.attempt(rpc, **fields)
    await p.attempt("TerminateWorkflowExecution", workflow_execution=execution)


@limited_scenario
async def names_in_commands(p: Puppet) -> None:
    await p.start()
    for command in (
        c.activity("a", p.task_queue, activity_type={"name": LONG}),
        c.activity("a", LONG),
        c.child(LONG, p.task_queue),
        c.child("c", LONG),
        c.marker(LONG),
        c.cancel_timer(LONG),
        c.signal_external(LONG),
        c.cancel_external(LONG),
        c.continue_as_new(LONG),
        c.continue_as_new(p.task_queue, workflow_type={"name": LONG}),
    ):
        await p.bad_step(command)
        await p.history()
        await p.attempt("TerminateWorkflowExecution", workflow_execution=p.execution())
        await p.start()
    await p.terminate()


@limited_scenario
async def updates_in_flight(p: Puppet) -> None:
    await idle(p)
    waiting = [begin_update(p, name) for name in ("u1", "u2")]
    await p.together(admitted(p, "u1"), admitted(p, "u2"))
    await begin_update(p, "u3").refused()
    for each in waiting:
        await each.abandon()
    await p.terminate()


@limited_scenario
async def bytes_of_updates_in_flight(p: Puppet) -> None:
    await idle(p)
    fields = p.update_fields("change", "u", "x" * 1000)
    await p.refused("UpdateWorkflowExecution", **fields)
    await p.terminate()


@limited_scenario
async def updates_of_a_run(p: Puppet) -> None:
    """Continue-as-new is suggested with the last one that is taken."""
    await idle(p)
    for number in range(2):
        update = begin_update(p, f"u{number}")
        task = await p.workflow_task()
        await respond(p, task, [accept(task.messages[0]), finish(f"u{number}")])
        await update.answer()
    await begin_update(p, "one too many").refused()
    await begin_update(p, "u1").answer()
    await p.terminate()


@limited_scenario
async def search_attributes_together(p: Puppet) -> None:
    two = {
        name: attribute('"' + "a" * 90 + '"', kind)
        for name, kind in (("ParityKeyword", "Keyword"), ("ParityText", "Text"))
    }
    for rpc, fields in (
        ("StartWorkflowExecution", p.start_fields()),
        ("SignalWithStartWorkflowExecution", p.start_fields(signal_name="s")),
    ):
        await p.attempt(rpc, search_attributes={"indexed_fields": two}, **fields)
    task = await _first_task(p, "upsert")
    await p.attempt(
        "RespondWorkflowTaskCompleted",
        task_token=task.task_token,
        commands=[c.command("upsert_workflow_search_attributes", search_attributes={"indexed_fields": two})],
        identity="worker",
    )
    await p.history(p.id("upsert"))
    task = await _first_task(p, "child")
    await p.attempt(
        "RespondWorkflowTaskCompleted",
        task_token=task.task_token,
        commands=[c.child(p.id("c"), "q", search_attributes={"indexed_fields": two})],
        identity="worker",
    )
    await p.history(p.id("child"))


@limited_scenario
async def signals_while_a_task_is_out(p: Puppet) -> None:
    """More than can be buffered fail the task."""
    await p.start()
    task = await p.workflow_task()
    for number in range(5):
        await p.attempt(
            "SignalWorkflowExecution", workflow_execution=p.execution(), signal_name="s", request_id=p.id(f"r{number}")
        )
    await p.attempt("RespondWorkflowTaskCompleted", task_token=task.task_token, identity="worker")
    await p.history()
    await p.terminate()


@limited_scenario
async def a_history_of_many_bytes(p: Puppet) -> None:
    """Continue-as-new is suggested, and at last the workflow is terminated."""
    await p.start()
    for number in range(2):
        await p.signal(f"s{number}", "x" * 2400)
        await p.step()
    for number in range(2, 5):
        await p.attempt(
            "SignalWorkflowExecution",
            workflow_execution=p.execution(),
            signal_name=f"s{number}",
            input=payloads("x" * 2400),
        )
    await p.history()
    await p.describe()


@scenario
async def messages(p: Puppet) -> None:
    """Above 4 MiB a request is not read."""
    great = "x" * (4 * 1024 * 1024)
    await p.refused("StartWorkflowExecution", **p.start_fields(input=payloads(great)))
    body = json.dumps({"workflowType": {"name": "T"}, "taskQueue": {"name": "q"}, "input": [great]})
    answer = await p.send(
        f"/api/v1/namespaces/default/workflows/{p.workflow_id}", headers={"content-type": "application/json"},
        body=body.encode(),
    )  # fmt: skip
    p.note("over HTTP", [answer.status_code, answer.json()])
