"""Signals and cancel requests from one workflow to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.parity.commands import cancel_external, child, complete_workflow, signal_external
from tests.parity.puppet import payload
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


@scenario
async def signals(p: Puppet) -> None:
    await p.start(p.id("target"), task_queue={"name": p.id("target-queue")})
    await p.start()
    await p.step(signal_external(p.id("target"), control="c", header={"fields": {"h": payload("h")}}))
    await p.step(complete_workflow())
    await p.history()
    await p.history(p.id("target"))
    await p.terminate(p.id("target"))


@scenario
async def signals_nobody(p: Puppet) -> None:
    await p.start()
    await p.step(signal_external(p.id("nobody")))
    await p.step(complete_workflow())
    await p.history()


@scenario
async def signals_a_closed_one(p: Puppet) -> None:
    await p.start(p.id("target"))
    await p.step(complete_workflow())
    await p.start()
    await p.step(signal_external(p.id("target")))
    await p.step(complete_workflow())
    await p.history()


@scenario
async def signals_itself(p: Puppet) -> None:
    await p.start()
    await p.step(signal_external(p.workflow_id))
    task = await p.workflow_task(record=False)
    await p.complete(task)
    await p.history()
    await p.terminate()


@scenario
async def signals_a_child_only(p: Puppet) -> None:
    await p.start(p.id("stranger"), task_queue={"name": p.id("target-queue")})
    await p.start()
    await p.step(signal_external(p.id("stranger"), child_workflow_only=True))
    await p.step(complete_workflow())
    await p.history()
    await p.history(p.id("stranger"))
    await p.terminate(p.id("stranger"))


@scenario
async def signals_its_child(p: Puppet) -> None:
    kid, queue = p.id("child"), p.id("child-queue")
    await p.start()
    await p.step(child(kid, queue))
    await p.has_event("child_workflow_execution_started")
    await p.step(signal_external(kid, child_workflow_only=True))
    await p.has_event("external_workflow_execution_signaled")
    await p.history(kid)
    await p.history()
    await p.terminate()


@scenario
async def cancels(p: Puppet) -> None:
    await p.start(p.id("target"), task_queue={"name": p.id("target-queue")})
    await p.start()
    await p.step(cancel_external(p.id("target"), reason="why", control="c"))
    await p.step(complete_workflow())
    await p.history()
    await p.history(p.id("target"))
    await p.terminate(p.id("target"))


@scenario
async def cancels_nobody(p: Puppet) -> None:
    await p.start()
    await p.step(cancel_external(p.id("nobody")))
    await p.step(complete_workflow())
    await p.history()


@scenario
async def cancels_a_closed_one(p: Puppet) -> None:
    await p.start(p.id("target"))
    await p.step(complete_workflow())
    await p.start()
    await p.step(cancel_external(p.id("target")))
    await p.step(complete_workflow())
    await p.history()


@scenario
async def pending_ones_are_described(p: Puppet) -> None:
    await p.start()
    await p.step(signal_external(p.id("nobody")), cancel_external(p.id("nobody")))
    await p.has_event("signal_external_workflow_execution_failed")
    await p.has_event("request_cancel_external_workflow_execution_failed")
    await p.describe()
    await p.terminate()


@scenario
async def bad_ones(p: Puppet) -> None:
    for bad in (
        signal_external(""),
        signal_external("x" * 1001),
        signal_external(p.id("x"), ""),
        signal_external(p.id("x"), namespace="nowhere"),
        cancel_external(""),
        cancel_external("x" * 1001),
        cancel_external(p.id("x"), run_id="no uuid"),
        cancel_external(p.id("x"), namespace="nowhere"),
    ):
        await p.start()
        await p.bad_step(bad)
        await p.history()
        await p.terminate()
