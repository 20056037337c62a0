"""Answers of workflow tasks in pages: refused by default, put together where they are switched on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity.commands import complete_workflow, marker, timer
from tests.parity.puppet import payloads
from tests.parity.scenarios import limited_scenario, scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


async def _page(p: Puppet, task: Any, number: int, *commands: dict[str, Any], last: bool = False) -> None:
    await p.attempt(
        "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=list(commands), identity="worker",
        page_number=number, intermediate_page=not last,
    )  # fmt: skip


@scenario
async def pages_are_refused_by_default(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await _page(p, task, 0, timer("a"))
    await _page(p, task, 1, timer("b"), last=True)
    await p.complete(task, complete_workflow())
    await _page(p, task, 0, timer("a"))
    await p.history()


@limited_scenario
async def pages_are_put_together_in_order(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await _page(p, task, 1, timer("c"))
    await _page(p, task, 0, timer("a"), timer("b"))
    await _page(p, task, 0, timer("a-again"))
    await _page(p, task, 2, marker(), complete_workflow("out"), last=True)
    await _page(p, task, 2, complete_workflow("out"), last=True)
    await p.history()


@limited_scenario
async def the_last_page_may_be_empty(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await _page(p, task, 0, complete_workflow("out"))
    await _page(p, task, 1, last=True)
    await p.history()


@limited_scenario
async def pages_that_are_missing(p: Puppet) -> None:
    """The worker sends all of them again."""
    await p.start()
    task = await p.workflow_task()
    await _page(p, task, 1, timer("b"), last=True)
    await _page(p, task, 0, timer("a"))
    await _page(p, task, 2, timer("c"), last=True)
    await _page(p, task, 1, timer("b"), last=True)
    await _page(p, task, 0, timer("a"))
    await _page(p, task, 1, timer("b"), last=True)
    await p.history()


@limited_scenario
async def pages_that_are_no_pages(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await _page(p, task, 0)
    await _page(p, task, -1, timer("a"))
    await _page(p, task, 1024, timer("a"))
    await _page(p, task, 1024, timer("a"), last=True)
    await p.complete(task, complete_workflow())
    await p.history()


@limited_scenario
async def pages_that_are_too_much_together(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await _page(p, task, 0, marker("a", details={"d": payloads("x" * 1100)}))
    await _page(p, task, 1, marker("b", details={"d": payloads("x" * 1100)}))
    await p.history()


@limited_scenario
async def pages_of_a_task_that_failed(p: Puppet) -> None:
    await p.start()
    task = await p.workflow_task()
    await _page(p, task, 0, timer("a"))
    await p.fail_task(task)
    again = await p.workflow_task()
    await _page(p, task, 0, timer("a"))
    await _page(p, again, 1, timer("b"), last=True)
    await p.complete(again, complete_workflow())
    await p.history()
