"""Dynamic configuration: what workflows and clients may do where an operator has allowed it (`servers.LOW_LIMITS`)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.parity.commands import cancel_external, child, command, complete_workflow, fail_workflow, signal_external
from tests.parity.puppet import Refused, seconds
from tests.parity.scenarios import limited_scenario, nexus, nexus_http, scenario, slow_scenario
from tests.parity.scenarios.cluster import registered

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


async def elsewhere(p: Puppet) -> str:
    """Another namespace; its name."""
    name = p.id("elsewhere")
    await registered(p, name)
    return name


async def target(p: Puppet, namespace: str) -> dict[str, str]:
    """A workflow in the other namespace; its execution."""
    run_id = await p.start(p.id("target"), namespace=namespace, task_queue={"name": p.id("target-queue")})
    return p.execution(p.id("target"), run_id)


# ---- workflows that reach into another namespace ---------------------------------------------------------------------


@limited_scenario
async def a_workflow_signals_one_of_another_namespace(p: Puppet) -> None:
    other = await elsewhere(p)
    execution = await target(p, other)
    await p.start()
    await p.step(signal_external(p.id("target"), namespace=other))
    await p.has_event("external_workflow_execution_signaled")
    await p.step(
        command(
            "signal_external_workflow_execution", namespace=other, execution=execution, signal_name="go", control="c"
        )
    )
    await p.has_event("external_workflow_execution_signaled", count=2)
    await p.step(signal_external(p.id("nobody"), namespace=other))
    await p.has_event("signal_external_workflow_execution_failed")
    await p.history()
    await p.history(p.id("target"), namespace=other)
    await p.terminate()


@limited_scenario
async def a_workflow_of_the_same_name_is_not_itself(p: Puppet) -> None:
    """An id in another namespace is another workflow's."""
    other = await elsewhere(p)
    await p.start(namespace=other, task_queue={"name": p.id("target-queue")})
    await p.start()
    await p.step(signal_external(p.workflow_id, namespace=other))
    await p.has_event("external_workflow_execution_signaled")
    await p.history(namespace=other)
    await p.terminate()


@limited_scenario
async def a_workflow_cancels_one_of_another_namespace(p: Puppet) -> None:
    other = await elsewhere(p)
    await target(p, other)
    await p.start()
    await p.step(cancel_external(p.id("target"), namespace=other, reason="why"))
    await p.has_event("external_workflow_execution_cancel_requested")
    await p.step(cancel_external(p.id("nobody"), namespace=other))
    await p.has_event("request_cancel_external_workflow_execution_failed")
    await p.history()
    await p.history(p.id("target"), namespace=other)
    await p.terminate()


async def with_child(p: Puppet, **attributes: Any) -> str:
    """A workflow whose child is in another namespace; that one's name."""
    other = await elsewhere(p)
    await p.start()
    await p.step(child(p.id("child"), p.id("child-queue"), namespace=other, **attributes))
    await p.has_event("child_workflow_execution_started")
    return other


async def child_ends(p: Puppet, other: str, *commands: dict[str, Any]) -> None:
    task = await p.call("PollWorkflowTaskQueue", namespace=other, **p.poll_fields(p.id("child-queue")))
    await p.complete(task, *commands, namespace=other)


@limited_scenario
async def a_child_in_another_namespace_completes(p: Puppet) -> None:
    other = await with_child(p)
    await child_ends(p, other, complete_workflow("done"))
    await p.has_event("child_workflow_execution_completed")
    await p.history()
    await p.history(p.id("child"), namespace=other)
    await p.terminate()


@limited_scenario
async def a_child_in_another_namespace_fails(p: Puppet) -> None:
    other = await with_child(p)
    await child_ends(p, other, fail_workflow("derailed"))
    await p.has_event("child_workflow_execution_failed")
    await p.describe()
    await p.history()
    await p.terminate()


