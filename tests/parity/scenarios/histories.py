"""GetWorkflowExecutionHistory: pages, reverse, long polls, the close event alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.parity.commands import complete_workflow, continue_as_new, marker, timer
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet

CLOSE_EVENT = "HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT"


async def _closed(p: Puppet) -> str:
    run = await p.start()
    await p.step(timer("1"), marker("m"))
    await p.signal("s")
    await p.step(complete_workflow("r"))
    return run


async def _pages(p: Puppet, rpc: str, size: int) -> None:
    """All events by pages. Where pages end is the store's matter (a page holds whole batches), the events are not."""
    found, token, pages = [], b"", 0
    while True:
        answer = await p.call(rpc, record=False, execution=p.execution(), maximum_page_size=size, next_page_token=token)
        found += [(event.event_id, event.event_type) for event in answer.history.events]
        pages += 1
        token = answer.next_page_token
        if not token:
            break
    p.note("events", found)
    p.note("several pages", pages > 1)


@scenario
async def forward_in_pages(p: Puppet) -> None:
    await _closed(p)
    await _pages(p, "GetWorkflowExecutionHistory", 2)


@scenario
async def reverse_in_pages(p: Puppet) -> None:
    await _closed(p)
    await _pages(p, "GetWorkflowExecutionHistoryReverse", 2)


@scenario
async def reverse_at_once(p: Puppet) -> None:
    await _closed(p)
    await p.call("GetWorkflowExecutionHistoryReverse", execution=p.execution())


@scenario
async def close_event_of_a_closed_one(p: Puppet) -> None:
    await _closed(p)
    await p.history(history_event_filter_type=CLOSE_EVENT)
    await p.history(history_event_filter_type=CLOSE_EVENT, wait_new_event=True)


@scenario
async def close_event_of_an_open_one(p: Puppet) -> None:
    await p.start()
    await p.step(timer())
    await p.history(history_event_filter_type=CLOSE_EVENT)
    await p.terminate()


@scenario
async def waits_for_the_close_event(p: Puppet) -> None:
    await p.start()
    waiting = p.begin(
        "GetWorkflowExecutionHistory",
        execution=p.execution(),
        history_event_filter_type=CLOSE_EVENT,
        wait_new_event=True,
    )
    await p.step(complete_workflow("r"))
    await waiting.answer()


@scenario
async def waits_for_new_events(p: Puppet) -> None:
    await p.start()
    first = await p.history(wait_new_event=True)
    waiting = p.begin(
        "GetWorkflowExecutionHistory",
        execution=p.execution(),
        wait_new_event=True,
        next_page_token=first.next_page_token,
    )
    await p.signal("s")
    second = await waiting.answer()
    p.note("goes on", bool(second.next_page_token))
    await p.terminate()


@scenario
async def close_event_points_to_the_next_run(p: Puppet) -> None:
    first = await p.start()
    await p.step(continue_as_new(p.task_queue))
    await p.history(run_id=first, history_event_filter_type=CLOSE_EVENT, wait_new_event=True)
    await p.terminate()


@scenario
async def wrong_ones(p: Puppet) -> None:
    for rpc in ("GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse"):
        await p.refused(rpc)
        await p.refused(rpc, execution=p.execution("nobody"))
        await p.refused(rpc, execution=p.execution(run_id="no uuid"))
        await p.refused(rpc, execution=p.execution(run_id="01a20d28-154e-7ce0-b390-dac353ef0fba"))
        await p.refused(rpc, execution=p.execution(), next_page_token=b"nonsense")
        await p.refused(rpc, execution=p.execution(), namespace="nowhere")
        await p.attempt(rpc, execution=p.execution("nobody"), maximum_page_size=-1)


@scenario
async def transient_events_are_shown_to_clients(p: Puppet) -> None:
    await p.start()
    await p.fail_task(await p.workflow_task())
    await p.workflow_task()
    await p.history()
    await p.terminate()
    await p.history()
