"""What a client asks of a running workflow: signals, cancel, terminate, reset, delete, describe."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.parity.commands import (
    activity,
    cancel_workflow,
    child,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    timer,
)
from tests.parity.puppet import Refused, cases, payload, payloads, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

ABSENT_RUN = "01a20d28-154e-7ce0-b390-dac353ef0fba"


@scenario
async def signal_before_the_first_task(p: Puppet) -> None:
    await p.start()
    await p.signal("s", "1", header={"fields": {"h": payload("h")}}, control="c")
    await p.signal("s", "2")
    await p.step(complete_workflow())
    await p.history()


@scenario
async def signal_schedules_a_task(p: Puppet) -> None:
    await p.start()
    await p.step()
    await p.signal("one")
    await p.signal("two")
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def signal_with_the_same_request_id(p: Puppet) -> None:
    await p.start()
    await p.signal("s", request_id="r")
    await p.signal("s", request_id="r")
    await p.history()
    await p.terminate()


@scenario
async def signal_to_a_wrong_place(p: Puppet) -> None:
    await p.refused("SignalWorkflowExecution")
    await p.refused("SignalWorkflowExecution", workflow_execution=p.execution())
    await p.refused("SignalWorkflowExecution", workflow_execution=p.execution(), signal_name="s")
    await p.refused("SignalWorkflowExecution", workflow_execution=p.execution(run_id="no uuid"), signal_name="s")
    await p.refused("SignalWorkflowExecution", workflow_execution=p.execution(run_id=ABSENT_RUN), signal_name="s")
    await p.refused("SignalWorkflowExecution", workflow_execution=p.execution("x" * 1001), signal_name="s")
    await p.refused("SignalWorkflowExecution", workflow_execution=p.execution(), signal_name="x" * 1001)
    await p.refused("SignalWorkflowExecution", workflow_execution=p.execution(), signal_name="s", request_id="x" * 1001)
    await p.start()
    await p.step(complete_workflow())
    await p.refused("SignalWorkflowExecution", workflow_execution=p.execution(), signal_name="s")


@scenario
async def signal_with_start_starts(p: Puppet) -> None:
    await p.call(
        "SignalWithStartWorkflowExecution",
        **p.start_fields(),
        signal_name="s",
        signal_input=payloads("x"),
        input=payloads("in"),
        memo={"fields": {"m": payload("m")}},
        header={"fields": {"h": payload("h")}},
    )
    await p.step(complete_workflow())
    await p.history()


@scenario
async def signal_with_start_signals(p: Puppet) -> None:
    await p.start()
    await p.call("SignalWithStartWorkflowExecution", **p.start_fields(), signal_name="s", signal_input=payloads("x"))
    await p.call("SignalWithStartWorkflowExecution", **p.start_fields(request_id="same"), signal_name="s")
    await p.call("SignalWithStartWorkflowExecution", **p.start_fields(request_id="same"), signal_name="s")
    await p.history()
    await p.step(complete_workflow())
    await p.call("SignalWithStartWorkflowExecution", **p.start_fields(), signal_name="s")
    await p.history()
    await p.terminate()


@scenario
async def signal_with_start_under_a_known_id(p: Puppet) -> None:
    """Another request than the one that has the id, after the run is closed: it is no request that is sent again."""
    await p.start()
    await p.call("SignalWithStartWorkflowExecution", **p.start_fields(request_id="same"), signal_name="s")
    await p.terminate()
    await p.call("SignalWithStartWorkflowExecution", **p.start_fields(request_id="same"), signal_name="other")
    await p.history()
    await p.terminate()


@scenario
async def signal_with_start_and_policies(p: Puppet) -> None:
    first = await p.start()
    await p.call(
        "SignalWithStartWorkflowExecution",
        **p.start_fields(workflow_id_conflict_policy="WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING"),
        signal_name="s",
    )
    await p.history(run_id=first)
    await p.history()
    await p.terminate()
    await p.refused(
        "SignalWithStartWorkflowExecution",
        **p.start_fields(workflow_id_reuse_policy="WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE"),
        signal_name="s",
    )
    for fields in cases(
        {"workflow_id_conflict_policy": "WORKFLOW_ID_CONFLICT_POLICY_FAIL"},
        {"signal_name": ""},
        {"workflow_id": ""},
        {"workflow_type": {}},
        {"task_queue": {}},
        {"workflow_run_timeout": seconds(-1)},
        {"cron_schedule": "x"},
    ):
        await p.refused("SignalWithStartWorkflowExecution", **{**p.start_fields(), "signal_name": "s", **fields})


@scenario
async def cancel_requested(p: Puppet) -> None:
    await p.start()
    await p.cancel(reason="why", request_id="r")
    await p.cancel(request_id="r")
    await p.attempt("RequestCancelWorkflowExecution", workflow_execution=p.execution(), request_id="other")
    await p.describe()
    await p.step(cancel_workflow())
    await p.history()
    await p.attempt("RequestCancelWorkflowExecution", workflow_execution=p.execution())


@scenario
async def cancel_ignored(p: Puppet) -> None:
    await p.start()
    await p.step()
    await p.cancel()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def cancel_of_a_wrong_one(p: Puppet) -> None:
    for execution in ({}, p.execution("nobody"), p.execution(run_id="no uuid"), p.execution(run_id=ABSENT_RUN)):
        await p.refused("RequestCancelWorkflowExecution", workflow_execution=execution)
    first = await p.start()
    await p.step(complete_workflow())
    await p.start()
    await p.attempt("RequestCancelWorkflowExecution", workflow_execution=p.execution(), first_execution_run_id=first)
    await p.terminate()


@scenario
async def terminated(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    await p.terminate(reason="why", details=payloads("d"))
    await p.history()
    await p.describe()
    await p.refused("TerminateWorkflowExecution", workflow_execution=p.execution())


@scenario
async def terminated_while_a_task_is_out(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await p.signal("s")
    await p.terminate()
    await p.history()
    await p.refused("RespondWorkflowTaskCompleted", task_token=task.task_token, commands=[complete_workflow()])


@scenario
async def terminate_a_wrong_one(p: Puppet) -> None:
    for execution in ({}, p.execution("nobody"), p.execution(run_id="no uuid"), p.execution(run_id=ABSENT_RUN)):
        await p.refused("TerminateWorkflowExecution", workflow_execution=execution)
    first = await p.start()
    await p.step(complete_workflow())
    await p.start()
    await p.attempt("TerminateWorkflowExecution", workflow_execution=p.execution(), first_execution_run_id=first)
    await p.terminate()


@scenario
async def terminate_the_chain_by_its_first_run(p: Puppet) -> None:
    first = await p.start()
    await p.step(continue_as_new(p.task_queue))
    await p.terminate(first_execution_run_id=first)
    await p.history()


@scenario
async def described_with_everything_pending(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.id("nobody")), timer(), child(p.id("child"), p.id("nobody")))
    await p.has_event("child_workflow_execution_started")
    task = await p.workflow_task()
    await p.describe()
    await p.complete(task)
    await p.describe()
    await p.terminate()


@scenario
async def describe_a_wrong_one(p: Puppet) -> None:
    for execution in (
        {},
        p.execution("nobody"),
        p.execution(run_id="no uuid"),
        p.execution(run_id=ABSENT_RUN),
        p.execution("x" * 1001),
    ):
        await p.refused("DescribeWorkflowExecution", execution=execution)
    await p.refused("DescribeWorkflowExecution", execution=p.execution(), namespace="nowhere")
    await p.refused("DescribeWorkflowExecution", execution=p.execution(), namespace="")


async def _worked(p: Puppet) -> str:
    """A run with two completed tasks, a signal between them and one after; reset points are events 4 and 9."""
    run = await p.start(input=payloads("in"))
    await p.step(timer())
    await p.signal("one", "1")
    await p.step()
    await p.signal("two", "2")
    return run


@scenario
async def reset_to_the_first_task(p: Puppet) -> None:
    run = await _worked(p)
    await p.call(
        "ResetWorkflowExecution",
        workflow_execution=p.execution(),
        reason="why",
        request_id="r",
        workflow_task_finish_event_id=4,
        identity="client",
    )
    await p.history(run_id=run)
    await p.describe(run_id=run)
    await p.history()
    await p.describe()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def reset_to_the_second_task(p: Puppet) -> None:
    await _worked(p)
    await p.call(
        "ResetWorkflowExecution",
        workflow_execution=p.execution(),
        reason="why",
        request_id="r",
        workflow_task_finish_event_id=9,
    )
    await p.history()
    await p.step(complete_workflow())
    await p.history()


@scenario
async def reset_without_reapplying_signals(p: Puppet) -> None:
    await _worked(p)
    await p.call(
        "ResetWorkflowExecution",
        workflow_execution=p.execution(),
        request_id="r",
        workflow_task_finish_event_id=4,
        reset_reapply_exclude_types=["RESET_REAPPLY_EXCLUDE_TYPE_SIGNAL"],
    )
    await p.history()
    await p.terminate()


@scenario
async def reset_reapplying_nothing(p: Puppet) -> None:
    await _worked(p)
    await p.call(
        "ResetWorkflowExecution",
        workflow_execution=p.execution(),
        request_id="r",
        workflow_task_finish_event_id=4,
        reset_reapply_type="RESET_REAPPLY_TYPE_NONE",
    )
    await p.history()
    await p.terminate()


@scenario
async def reset_of_a_closed_one(p: Puppet) -> None:
    run = await p.start()
    await p.step(fail_workflow())
    await p.call(
        "ResetWorkflowExecution",
        workflow_execution=p.execution(),
        reason="why",
        request_id="r",
        workflow_task_finish_event_id=4,
    )
    await p.history(run_id=run)
    await p.step(complete_workflow())
    await p.history()
    await p.describe()


@scenario
async def reset_with_a_running_activity(p: Puppet) -> None:
    await p.start()
    await p.step(activity("a", p.task_queue))
    await p.activity_task()
    await p.signal("s")
    await p.step()
    await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(), request_id="r", workflow_task_finish_event_id=9
    )
    await p.history()
    await p.describe()
    await p.terminate()


@scenario
async def bad_resets(p: Puppet) -> None:
    run = await _worked(p)
    for fields in cases(
        {"workflow_task_finish_event_id": 0},
        {"workflow_task_finish_event_id": 1},
        {"workflow_task_finish_event_id": 2},
        {"workflow_task_finish_event_id": 6},
        {"workflow_task_finish_event_id": 100},
        {"workflow_execution": {}},
        {"workflow_execution": p.execution("nobody")},
        {"workflow_execution": p.execution(run_id="no uuid")},
        {"request_id": "x" * 1001},
    ):
        await p.attempt(
            "ResetWorkflowExecution",
            **{
                "workflow_execution": p.execution(run_id=run),
                "request_id": "r",
                "workflow_task_finish_event_id": 4,
                **fields,
            },
        )
        if p.transcript.entries[-1]["ResetWorkflowExecution"].get("run_id"):
            break
    await p.attempt("TerminateWorkflowExecution", workflow_execution=p.execution())


async def _gone(p: Puppet, workflow_id: str | None = None) -> None:
    for _ in range(6000):
        try:
            await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(workflow_id))
        except Refused as refusal:
            p.note("gone", refusal.code)
            return
        await asyncio.sleep(0.05)


@scenario
async def deleted_when_closed(p: Puppet) -> None:
    # The real server takes its time over what follows, so only the answer is compared.
    await p.start()
    await p.step(complete_workflow())
    await p.call("DeleteWorkflowExecution", workflow_execution=p.execution())


@slow_scenario
async def deleted_when_running(p: Puppet) -> None:
    await p.start()
    await p.call("DeleteWorkflowExecution", workflow_execution=p.execution())
    await _gone(p)
    await p.refused("TerminateWorkflowExecution", workflow_execution=p.execution())


@scenario
async def delete_a_wrong_one(p: Puppet) -> None:
    for execution in ({}, p.execution("nobody"), p.execution(run_id="no uuid"), p.execution(run_id=ABSENT_RUN)):
        await p.refused("DeleteWorkflowExecution", workflow_execution=execution)


@scenario
async def options_updated(p: Puppet) -> None:
    await p.start()
    pinned = {"behavior": "VERSIONING_BEHAVIOR_PINNED", "deployment": {"series_name": "d", "build_id": "b"}}
    await p.attempt(
        "UpdateWorkflowExecutionOptions",
        workflow_execution=p.execution(),
        workflow_execution_options={"versioning_override": pinned},
        update_mask={"paths": ["no_such_field"]},
    )
    await p.attempt(
        "UpdateWorkflowExecutionOptions",
        workflow_execution=p.execution("nobody"),
        workflow_execution_options={},
        update_mask={"paths": ["versioning_override"]},
    )
    await p.terminate()