@limited_scenario
async def a_child_in_another_namespace_ends_with_its_parent(p: Puppet) -> None:
    other = await with_child(p, parent_close_policy="PARENT_CLOSE_POLICY_TERMINATE")
    await p.terminate()
    await p.call(
        "GetWorkflowExecutionHistory", record=False, namespace=other, execution=p.execution(p.id("child")),
        wait_new_event=True, history_event_filter_type="HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT",
    )  # fmt: skip
    await p.history(p.id("child"), namespace=other)


@limited_scenario
async def a_command_names_no_namespace_that_there_is(p: Puppet) -> None:
    await p.start()
    for wanted in (
        signal_external(p.id("t"), namespace=p.id("nowhere")),
        cancel_external(p.id("t"), namespace=p.id("nowhere")),
        child(p.id("t"), p.id("q"), namespace=p.id("nowhere")),
    ):
        task = await p.workflow_task(record=False)
        await p.attempt(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=[wanted], identity="worker"
        )
        await p.fail_task(task)
    await p.terminate()


# ---- requests that signalled a workflow ------------------------------------------------------------------------------


async def requests(p: Puppet) -> None:
    """Note which requests the description tells of."""
    answer = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
    known = p.normalised(answer.workflow_extended_info).get("request_id_infos", {})
    p.note("requests", {key: known[key] for key in sorted(known)})


@limited_scenario
async def descriptions_tell_of_signals(p: Puppet) -> None:
    await p.start()
    await p.signal("first", request_id=p.id("first"))
    await requests(p)
    task = await p.workflow_task()
    await p.signal("second", request_id=p.id("second"))
    await requests(p)
    await p.complete(task)
    await requests(p)
    await p.terminate()
    await requests(p)


@limited_scenario
async def descriptions_tell_of_a_signal_with_start(p: Puppet) -> None:
    fields = {**p.start_fields(), "signal_name": "go"}
    await p.call("SignalWithStartWorkflowExecution", **{**fields, "request_id": p.id("one")})
    await requests(p)
    await p.call("SignalWithStartWorkflowExecution", **{**fields, "request_id": p.id("two")})
    await requests(p)
    await p.step()
    await p.signal("more", request_id=p.id("three"))
    await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(), workflow_task_finish_event_id=5,
        request_id=p.id("reset"),
    )  # fmt: skip
    await requests(p)
    await p.terminate()


# ---- namespaces ------------------------------------------------------------------------------------------------------


@limited_scenario
async def a_protected_namespace_stays(p: Puppet) -> None:
    with suppress(Refused):  # another scenario's server has it by now
        await registered(p, "parity-protected")
    await p.refused("DeleteNamespace", namespace="parity-protected")
    p.note(
        "state", (await p.call("DescribeNamespace", record=False, namespace="parity-protected")).namespace_info.state
    )


@slow_scenario
async def a_namespace_that_an_endpoint_leads_to_stays(p: Puppet) -> None:
    other = await elsewhere(p)
    spec = {"name": p.id("endpoint"), "target": {"worker": {"namespace": other, "task_queue": "q"}}}
    endpoint = (await p.call("CreateNexusEndpoint", record=False, spec=spec)).endpoint
    await p.refused("DeleteNamespace", namespace=other)
    await p.call("DeleteNexusEndpoint", id=endpoint.id, version=endpoint.version)
    await p.attempt("DeleteNamespace", record=False, namespace=other)


# ---- pages -----------------------------------------------------------------------------------------------------------


@limited_scenario
async def the_history_of_a_querys_task_comes_in_pages(p: Puppet) -> None:
    await p.start()
    for number in range(2):
        await p.step()
        await p.signal(f"{number}")
    await p.step()
    asked = p.begin("QueryWorkflow", execution=p.execution(), query={"query_type": "q"})
    task = await p.workflow_task(record=False)
    p.note("first page", [event.event_id for event in task.history.events])
    token = task.next_page_token
    while token:
        page = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution(), next_page_token=token)
        p.note("page", [event.event_id for event in page.history.events])
        token = page.next_page_token
    await p.call("RespondQueryTaskCompleted", task_token=task.task_token, completed_type="QUERY_RESULT_TYPE_ANSWERED")
    await asked.answer()
    await p.terminate()


