"""Whatever a size limit lets in, every path stores: at the limit and one byte below it work goes on, one above is refused.

Each path that takes a memo stands in `MEMO_PATHS`; each is tried on both stores with the limit as it is by default.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio
from temporalio.api.common.v1 import Memo, Payload, Payloads

from tests.parity import commands as c
from tests.parity import servers
from tests.parity.puppet import Puppet, Refused, seconds
from tests.patience import PATIENCE_S
from tests.postgres import available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)

STORES = [
    "sqlite",
    pytest.param(
        "postgres", marks=[pytest.mark.postgres, pytest.mark.skipif(not available(), reason="no Postgres here")]
    ),
]
LIMIT = 2 * 1024 * 1024
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    with servers.in_a_loop_of_its_own(servers.our_server(request.param)) as address:
        yield address


@pytest_asyncio.fixture
async def p(server: servers.Server) -> AsyncIterator[Puppet]:
    async with grpc.aio.insecure_channel(server, options=OPTIONS) as channel:
        yield Puppet(channel)


def _grow(message: Memo | Payloads, grown: Payload, size: int) -> None:
    """Fill the payload until the message has exactly so many bytes, which no compression makes fewer."""
    grown.metadata["encoding"] = b"binary/plain"
    data = os.urandom(size)
    while message.ByteSize() != size:
        grown.data = data[: len(grown.data) + size - message.ByteSize()]


def memo_of(size: int, name: str = "m") -> Memo:
    """Return a memo of exactly so many bytes."""
    memo = Memo()
    _grow(memo, memo.fields[name], size)
    return memo


async def _shown(p: Puppet, workflow_id: str, memo: Memo) -> None:
    """Check that the run can be described and listed with that memo, and closes."""
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution(workflow_id))
    assert described.workflow_execution_info.memo == memo
    listed = await p.call("ListWorkflowExecutions", record=False, query=f"WorkflowId = '{workflow_id}'")
    assert any(info.memo == memo for info in listed.executions)
    await p.terminate(workflow_id)


async def _start(p: Puppet, memo: Memo) -> None:
    await p.start(memo=memo)
    await _shown(p, p.workflow_id, memo)


async def _signal_with_start(p: Puppet, memo: Memo) -> None:
    await p.call("SignalWithStartWorkflowExecution", **p.start_fields(memo=memo), signal_name="s")
    await _shown(p, p.workflow_id, memo)


async def _child(p: Puppet, memo: Memo) -> None:
    await p.start()
    await p.step(c.child(p.id("child"), p.id("nobody"), memo=memo))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Refused):
                return await _shown(p, p.id("child"), memo)
            await asyncio.sleep(0.1)


async def _modify(p: Puppet, memo: Memo) -> None:
    await p.start()
    await p.step(c.command("modify_workflow_properties", upserted_memo=memo))
    await _shown(p, p.workflow_id, memo)


async def _merge(p: Puppet, memo: Memo) -> None:
    """Half of the memo is there from the start, the other half is merged into it."""
    half = memo_of(memo.ByteSize() // 2, "first")
    rest = memo_of(memo.ByteSize() - half.ByteSize(), "then")
    await p.start(memo=half)
    await p.step(c.command("modify_workflow_properties", upserted_memo=rest))
    half.MergeFrom(rest)
    assert half.ByteSize() == memo.ByteSize()
    await _shown(p, p.workflow_id, half)


async def _continue_as_new(p: Puppet, memo: Memo) -> None:
    await p.start()
    await p.step(c.continue_as_new(p.task_queue, memo=memo))
    await _shown(p, p.workflow_id, memo)


async def _retry(p: Puppet, memo: Memo) -> None:
    await p.start(memo=memo, retry_policy={"maximum_attempts": 3, "initial_interval": seconds(1)})
    await p.step(c.fail_workflow())
    await _shown(p, p.workflow_id, memo)


async def _cron(p: Puppet, memo: Memo) -> None:
    await p.start(memo=memo, cron_schedule="@every 1s")
    await p.step(c.complete_workflow())
    await _shown(p, p.workflow_id, memo)


async def _reset(p: Puppet, memo: Memo) -> None:
    run_id = await p.start(memo=memo)
    await p.step(c.timer())
    await p.call(
        "ResetWorkflowExecution", workflow_execution=p.execution(run_id=run_id), workflow_task_finish_event_id=4,
        request_id=p.id("reset"),
    )  # fmt: skip
    await _shown(p, p.workflow_id, memo)


async def _schedule(p: Puppet, memo: Memo) -> None:
    action = {"workflow_id": p.workflow_id, "workflow_type": {"name": "Journey"}, "task_queue": {"name": p.task_queue}}
    # The schedule itself counts for the limit of payloads, which is as large.
    memo = memo_of(memo.ByteSize() - (1000 if memo.ByteSize() <= LIMIT else 0))
    await p.call(
        "CreateSchedule", schedule_id=p.id("schedule"), request_id=p.id("create"), memo=memo,
        schedule={"action": {"start_workflow": action}},
    )  # fmt: skip
    assert (await p.call("DescribeSchedule", record=False, schedule_id=p.id("schedule"))).memo == memo
    listed = await p.call("ListSchedules", record=False)
    assert any(each.memo == memo for each in listed.schedules)
    await p.call("DeleteSchedule", schedule_id=p.id("schedule"))


async def _action(p: Puppet, memo: Memo) -> None:
    """The workflow that a schedule starts has the memo."""
    memo = memo_of(memo.ByteSize() - (1000 if memo.ByteSize() <= LIMIT else 0))
    action = {
        "workflow_id": p.workflow_id, "workflow_type": {"name": "Journey"}, "task_queue": {"name": p.task_queue},
        "memo": memo,
    }  # fmt: skip
    await p.call(
        "CreateSchedule", schedule_id=p.id("schedule"), request_id=p.id("create"),
        schedule={"action": {"start_workflow": action}}, initial_patch={"trigger_immediately": {}},
    )  # fmt: skip
    task = await p.workflow_task(record=False)
    described = await p.call("DescribeWorkflowExecution", record=False, execution=task.workflow_execution)
    assert described.workflow_execution_info.memo == memo
    await p.call("DeleteSchedule", schedule_id=p.id("schedule"))


MEMO_PATHS: tuple[Callable[[Puppet, Memo], Awaitable[None]], ...] = (
    _start, _signal_with_start, _child, _modify, _merge, _continue_as_new, _retry, _cron, _reset, _schedule, _action,
)  # fmt: skip


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT], ids=["below", "at"])
@pytest.mark.parametrize("path", MEMO_PATHS, ids=lambda path: path.__name__.strip("_"))
async def test_a_memo_within_the_limit_is_stored(
    p: Puppet, path: Callable[[Puppet, Memo], Awaitable[None]], size: int
) -> None:
    await path(p, memo_of(size))


FROM_CLIENTS = (_start, _signal_with_start, _schedule, _action)
FROM_WORKERS = (_child, _modify, _merge, _continue_as_new)


@pytest.mark.parametrize("path", FROM_CLIENTS, ids=lambda path: path.__name__.strip("_"))
async def test_a_memo_above_the_limit_is_refused(p: Puppet, path: Callable[[Puppet, Memo], Awaitable[None]]) -> None:
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT: (Memo|Blob data) size exceeds limit\."):
        await path(p, memo_of(LIMIT + 1))


@pytest.mark.parametrize("path", FROM_WORKERS, ids=lambda path: path.__name__.strip("_"))
async def test_a_command_with_a_memo_above_the_limit_ends_the_run(
    p: Puppet, path: Callable[[Puppet, Memo], Awaitable[None]]
) -> None:
    with pytest.raises(Exception, match=r"exceeds|not found|no event"):
        await path(p, memo_of(LIMIT + 1))
    described: Any = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
    assert described.workflow_execution_info.status == 5  # terminated


# ---- payloads --------------------------------------------------------------------------------------------------------


async def _input(p: Puppet, given: Payloads) -> None:
    await p.start(input=given)
    task = await p.workflow_task(record=False)
    assert task.history.events[0].workflow_execution_started_event_attributes.input == given


async def _signal(p: Puppet, given: Payloads) -> None:
    await p.start()
    await p.call("SignalWorkflowExecution", workflow_execution=p.execution(), signal_name="s", input=given)
    assert (await _events(p))[2].workflow_execution_signaled_event_attributes.input == given


async def _activity(p: Puppet, given: Payloads) -> None:
    """Its input, its progress and its result."""
    await p.start()
    await p.step(c.activity("a", p.task_queue, input=given))
    task = await p.activity_task(record=False)
    assert task.input == given
    await p.call("RecordActivityTaskHeartbeat", record=False, task_token=task.task_token, details=given)
    described = await p.call("DescribeWorkflowExecution", record=False, execution=p.execution())
    assert described.pending_activities[0].heartbeat_details == given
    await p.call("RespondActivityTaskCompleted", record=False, task_token=task.task_token, result=given)
    events = await _events(p)
    assert any(event.activity_task_completed_event_attributes.result == given for event in events)


async def _result(p: Puppet, given: Payloads) -> None:
    await p.start()
    await p.step(c.command("complete_workflow_execution", result=given))
    assert (await _events(p))[-1].workflow_execution_completed_event_attributes.result == given


async def _child_input(p: Puppet, given: Payloads) -> None:
    await p.start()
    # On a queue of its own: the parent has a task, too.
    await p.step(c.child(p.id("child"), p.id("leg"), input=given))
    task = await p.workflow_task(p.id("leg"), record=False)
    assert task.history.events[0].workflow_execution_started_event_attributes.input == given


async def _marker(p: Puppet, given: Payloads) -> None:
    await p.start()
    await p.step(c.marker(details={"d": given}))
    assert (await _events(p))[-1].marker_recorded_event_attributes.details["d"] == given


async def _answer(p: Puppet, given: Payloads) -> None:
    await p.start()
    await p.step(c.timer())
    asked = p.begin("QueryWorkflow", record=False, execution=p.execution(), query={"query_type": "q"})
    task = await p.workflow_task(record=False)
    await p.call(
        "RespondQueryTaskCompleted", task_token=task.task_token, completed_type="QUERY_RESULT_TYPE_ANSWERED",
        query_result=given,
    )  # fmt: skip
    assert (await asked.answer()).query_result == given


async def _events(p: Puppet) -> list[Any]:
    """All events; a page ends behind some megabytes."""
    events: list[Any] = []
    token = b""
    while True:
        page = await p.call("GetWorkflowExecutionHistory", record=False, execution=p.execution(), next_page_token=token)
        events += page.history.events
        token = page.next_page_token
        if not token:
            return events


PAYLOAD_PATHS: tuple[Callable[[Puppet, Payloads], Awaitable[None]], ...] = (
    _input, _signal, _activity, _result, _child_input, _answer,
)  # fmt: skip


def _payloads_of(size: int) -> Payloads:
    given = Payloads()
    _grow(given, given.payloads.add(), size)
    return given


@pytest.mark.parametrize("path", PAYLOAD_PATHS, ids=lambda path: path.__name__.strip("_"))
async def test_payloads_at_the_limit_come_back_whole(
    p: Puppet, path: Callable[[Puppet, Payloads], Awaitable[None]]
) -> None:
    await path(p, _payloads_of(LIMIT))


async def test_details_of_markers_come_back_whole(p: Puppet) -> None:
    """Their names count, too."""
    await _marker(p, _payloads_of(LIMIT - 1))


@pytest.mark.parametrize("path", PAYLOAD_PATHS, ids=lambda path: path.__name__.strip("_"))
async def test_payloads_above_the_limit_are_refused(
    p: Puppet, path: Callable[[Puppet, Payloads], Awaitable[None]]
) -> None:
    with pytest.raises(Refused, match=r"exceeds size limit|exceeds"):
        await path(p, _payloads_of(LIMIT + 1))
