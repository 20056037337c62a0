"""A request that is sent again with its request id, since its first answer may have been lost, takes effect once.

Each RPC that takes a request id stands in `REQUESTS`; each is sent twice with nothing in between, and again after its
run was closed, reset, or continued as new. The second answer is the first one's, or a refusal where the state that the
request asked for is over; whatever is stored stays as it was.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.parity import commands, servers
from tests.parity.puppet import Puppet, payloads, seconds
from tests.patience import PATIENCE_S
from tests.postgres import available
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.registry import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)

STORES = [
    "sqlite",
    pytest.param(
        "postgres", marks=[pytest.mark.postgres, pytest.mark.skipif(not available(), reason="no Postgres here")]
    ),
]
SETTINGS = ("history.maximumSignalsPerExecution=100",)


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    with servers.in_a_loop_of_its_own(servers.our_server(request.param, SETTINGS)) as address:
        yield address


async def _nothing(p: Puppet) -> None:
    """No workflow is needed."""


async def _running(p: Puppet) -> None:
    """An open workflow that has completed a task, and whose activity waits."""
    await p.start()
    await p.step(commands.activity("a", p.id("nobody")), commands.timer())


async def _paused(p: Puppet) -> None:
    await _running(p)
    await p.call("PauseWorkflowExecution", workflow_id=p.workflow_id, request_id=p.id("pause"), reason="r")


async def _activity(p: Puppet) -> None:
    """An open standalone activity."""
    await p.call("StartActivityExecution", **_standalone(p))


async def _paused_activity(p: Puppet) -> None:
    await _activity(p)
    await p.call("PauseActivityExecution", activity_id=p.id("standalone"), request_id=p.id("pause"))


async def _schedule(p: Puppet) -> None:
    await p.call("CreateSchedule", schedule_id=p.id("schedule"), schedule=_plan(p), request_id=p.id("create"))


async def _operation(p: Puppet) -> None:
    """An open standalone Nexus operation."""
    await _endpoint(p)
    await p.call("StartNexusOperationExecution", **_nexus(p))


async def _endpoint(p: Puppet) -> None:
    target = {"worker": {"namespace": "default", "task_queue": p.id("nobody")}}
    await p.call("CreateNexusEndpoint", spec={"name": p.id("endpoint"), "target": target})


async def _deployment(p: Puppet) -> None:
    await p.call("CreateWorkerDeployment", deployment_name=p.id("deployment"), request_id=p.id("deployment"))


def _standalone(p: Puppet) -> dict[str, Any]:
    return {
        "activity_id": p.id("standalone"), "activity_type": {"name": "Act"}, "task_queue": {"name": p.id("nobody")},
        "schedule_to_close_timeout": seconds(3600), "request_id": p.id("standalone"),
    }  # fmt: skip


def _nexus(p: Puppet) -> dict[str, Any]:
    return {
        "operation_id": p.id("operation"), "endpoint": p.id("endpoint"), "service": "s", "operation": "o",
        "schedule_to_close_timeout": seconds(3600), "request_id": p.id("operation"),
    }  # fmt: skip


def _plan(p: Puppet) -> dict[str, Any]:
    action = {"workflow_id": p.id("planned"), "workflow_type": {"name": "W"}, "task_queue": {"name": p.id("nobody")}}
    return {"spec": {}, "action": {"start_workflow": action}, "policies": {"overlap_policy": 6}}


def _start(p: Puppet, **fields: Any) -> dict[str, Any]:
    return p.start_fields(request_id=p.id("again"), **fields)


def _of_workflow(**fields: Any) -> Callable[[Puppet], dict[str, Any]]:
    return lambda p: {"workflow_execution": p.execution(), "request_id": p.id("again"), **fields}


def _of_activity(**fields: Any) -> Callable[[Puppet], dict[str, Any]]:
    return lambda p: {"activity_id": p.id("standalone"), "request_id": p.id("again"), **fields}


def _of_operation(**fields: Any) -> Callable[[Puppet], dict[str, Any]]:
    return lambda p: {"operation_id": p.id("operation"), "request_id": p.id("again"), **fields}


def _update_with_start(p: Puppet) -> dict[str, Any]:
    return {
        "operations": [
            {"start_workflow": _start(p, namespace="default", workflow_id_conflict_policy=1)},
            {"update_workflow": {"namespace": "default", **p.update_fields("u", "update", stage="COMPLETED")}},
        ]
    }


@dataclass(frozen=True, slots=True)
class Request:
    """An RPC, what has to be there before, and its fields."""

    rpc: str
    before: Callable[[Puppet], Awaitable[None]]
    fields: Callable[[Puppet], dict[str, Any]]
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.rpc} {self.variant}".strip()


REQUESTS = (
    Request("StartWorkflowExecution", _nothing, _start),
    Request("StartWorkflowExecution", _nothing, lambda p: _start(p, workflow_id_conflict_policy=3), "terminating"),
    Request("StartWorkflowExecution", _running, lambda p: _start(p, workflow_id_conflict_policy=3), "replacing"),
    Request(
        "StartWorkflowExecution", _running,
        lambda p: _start(p, workflow_id_conflict_policy=2, on_conflict_options={"attach_request_id": True}), "attaching",
    ),
    Request("SignalWithStartWorkflowExecution", _nothing, lambda p: _start(p, signal_name="s")),
    Request("SignalWithStartWorkflowExecution", _running, lambda p: _start(p, signal_name="s"), "joining"),
    Request(
        "SignalWithStartWorkflowExecution", _running,
        lambda p: _start(p, signal_name="s", workflow_id_conflict_policy=3), "replacing",
    ),
    Request("SignalWorkflowExecution", _running, _of_workflow(signal_name="s", input=payloads("x"))),
    Request("RequestCancelWorkflowExecution", _running, _of_workflow()),
    Request("ResetWorkflowExecution", _running, _of_workflow(workflow_task_finish_event_id=4, reason="r")),
    Request(
        "PauseWorkflowExecution", _running,
        lambda p: {"workflow_id": p.workflow_id, "request_id": p.id("again"), "reason": "r"},
    ),
    Request(
        "UnpauseWorkflowExecution", _paused,
        lambda p: {"workflow_id": p.workflow_id, "request_id": p.id("again"), "reason": "r"},
    ),
    Request(
        "PauseActivity", _running, lambda p: {"execution": p.execution(), "id": "a", "request_id": p.id("again")}
    ),
    Request("CreateSchedule", _nothing, lambda p: {
        "schedule_id": p.id("schedule"), "schedule": _plan(p), "request_id": p.id("again"),
    }),
    Request("UpdateSchedule", _schedule, lambda p: {
        "schedule_id": p.id("schedule"), "schedule": _plan(p), "request_id": p.id("again"),
    }),
    Request("PatchSchedule", _schedule, lambda p: {
        "schedule_id": p.id("schedule"), "patch": {"trigger_immediately": {}}, "request_id": p.id("again"),
    }),
    Request("StartActivityExecution", _nothing, _standalone),
    Request("RequestCancelActivityExecution", _activity, _of_activity()),
    Request("TerminateActivityExecution", _activity, _of_activity()),
    Request("PauseActivityExecution", _activity, _of_activity()),
    Request("UnpauseActivityExecution", _paused_activity, _of_activity()),
    Request("ResetActivityExecution", _activity, _of_activity()),
    Request("UpdateActivityExecutionOptions", _activity, _of_activity(
        activity_options={"schedule_to_close_timeout": seconds(1800)},
        update_mask={"paths": ["schedule_to_close_timeout"]},
    )),
    Request("StartNexusOperationExecution", _endpoint, _nexus),
    Request("RequestCancelNexusOperationExecution", _operation, _of_operation()),
    Request("TerminateNexusOperationExecution", _operation, _of_operation()),
    Request("CreateWorkerDeployment", _nothing, lambda p: {
        "deployment_name": p.id("deployment"), "request_id": p.id("again"),
    }),
    Request("CreateWorkerDeploymentVersion", _deployment, lambda p: {
        "deployment_version": {"deployment_name": p.id("deployment"), "build_id": "1"}, "request_id": p.id("again"),
    }),
)  # fmt: skip
NOT_TRIED = {
    "CreateWorkflowRule": "refused as the real server refuses it: tests/parity/scenarios/workflow_rules.py",
    "UpdateWorkerDeploymentVersionComputeConfig": "tests/api/test_push.py has it, since it needs a provider",
}


def test_every_rpc_with_a_request_id_is_tried() -> None:
    specs = (REGISTRY | OWN_REGISTRY).values()
    takes = {spec.method for spec in specs if "request_id" in spec.request_type.DESCRIPTOR.fields_by_name}
    assert takes == {request.rpc for request in REQUESTS} | NOT_TRIED.keys()


async def _stored(p: Puppet) -> dict[str, Any]:
    """All runs of this puppet with their histories, and what else it made."""
    found: dict[str, Any] = {}
    query = " OR ".join(
        f"WorkflowId STARTS_WITH '{prefix}{p.prefix}'"
        for prefix in ("", "temporal-sys-scheduler:", "temporal-sys-activity:", "temporal-sys-nexus-operation:")
    )
    listed = await p.call("ListWorkflowExecutions", query=query)
    for info in listed.executions:
        history = await p.call(
            "GetWorkflowExecutionHistory",
            execution={"workflow_id": info.execution.workflow_id, "run_id": info.execution.run_id},
        )
        found[info.execution.run_id] = info.status, [event.event_type for event in history.history.events]
    for rpc, fields in (
        ("DescribeSchedule", {"schedule_id": p.id("schedule")}),
        ("DescribeActivityExecution", {"activity_id": p.id("standalone")}),
        ("DescribeNexusOperationExecution", {"operation_id": p.id("operation")}),
        ("DescribeWorkerDeployment", {"deployment_name": p.id("deployment")}),
    ):
        answer = await p.attempt(rpc, **fields)
        found[rpc] = None if answer is None else _lasting(answer)
    return found


def _lasting(answer: Any) -> Any:
    """Without what the clock or a count of transitions moves."""
    if answer.DESCRIPTOR.name == "DescribeActivityExecutionResponse":
        info = answer.info
        return (
            info.status, info.run_state, info.attempt, info.canceled_reason, info.schedule_to_close_timeout.seconds,
            answer.run_id,
        )  # fmt: skip
    if answer.DESCRIPTOR.name == "DescribeNexusOperationExecutionResponse":
        return answer.info.status, answer.run_id, answer.info.cancellation_info.requested_time.seconds
    return answer.SerializeToString(deterministic=True)


def _plain(answer: Any) -> Any:
    """What a caller goes by: which run it is. Whether it was started just now is said otherwise by some."""
    return getattr(answer, "run_id", "")


async def _settled(p: Puppet) -> dict[str, Any]:
    """What is stored once nothing moves any more: a triggered schedule starts its run behind its answer."""
    before = await _stored(p)
    for _ in range(200):
        await asyncio.sleep(0.05)
        now = await _stored(p)
        if now == before:
            return now
        before = now
    raise AssertionError("it does not come to rest")


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
async def test_sent_twice(p: Puppet, request_: Request) -> None:
    """Nothing in between."""
    await request_.before(p)
    fields = request_.fields(p)
    first = await p.call(request_.rpc, **fields)
    stored = await _settled(p)
    again = await p.call(request_.rpc, **fields)
    assert _plain(again) == _plain(first)
    assert await _settled(p) == stored


async def _close(p: Puppet) -> None:
    await p.terminate()


async def _close_normally(p: Puppet) -> None:
    await p.complete(await p.workflow_task(), commands.complete_workflow())


async def _reset(p: Puppet) -> None:
    """The run goes on from its first workflow task."""
    await p.step()
    await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(), reason="why", request_id=p.id("reset"),
        workflow_task_finish_event_id=4,
    )  # fmt: skip


async def _continue_as_new(p: Puppet) -> None:
    await p.complete(await p.workflow_task(), commands.continue_as_new(p.task_queue))


async def _continue_as_new_and_close(p: Puppet) -> None:
    await _continue_as_new(p)
    await p.terminate()


async def _continue_as_new_twice(p: Puppet) -> None:
    await _continue_as_new(p)
    await _continue_as_new(p)


LATER = (_close, _close_normally, _reset, _continue_as_new, _continue_as_new_and_close, _continue_as_new_twice)
LATE_REQUESTS = [
    request
    for request in REQUESTS
    if request.rpc
    in {
        "StartWorkflowExecution",
        "SignalWithStartWorkflowExecution",
        "SignalWorkflowExecution",
        "ResetWorkflowExecution",
    }
]


@pytest.mark.parametrize("later", LATER, ids=lambda later: later.__name__.strip("_"))
@pytest.mark.parametrize("request_", LATE_REQUESTS, ids=str)
async def test_sent_again_later(p: Puppet, request_: Request, later: Callable[[Puppet], Awaitable[None]]) -> None:
    """The run has gone on meanwhile, and the request takes no effect any more."""
    await request_.before(p)
    fields = request_.fields(p)
    first = await p.call(request_.rpc, **fields)
    if request_.variant in ("joining", "attaching") or not request_.variant:
        await _have_a_task(p)
    await later(p)
    stored = await _settled(p)
    again = await p.attempt(request_.rpc, **fields)
    assert await _settled(p) == stored
    if later is not _reset:
        assert again is not None
        assert _names_a_run_of_the_first(first, again, stored)


async def _have_a_task(p: Puppet) -> None:
    """What follows completes a workflow task: let there be one."""
    described = await p.call("DescribeWorkflowExecution", execution=p.execution())
    if not described.HasField("pending_workflow_task"):
        await p.signal("work")


def _names_a_run_of_the_first(first: Any, again: Any, stored: dict[str, Any]) -> bool:
    return getattr(first, "run_id", "") == getattr(again, "run_id", "") or again.run_id in stored


@pytest.mark.parametrize("later", LATER, ids=lambda later: later.__name__.strip("_"))
async def test_update_with_start_sent_again_later(p: Puppet, later: Callable[[Puppet], Awaitable[None]]) -> None:
    """It starts no second run, its update is not carried out twice, and the answer is the same."""
    fields = _update_with_start(p)
    first = p.begin("ExecuteMultiOperation", **fields)
    task = await p.workflow_task()
    await p.complete(
        task, commands.protocol_message("accept"), commands.protocol_message("answer"),
        messages=_answers(task.messages[0]),
    )  # fmt: skip
    answer = await first.answer()
    await p.signal("work")
    await later(p)
    stored = await _settled(p)
    if later is not _reset:
        again = await p.call("ExecuteMultiOperation", **fields)
        assert again.responses[0].start_workflow.run_id == answer.responses[0].start_workflow.run_id
        before, now = (each.responses[1].update_workflow for each in (answer, again))
        assert (now.outcome, now.stage) == (before.outcome, before.stage)
    assert await _settled(p) == stored


async def test_update_with_start_sent_again_after_its_update_was_cut_off(p: Puppet) -> None:
    """The run ended with the update accepted: the second answer is about that, and nothing starts."""
    fields = _update_with_start(p)
    first = p.begin("ExecuteMultiOperation", **fields)
    task = await p.workflow_task()
    await p.complete(task, commands.protocol_message("accept"), messages=_answers(task.messages[0])[:1])
    await p.terminate()
    answer = await first.answer()
    stored = await _settled(p)
    again = await p.call("ExecuteMultiOperation", **fields)
    assert again.responses[1].update_workflow.outcome == answer.responses[1].update_workflow.outcome
    assert again.responses[1].update_workflow.outcome.HasField("failure")
    assert await _settled(p) == stored


async def test_update_with_start_sent_again_after_its_run_ended(p: Puppet) -> None:
    """No worker has accepted the update: the second answer is the first one's."""
    fields = _update_with_start(p)
    first = p.begin("ExecuteMultiOperation", **fields)
    await p.workflow_task()
    await p.terminate()
    refused = await first.refused()
    stored = await _settled(p)
    again = await p.refused("ExecuteMultiOperation", **fields)
    assert (again.code, again.message) == (refused.code, refused.message) == (
        "NOT_FOUND", "Update-with-Start could not be executed."
    )  # fmt: skip
    assert await _settled(p) == stored


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
async def test_update_with_start_sent_again_after_its_run_was_continued(p: Puppet, ends: bool) -> None:
    """The run that continues it takes the update, when it is open; else there is nothing to wait for."""
    fields = _update_with_start(p)
    first = p.begin("ExecuteMultiOperation", **fields)
    task = await p.workflow_task()
    await p.complete(task, commands.continue_as_new(p.task_queue))
    assert (await first.refused()).code == "RESOURCE_EXHAUSTED"
    if ends:
        await p.terminate()
        stored = await _settled(p)
        assert (await p.refused("ExecuteMultiOperation", **fields)).code == "NOT_FOUND"
        assert await _settled(p) == stored
        return
    again = p.begin("ExecuteMultiOperation", **fields)
    task = await p.workflow_task()
    if not task.messages:
        await p.complete(task, commands.timer())
        task = await p.workflow_task()
    await p.complete(
        task, commands.protocol_message("accept"), commands.protocol_message("answer"),
        messages=_answers(task.messages[0]),
    )  # fmt: skip
    answer = await again.answer()
    assert answer.responses[0].start_workflow.run_id == task.workflow_execution.run_id
    assert answer.responses[1].update_workflow.stage == 3


def _answers(request: Any) -> list[dict[str, Any]]:
    from google.protobuf.any_pb2 import Any as Packed
    from temporalio.api.update.v1 import message_pb2 as update_pb

    accepted, answered = Packed(), Packed()
    asked = update_pb.Request()
    request.body.Unpack(asked)
    accepted.Pack(
        update_pb.Acceptance(
            accepted_request_message_id=request.id,
            accepted_request_sequencing_event_id=request.event_id,
            accepted_request=asked,
        )
    )
    answered.Pack(update_pb.Response(meta=asked.meta, outcome=update_pb.Outcome(success=None)))
    return [
        {"id": "accept", "protocol_instance_id": request.protocol_instance_id, "body": accepted},
        {"id": "answer", "protocol_instance_id": request.protocol_instance_id, "body": answered},
    ]
