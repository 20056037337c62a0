"""What happens at a limit: which request or command is refused, which workflow is ended, and in which words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity import commands as c
from tests.parity.puppet import Refused, attribute, cases, payload, payloads
from tests.parity.scenarios import limited_scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.parity.puppet import Puppet

BIG = "x" * 3000
LONG = "i" * 201
FOUR = range(4)


async def _answered(p: Puppet, *given: dict[str, Any]) -> None:
    """A workflow whose first task is answered so."""
    await p.start()
    await p.bad_step(*given)
    await p.history()


@limited_scenario
async def pending_activities(p: Puppet) -> None:
    await _answered(p, *(c.activity(f"a{number}", p.task_queue) for number in FOUR))


@limited_scenario
async def pending_children(p: Puppet) -> None:
    await _begun(p, [c.child(p.id(f"c{number}"), p.id("elsewhere")) for number in FOUR])


async def _begun(p: Puppet, given: Sequence[dict[str, Any]]) -> None:
    """As above; what becomes of the commands themselves comes in any order."""
    await p.start()
    await p.bad_step(*given)
    answer = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution())
    p.note("events", [event.event_type for event in answer.history.events][:5])


@limited_scenario
async def pending_signals(p: Puppet) -> None:
    await _begun(p, [c.signal_external(p.id(f"c{number}")) for number in FOUR])


@limited_scenario
async def pending_cancel_requests(p: Puppet) -> None:
    await _begun(p, [c.cancel_external(p.id(f"c{number}")) for number in FOUR])


@limited_scenario
async def the_input_of_a_workflow(p: Puppet) -> None:
    await p.attempt("StartWorkflowExecution", **p.start_fields(input=payloads(BIG)))
    await p.attempt("StartWorkflowExecution", **p.start_fields(memo={"fields": {"k": payload("y" * 1500)}}))


@limited_scenario
async def the_input_of_a_signal(p: Puppet) -> None:
    await p.start()
    await p.attempt("SignalWorkflowExecution", workflow_execution=p.execution(), signal_name="s", input=payloads(BIG))


@limited_scenario
async def the_result_of_a_workflow(p: Puppet) -> None:
    await _answered(p, c.complete_workflow(BIG))


@limited_scenario
async def the_details_of_a_marker(p: Puppet) -> None:
    await _answered(p, c.marker("m", details={"d": payloads(BIG)}))


@limited_scenario
async def the_input_of_an_activity(p: Puppet) -> None:
    await _answered(p, c.activity("a", p.task_queue, input=payloads(BIG)))


@limited_scenario
async def a_memo_that_grows(p: Puppet) -> None:
    await _answered(p, c.upsert_memo(k="y" * 1500))


@limited_scenario
async def what_an_activity_answers(p: Puppet) -> None:
    """It fails for good, whatever was too large."""
    for number, (rpc, fields) in enumerate(
        (
            ("RespondActivityTaskCompleted", {"result": payloads(BIG)}),
            ("RecordActivityTaskHeartbeat", {"details": payloads(BIG)}),
            ("RespondActivityTaskCanceled", {"details": payloads(BIG)}),
        )
    ):
        name, queue = p.id(f"w{number}"), p.id(f"queue-{number}")
        await p.start(name, task_queue={"name": queue})
        await p.complete(await p.workflow_task(queue), c.activity("a", queue))
        task = await p.activity_task(queue)
        await p.attempt(rpc, task_token=task.task_token, identity="worker", **fields)
        await p.history(name)


@limited_scenario
async def signals_of_a_run(p: Puppet) -> None:
    await p.start()
    for number in range(7):
        await p.attempt(
            "SignalWorkflowExecution", workflow_execution=p.execution(), signal_name="s", request_id=p.id(f"r{number}")
        )


@limited_scenario
async def a_history_that_grows(p: Puppet) -> None:
    """The workflow is terminated."""
    await p.start()
    for number in range(30):
        try:
            await p.call(
                "RequestCancelWorkflowExecution" if number == 0 else "UpdateWorkflowExecutionOptions",
                record=False,
                workflow_execution=p.execution(),
                **({} if number == 0 else _priority(number)),
            )
        except Refused as refusal:
            p.note("refused", [number, refusal.code, refusal.message])
            break
    await p.history()


def _priority(number: int) -> dict[str, Any]:
    return {
        "workflow_execution_options": {"priority": {"priority_key": 1 + number % 2}},
        "update_mask": {"paths": ["priority"]},
    }


@limited_scenario
async def long_ids(p: Puppet) -> None:
    for fields in cases({"workflow_id": LONG}, {"workflow_type": {"name": LONG}}, {"task_queue": {"name": LONG}}):
        await p.attempt("StartWorkflowExecution", **(p.start_fields() | fields))
    await p.start()
    await p.bad_step(c.activity(LONG, p.task_queue))
    await p.bad_step(c.timer(LONG))
    await p.history()


@limited_scenario
async def search_attributes(p: Puppet) -> None:
    large = attribute('"' + "a" * 150 + '"')
    three = {name: attribute("1", kind) for name, kind in (("ParityInt", "Int"), ("ParityDouble", "Double"))}
    three["ParityKeyword"] = attribute('"a"')
    for fields in cases(three, {"ParityKeyword": large}):
        await p.attempt("StartWorkflowExecution", **p.start_fields(search_attributes={"indexed_fields": fields}))
    await _answered(p, c.upsert_search_attributes(ParityKeyword='"' + "a" * 150 + '"'))


@limited_scenario
async def too_many_search_attributes(p: Puppet) -> None:
    await _answered(p, c.upsert_search_attributes(ParityInt="1", ParityDouble="1", ParityKeyword='"a"'))
