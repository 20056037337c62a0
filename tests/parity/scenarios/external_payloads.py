"""Payloads whose data lies in a store outside are counted, wherever in a history they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity import commands as c
from tests.parity.puppet import attribute, payload
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


def outside(*sizes: int) -> dict[str, Any]:
    return {**payload("x"), "external_payloads": [{"size_bytes": size} for size in sizes]}


async def _note(p: Puppet, what: str, workflow_id: str | None = None) -> None:
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(workflow_id))
    info = described.workflow_execution_info
    p.note(what, [info.external_payload_count, info.external_payload_size_bytes])


@scenario
async def counted_wherever_they_stand(p: Puppet) -> None:
    first = await p.start(
        input={"payloads": [outside(1000, 24), payload("plain"), outside(0)]}, memo={"fields": {"m": outside(1)}},
        header={"fields": {"h": outside(10_000_000_000)}},
        search_attributes={"indexed_fields": {"ParityKeyword": attribute('"k"')}},
    )  # fmt: skip
    await _note(p, "started")
    await p.step(c.marker(details={"d": {"payloads": [outside(11)]}}), c.upsert_memo(plain="text"), c.timer())
    await _note(p, "marked")
    await p.call(
        "SignalWorkflowExecution", workflow_execution=p.execution(), signal_name="s",
        input={"payloads": [outside(5)]}, header={"fields": {"h": outside(7)}},
    )  # fmt: skip
    await _note(p, "signalled")
    await p.call("ResetWorkflowExecution", workflow_execution=p.execution(run_id=first), workflow_task_finish_event_id=4, request_id=p.id("reset"))  # fmt: skip
    await _note(p, "reset")
    await p.step(c.command("complete_workflow_execution", result={"payloads": [outside(13, 17)]}))
    await _note(p, "closed")
    mine = f"WorkflowId = '{p.workflow_id}'"
    for query in ("TemporalExternalPayloadCount > 0", "TemporalExternalPayloadSizeBytes > 10000000000"):
        await p.listed(f"{mine} AND {query} AND RunId != '{first}'", count=1)


@scenario
async def counted_from_nothing_in_the_next_run(p: Puppet) -> None:
    await p.start(input={"payloads": [outside(3)]})
    await p.step(c.continue_as_new(p.task_queue, input={"payloads": [outside(1), outside(2)]}))
    await _note(p, "continued")
    await p.start(p.id("plain"))
    await p.terminate(p.id("plain"))
    await _note(p, "plain", p.id("plain"))
    await p.terminate()


@scenario
async def counted_of_activities(p: Puppet) -> None:
    await p.start()
    await p.step(c.activity("a", p.task_queue, input={"payloads": [outside(3)]}))
    task = await p.activity_task(record=False)
    await p.call("RecordActivityTaskHeartbeat", task_token=task.task_token, details={"payloads": [outside(100)]})
    await _note(p, "heartbeat")
    await p.call("RespondActivityTaskCompleted", task_token=task.task_token, result={"payloads": [outside(4)]})
    await _note(p, "completed")
    await p.step(c.complete_workflow())
