"""How long a caller waits for an update, and what it is told when that is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity.commands import complete_workflow, continue_as_new, timer
from tests.parity.puppet import cases
from tests.parity.scenarios import limited_scenario, scenario
from tests.parity.updating import STAGE, accept, begin_update, idle, respond

if TYPE_CHECKING:
    from tests.parity.puppet import Pending, Puppet


def _poll(p: Puppet, stage: str = "COMPLETED", *, deadline: float = 10, **fields: Any) -> Pending:
    return p.begin(
        "PollWorkflowExecutionUpdate",
        record=deadline > 1,
        deadline=deadline,
        update_ref={"workflow_execution": p.execution(), "update_id": "u"},
        **({"wait_policy": {"lifecycle_stage": STAGE + stage}} if stage else {}),
        **fields,
    )


async def _out_of_time(p: Puppet, pending: Pending) -> None:
    """Whether the client or the server saw it first is by chance, and so are the words (and the end of the stream)."""
    p.note("out of time", (await pending.refused()).code in ("DEADLINE_EXCEEDED", "CANCELLED"))


@scenario
async def callers_with_little_time(p: Puppet) -> None:
    """They learn nothing: nobody took the update, or nobody finished it."""
    await idle(p)
    for stage in ("ACCEPTED", "COMPLETED"):
        await _out_of_time(p, begin_update(p, stage=stage, deadline=0.5))
        await _out_of_time(p, _poll(p, stage, deadline=0.5))
    await _poll(p, "ADMITTED", deadline=5).answer()
    await _poll(p, "", deadline=5).answer()
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0])])
    await _out_of_time(p, begin_update(p, deadline=0.5))
    await _out_of_time(p, _poll(p, deadline=0.5))
    await _poll(p, "ACCEPTED", deadline=5).answer()
    await p.terminate()


@limited_scenario
async def callers_with_time(p: Puppet) -> None:
    """They are told how far it is when a long poll is over."""
    await idle(p)
    waiting = [begin_update(p, stage=stage) for stage in ("ACCEPTED", "COMPLETED")]
    for each in waiting:
        await each.answer()
    waiting = [_poll(p, stage) for stage in ("ACCEPTED", "COMPLETED")]
    for each in waiting:
        await each.answer()
    task = await p.workflow_task()
    await respond(p, task, [accept(task.messages[0])])
    waiting = [begin_update(p), _poll(p)]
    for each in waiting:
        await each.answer()
    await p.terminate()
    await _poll(p).answer()


@limited_scenario
async def a_start_that_nobody_takes(p: Puppet) -> None:
    """Of an update with a start, both are told when a long poll is over."""
    start = p.start_fields(workflow_id_conflict_policy="WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING")
    update = {"namespace": "default", **p.update_fields("change", "u")}
    await p.attempt(
        "ExecuteMultiOperation",
        operations=[{"start_workflow": {"namespace": "default", **start}}, {"update_workflow": update}],
    )
    await p.step(complete_workflow())


@limited_scenario
async def histories_without_news(p: Puppet) -> None:
    """The same of those who wait for events."""
    await idle(p)
    page = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution(), wait_new_event=True)
    for fields in cases(
        {"next_page_token": page.next_page_token},
        {"history_event_filter_type": "HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT"},
    ):
        await p.call("GetWorkflowExecutionHistory", execution=p.execution(), wait_new_event=True, **fields)
    await p.terminate()


async def _asked_again(p: Puppet, **execution: Any) -> None:
    fields = {**p.update_fields("change", "u"), "workflow_execution": p.execution(**execution)}
    await p.refused("UpdateWorkflowExecution", **fields)
    reference = {"workflow_execution": p.execution(**execution), "update_id": "u"}
    await p.refused("PollWorkflowExecutionUpdate", update_ref=reference)


@scenario
async def asked_again_after_the_end(p: Puppet) -> None:
    """The run ended before the update was accepted."""
    await idle(p)
    update = begin_update(p)
    await p.workflow_task()
    await p.terminate()
    await update.refused()
    await _asked_again(p)


@scenario
async def asked_again_of_a_run_that_another_continues(p: Puppet) -> None:
    """A caller that names the first run is told that it is closing, however late it asks."""
    first = await p.start()
    await p.step(timer())
    fields = {**p.update_fields("change", "u"), "workflow_execution": p.execution(run_id=first)}
    update = p.begin("UpdateWorkflowExecution", record=False, **fields)
    await p.complete(await p.workflow_task(), continue_as_new(p.task_queue))
    await update.refused()
    await _asked_again(p, run_id=first)
    await p.terminate()