@scenario
async def descriptions_tell_of_no_signals_by_default(p: Puppet) -> None:
    await p.start()
    await p.signal("first", request_id=p.id("first"))
    await requests(p)
    await p.terminate()


# ---- Nexus -----------------------------------------------------------------------------------------------------------


@limited_scenario
async def operations_of_workflows_are_held_to_the_configuration(p: Puppet) -> None:
    """A header that is not allowed fails the task; a timeout that is too long is shortened, and one is set."""
    await nexus.endpoint(p)
    await p.start()
    await p.bad_step(nexus.operation(p, nexus_header={"X-Unwanted": "1"}))
    await p.step(
        nexus.operation(p, schedule_to_close_timeout=seconds(7200), schedule_to_start_timeout=seconds(7000)),
        nexus.operation(p, schedule_to_close_timeout=seconds(60)),
    )
    await p.has_event("nexus_operation_scheduled", count=2)
    await p.history()
    await p.terminate()


@limited_scenario
async def standalone_operations_are_held_to_the_configuration(p: Puppet) -> None:
    await nexus.endpoint(p)
    fields: dict[str, Any] = {
        "endpoint": p.id("endpoint"), "service": "svc", "operation": "op", "request_id": "r", "identity": "client",
    }  # fmt: skip
    for name in ("X-Unwanted", "x-unwanted"):
        await p.refused("StartNexusOperationExecution", operation_id=p.id("o"), nexus_header={name: "1"}, **fields)
    given: tuple[dict[str, Any], ...] = ({}, {"schedule_to_close_timeout": seconds(7200)})
    for number, timeouts in enumerate(given):
        await p.call("StartNexusOperationExecution", operation_id=p.id(f"{number}"), **fields, **timeouts)
        described = await p.call("DescribeNexusOperationExecution", record=False, operation_id=p.id(f"{number}"))
        p.note("timeout", described.info.schedule_to_close_timeout.seconds)
    for rpc in ("RequestCancelNexusOperationExecution", "TerminateNexusOperationExecution"):
        await p.refused(rpc, operation_id=p.id("0"), reason="a long reason", request_id="r", identity="client")


@limited_scenario
async def handlers_do_not_get_headers_that_are_dropped(p: Puppet) -> None:
    headers = {**nexus_http.JSON, "x-secret-key": "1", "X-Secret": "2", "x-open": "3", "unwanted-x-secret-": "4"}
    await nexus_http.asked(p, {"sync_success": {}}, headers=headers)


@limited_scenario
async def requests_of_standalone_operations_have_pauses_of_their_own(p: Puppet) -> None:
    """What workflows' operations wait is another key's."""
    await nexus.endpoint(p)
    await p.call(
        "StartNexusOperationExecution",
        operation_id=p.id("alone"),
        endpoint=p.id("endpoint"),
        service="svc",
        operation="op",
        request_id=p.id("start"),
    )

    async def task() -> Any:
        return await p.call("PollNexusTaskQueue", record=False, **p.poll_fields())

    async def info() -> Any:
        answer = await p.call("DescribeNexusOperationExecution", record=False, operation_id=p.id("alone"))
        return answer.info

    await nexus.refuse(p, await task(), "UNAVAILABLE")
    for _ in range(6000):
        found = await info()
        if found.HasField("next_attempt_schedule_time"):
            break
        await asyncio.sleep(0.03)
    pause_ns = found.next_attempt_schedule_time.ToNanoseconds() - found.last_attempt_complete_time.ToNanoseconds()
    p.note("pause in quarters of 40 s", round(pause_ns / 10**10 + 0.4))  # four fifths of it, or more
    await p.start()
    await p.step(nexus.operation(p))
    await nexus.refuse(p, await task(), "UNAVAILABLE")
    await task()
    await p.terminate()
