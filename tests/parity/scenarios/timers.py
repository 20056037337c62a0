"""Timers and markers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.parity.commands import activity, cancel_timer, complete_workflow, marker, timer
from tests.parity.puppet import failure, payload, payloads
from tests.parity.scenarios import scenario, slow_scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


@slow_scenario
async def fires(p: Puppet) -> None:
    await p.start()
    await p.step(timer("t", 1))
    await p.step(complete_workflow())
    await p.history()


@scenario
async def short_one_fires(p: Puppet) -> None:
    await p.start()
    await p.step(timer("t", 0.05))
    await p.step(complete_workflow())
    await p.history()


@slow_scenario
async def short_one_beside_an_activity_that_takes_longer(p: Puppet) -> None:
    """The activity comes first, since no timer of Temporal's fires sooner than about a second after its start."""
    await p.start()
    await p.step(timer("t", 0.1), activity("a", p.task_queue))
    task = await p.activity_task()
    await asyncio.sleep(0.3)
    await p.complete_activity(task)
    await p.has_event("activity_task_completed")
    told = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution())
    names = [event.WhichOneof("attributes") for event in told.history.events]
    p.note("up to the activity's end", names[: names.index("activity_task_completed_event_attributes") + 2])
    await p.has_event("timer_fired")
    await p.terminate()


@slow_scenario
async def fires_while_a_task_is_out(p: Puppet) -> None:
    await p.start()
    await p.step(timer("t", 0.5))
    await p.signal("s")
    task = await p.workflow_task()
    await asyncio.sleep(1.2)
    await p.complete(task, cancel_timer("t"))
    await p.history()
    await p.terminate()


@scenario
async def cancelled(p: Puppet) -> None:
    await p.start()
    await p.step(timer("t"))
    await p.signal("s")
    await p.step(cancel_timer("t"), complete_workflow())
    await p.history()


@scenario
async def id_used_again_after_cancel(p: Puppet) -> None:
    await p.start()
    await p.step(timer("t"), cancel_timer("t"), timer("t"))
    await p.history()
    await p.terminate()


@scenario
async def same_id_twice(p: Puppet) -> None:
    await p.start()
    await p.bad_step(timer("t"), timer("t"))
    await p.history()
    await p.terminate()


@scenario
async def bad_timers(p: Puppet) -> None:
    for bad in (timer(""), timer("x" * 1001), timer("t", -1), cancel_timer(""), cancel_timer("nobody")):
        await p.start()
        await p.bad_step(bad)
        await p.history()
        await p.terminate()


@scenario
async def markers(p: Puppet) -> None:
    await p.start()
    await p.step(
        marker("plain"),
        marker("full", details={"d": payloads("x")}, header={"fields": {"h": payload("h")}}, failure=failure("f")),
        complete_workflow(),
    )
    await p.history()


@scenario
async def bad_marker(p: Puppet) -> None:
    await p.start()
    await p.bad_step(marker(""))
    await p.history()
    await p.terminate()
