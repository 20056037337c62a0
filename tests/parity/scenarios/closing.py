"""How a workflow ends by its own command, and what it carries over into its next run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.parity.commands import (
    cancel_workflow,
    command,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    marker,
    protocol_message,
    timer,
    upsert_memo,
    upsert_search_attributes,
)
from tests.parity.puppet import attribute, payload, payloads, seconds
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


@scenario
async def completes_with_result(p: Puppet) -> None:
    await p.start()
    await p.step(complete_workflow("r"))
    await p.closed()
    await p.describe()


@scenario
async def fails_with_cause(p: Puppet) -> None:
    await p.start()
    failing = command(
        "fail_workflow_execution",
        failure={
            "message": "outer",
            "stack_trace": "trace",
            "cause": {"message": "inner", "timeout_failure_info": {"timeout_type": "TIMEOUT_TYPE_HEARTBEAT"}},
            "application_failure_info": {"type": "T", "non_retryable": True, "details": payloads("d")},
        },
    )
    await p.step(failing)
    await p.closed()
    await p.describe()


@scenario
async def fails_without_failure(p: Puppet) -> None:
    await p.start()
    await p.bad_step(command("fail_workflow_execution"))
    await p.history()
    await p.attempt("TerminateWorkflowExecution", workflow_execution=p.execution())


@scenario
async def cancels_after_request(p: Puppet) -> None:
    await p.start()
    await p.cancel(reason="why", request_id="r")
    await p.step(cancel_workflow("d"))
    await p.history()
    await p.describe()


@scenario
async def cancels_without_request(p: Puppet) -> None:
    await p.start()
    await p.bad_step(cancel_workflow())
    await p.history()
    await p.attempt("TerminateWorkflowExecution", workflow_execution=p.execution())


@scenario
async def close_leaves_timers_behind(p: Puppet) -> None:
    await p.start()
    await p.step(timer(), complete_workflow())
    await p.history()
    await p.describe()


@scenario
async def continues_as_new(p: Puppet) -> None:
    first = await p.start(
        input=payloads("one"), memo={"fields": {"m": payload("m")}}, workflow_run_timeout=seconds(100)
    )
    again = continue_as_new(
        p.task_queue,
        input=payloads("two"),
        memo={"fields": {"n": payload("n")}},
        header={"fields": {"h": payload("h")}},
    )
    await p.step(again)
    await p.history(run_id=first)
    await p.describe(run_id=first)
    await p.step(complete_workflow())
    await p.history()
    await p.describe()


@scenario
async def continues_as_new_with_nothing_given(p: Puppet) -> None:
    first = await p.start(
        workflow_execution_timeout=seconds(200),
        workflow_run_timeout=seconds(100),
        workflow_task_timeout=seconds(9),
        memo={"fields": {"m": payload("m")}},
        search_attributes={"indexed_fields": {"ParityKeyword": attribute('"k"')}},
        retry_policy={"maximum_attempts": 3},
    )
    await p.step(command("continue_as_new_workflow_execution"))
    await p.history(run_id=first)
    await p.step(complete_workflow())
    await p.history()
    await p.describe()


@scenario
async def continues_as_another_type_elsewhere(p: Puppet) -> None:
    queue = p.id("other")
    await p.start()
    await p.step(
        continue_as_new(
            queue, workflow_type={"name": "Other"}, workflow_run_timeout=seconds(50), workflow_task_timeout=seconds(5)
        )
    )
    task = await p.workflow_task(queue)
    await p.complete(task, complete_workflow())
    await p.history()


@slow_scenario
async def continues_as_new_later(p: Puppet) -> None:
    first = await p.start()
    await p.step(
        continue_as_new(p.task_queue, backoff_start_interval=seconds(1), initiator="CONTINUE_AS_NEW_INITIATOR_WORKFLOW")
    )
    await p.history(run_id=first)
    await p.step(complete_workflow())
    await p.history()


@scenario
async def bad_continue_as_new(p: Puppet) -> None:
    for bad in (
        continue_as_new("x" * 1001),
        continue_as_new(p.task_queue, workflow_type={"name": "x" * 1001}),
        continue_as_new(p.task_queue, workflow_run_timeout=seconds(-1)),
        continue_as_new(p.task_queue, workflow_task_timeout=seconds(-1)),
        continue_as_new(p.task_queue, backoff_start_interval=seconds(-1)),
        continue_as_new(p.task_queue, retry_policy={"maximum_attempts": -1}),
        continue_as_new(p.task_queue, search_attributes={"indexed_fields": {"NoSuchAttribute": attribute("1")}}),
    ):
        await p.start()
        await p.bad_step(bad)
        await p.history()
        await p.terminate()


@scenario
async def history_follows_runs(p: Puppet) -> None:
    first = await p.start()
    await p.step(continue_as_new(p.task_queue))
    await p.closed(run_id=first)
    await p.step(fail_workflow())
    await p.closed()


@scenario
async def upserts_memo(p: Puppet) -> None:
    await p.start(memo={"fields": {"a": payload("1"), "b": payload("2")}})
    await p.step(upsert_memo(b="3", c="4"))
    await p.describe()
    await p.signal("s")
    gone = {"metadata": {"encoding": b"binary/null"}}
    await p.step(command("modify_workflow_properties", upserted_memo={"fields": {"a": gone}}))
    await p.describe()
    await p.history()
    await p.terminate()


@scenario
async def upserts_search_attributes(p: Puppet) -> None:
    await p.start(
        search_attributes={"indexed_fields": {"ParityKeyword": attribute('"one"'), "ParityInt": attribute("1", "Int")}}
    )
    await p.step(upsert_search_attributes(ParityKeyword='"two"', ParityText='"some words"'))
    await p.describe()
    await p.signal("s")
    gone = {"metadata": {"encoding": b"binary/null"}}
    await p.step(
        command("upsert_workflow_search_attributes", search_attributes={"indexed_fields": {"ParityInt": gone}})
    )
    await p.describe()
    await p.history()
    await p.terminate()


@scenario
async def bad_upserts(p: Puppet) -> None:
    for bad in (
        command("upsert_workflow_search_attributes"),
        command("upsert_workflow_search_attributes", search_attributes={"indexed_fields": {}}),
        upsert_search_attributes(NoSuchAttribute='"x"'),
        upsert_search_attributes(StartTime='"2020-01-01T00:00:00Z"'),
        command(
            "upsert_workflow_search_attributes",
            search_attributes={"indexed_fields": {"ParityInt": attribute('"no number"', "Int")}},
        ),
        command("modify_workflow_properties"),
        command("modify_workflow_properties", upserted_memo={}),
    ):
        await p.start()
        await p.bad_step(bad)
        await p.history()
        await p.attempt("TerminateWorkflowExecution", workflow_execution=p.execution())


@scenario
async def command_without_attributes(p: Puppet) -> None:
    # Not START_CHILD_WORKFLOW_EXECUTION: the real server panics over it.
    kinds = (
        "COMPLETE_WORKFLOW_EXECUTION",
        "FAIL_WORKFLOW_EXECUTION",
        "CANCEL_WORKFLOW_EXECUTION",
        "SCHEDULE_ACTIVITY_TASK",
        "START_TIMER",
        "CANCEL_TIMER",
        "RECORD_MARKER",
        "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION",
        "REQUEST_CANCEL_ACTIVITY_TASK",
        "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION",
        "CONTINUE_AS_NEW_WORKFLOW_EXECUTION",
        "MODIFY_WORKFLOW_PROPERTIES",
        "PROTOCOL_MESSAGE",
    )
    for kind in kinds:
        await p.start()
        await p.bad_step({"command_type": f"COMMAND_TYPE_{kind}"})
        await p.history()
        await p.attempt("TerminateWorkflowExecution", workflow_execution=p.execution())


@scenario
async def unknown_command(p: Puppet) -> None:
    await p.start()
    await p.bad_step({"command_type": 0})
    await p.history()
    await p.terminate()


_SEQUENCES: tuple[tuple[str, ...], ...] = (
    ("complete", "marker"),
    ("complete", "complete"),
    ("fail", "complete"),
    ("complete", "fail"),
    ("cancel", "timer"),
    ("continue", "complete"),
    ("fail", "continue"),
    ("complete", "message"),
    ("timer", "complete", "cancel", "marker"),
    ("complete", "unknown"),
    ("unknown", "complete", "complete"),
    ("bad timer", "unknown"),
    ("bad timer", "complete", "complete"),
)


@scenario
async def nothing_follows_a_closing_command(p: Puppet) -> None:
    commands = {
        "complete": complete_workflow(),
        "fail": fail_workflow(),
        "cancel": cancel_workflow(),
        "continue": continue_as_new(p.task_queue),
        "marker": marker(),
        "timer": timer(),
        "bad timer": timer("", 1),
        "message": protocol_message("m"),
        "unknown": {"command_type": 99},
    }
    await p.start()
    task = await p.workflow_task()
    for names in _SEQUENCES:
        p.note("commands", list(names))
        await p.attempt(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=[commands[name] for name in names]
        )
    await p.history()
    await p.complete(task, complete_workflow("the end"))
    await p.history()
