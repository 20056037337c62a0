"""Parts of a request that are there and empty: what is kept of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity import commands, updating
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

EMPTY: dict[str, Any] = {"memo": {}, "search_attributes": {}, "header": {}, "input": {}}


@scenario
async def of_a_child(p: Puppet) -> None:
    await p.start()
    await p.step(commands.child(p.id("child"), p.id("elsewhere"), **EMPTY, priority={}))
    await p.has_event("child_workflow_execution_started")
    await p.has_event("workflow_task_scheduled", p.id("child"))
    await p.history()
    await p.history(p.id("child"))
    await p.describe(p.id("child"))
    await p.terminate()


@scenario
async def of_a_start(p: Puppet) -> None:
    await p.start(**EMPTY, priority={})
    await p.history()
    await p.describe()
    await p.step(commands.continue_as_new(p.task_queue, **EMPTY))
    await p.history()
    await p.describe()
    await p.terminate()


@scenario
async def of_a_start_with_a_signal(p: Puppet) -> None:
    await p.call(
        "SignalWithStartWorkflowExecution", signal_name="go", signal_input={}, **p.start_fields(**EMPTY, priority={})
    )
    await p.history()
    await p.terminate()


@scenario
async def links_of_the_request_and_of_its_callback(p: Puppet) -> None:
    """A handler that starts a workflow for a Nexus operation gives the caller's link in both places."""
    link = {
        "workflow_event": {
            "namespace": "default", "workflow_id": p.id("caller"), "run_id": "01a20d28-154e-7ce0-b390-dac353ef0fba",
            "event_ref": {"event_id": 5, "event_type": "EVENT_TYPE_NEXUS_OPERATION_SCHEDULED"},
        }
    }  # fmt: skip
    other = {"batch_job": {"job_id": "j"}}
    callback = {"nexus": {"url": "temporal://system", "header": {"nexus-callback-token": "x"}}, "links": [link, other]}
    await p.start(links=[link], completion_callbacks=[callback])
    await p.history()
    await p.call(
        "StartWorkflowExecution",
        **p.start_fields(
            workflow_id_conflict_policy="WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING",
            links=[other],
            completion_callbacks=[callback],
            on_conflict_options={"attach_request_id": True, "attach_completion_callbacks": True, "attach_links": True},
        ),
    )
    await p.history()
    await p.terminate()


@scenario
async def links_of_an_update_and_of_its_callback(p: Puppet) -> None:
    """Unlike a start, an update keeps both."""
    link = {"batch_job": {"job_id": "j"}}
    callback = {"nexus": {"url": "temporal://system", "header": {"nexus-callback-token": "x"}}, "links": [link]}
    await p.start()
    await p.step()

    asked = p.update_fields("change", "u", stage="ACCEPTED")
    asked["request"] |= {"request_id": "r", "completion_callbacks": [callback], "links": [link, link]}
    asking = p.begin("UpdateWorkflowExecution", **asked)
    task = await p.workflow_task()
    await updating.respond(p, task, [updating.accept(task.messages[0])])
    await asking.answer()
    await p.history()
    await p.terminate()
