"""Who waits for an end is answered after the callbacks within this server: a handler can't answer before them."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.enums.v1 import nexus_pb2 as enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.history.test_executions import NAMESPACE_ID
from tests.history.test_nexus_executions import RESULT, Desk
from tests.parity import updating
from tests.parity.commands import complete_workflow, protocol_message
from tests.parity.puppet import payloads
from tests.turns import turns
from whistlestop.common.clients import decoded
from whistlestop.common.proto import internal_pb2 as internal
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api.activity.standalone import ACTIVITIES
from whistlestop.history.api.nexus.executions import OPERATIONS
from whistlestop.history.core.limits import Limits
from whistlestop.history.nexus.callback_order import LONGEST_NS
from whistlestop.storage.records import ExecutionKey
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HANDLERS = "handlers"
TEMPLATE = "http://127.0.0.1:1/namespaces/{{.NamespaceName}}/nexus/callback"
BY_TEMPLATE = Limits(nexus_system_callback_url=False, nexus_callback_url=TEMPLATE)
Ends = tuple["Callable[[Handler, dict[str, Any]], Awaitable[Any]]", "Callable[[Handler], Awaitable[None]]"]


class Handler(Desk):
    """A desk with a handler of the operation "o", which waits for something that calls the operation back."""

    async def taken(self) -> Any:
        """Start the operation, and return the handler's task."""
        self.operation = ExecutionKey(NAMESPACE_ID, OPERATIONS.workflow_id("o"), (await self.begin()).run_id)
        return await self.take()

    def callback(self, task: Any) -> dict[str, Any]:
        start = task.request.start_operation
        header = {**start.callback_header, "Nexus-Operation-Token": "token"}
        return {"nexus": {"url": start.callback, "header": header}}

    async def workflow_task(self) -> Any:
        for _ in itertools.count():
            rows = await self.store.list_tasks(NAMESPACE_ID, HANDLERS, 1, None, 10)
            if rows:
                break
            await asyncio.sleep(0)
        [row] = rows
        request = internal.RecordWorkflowTaskStartedRequest(
            scheduled_event_id=row.scheduled_event_id, stamp=row.stamp, request_id=self.ids.uuid(), task_queue=HANDLERS
        )
        request.execution.workflow_id, request.execution.run_id = row.workflow_id, row.run_id
        request.poll.task_queue.name = HANDLERS
        reply = await self.history.call(HistoryService.RecordWorkflowTaskStarted, request, self.context)
        return decoded(reply, rr.PollWorkflowTaskQueueResponse)

    async def complete(self, *commands: dict[str, Any], **fields: Any) -> None:
        task = await self.workflow_task()
        await self.call("RespondWorkflowTaskCompleted", task_token=task.task_token, commands=commands, **fields)


async def asks_for_an_update(handler: Handler, callback: dict[str, Any]) -> Any:
    await handler.start("handler", task_queue={"name": HANDLERS})
    return await handler.call(
        "UpdateWorkflowExecution",
        workflow_execution={"workflow_id": "handler"},
        wait_policy={"lifecycle_stage": "UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED"},
        request={
            "meta": {"update_id": "u"}, "input": {"name": "change"}, "request_id": "r",
            "completion_callbacks": [callback],
        },
    )  # fmt: skip


async def completes_the_update(handler: Handler) -> None:
    task = await handler.workflow_task()
    messages = [updating.accept(task.messages[0]), updating.finish("u", success=payloads("out"))]
    await handler.call(
        "RespondWorkflowTaskCompleted", task_token=task.task_token, messages=messages,
        commands=[protocol_message(message["id"]) for message in messages],
    )  # fmt: skip


async def asks_for_a_result(handler: Handler, callback: dict[str, Any]) -> Any:
    await handler.start("handler", task_queue={"name": HANDLERS}, completion_callbacks=[callback])
    return await handler.call(
        "GetWorkflowExecutionHistory", execution={"workflow_id": "handler"}, wait_new_event=True,
        history_event_filter_type="HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT",
    )  # fmt: skip


async def completes_the_workflow(handler: Handler) -> None:
    await handler.complete(complete_workflow("out"))


async def asks_for_an_activity(handler: Handler, callback: dict[str, Any]) -> Any:
    await handler.call(
        "StartActivityExecution", activity_id="a", activity_type={"name": "T"}, task_queue={"name": HANDLERS},
        request_id="r", schedule_to_close_timeout={"seconds": 60}, completion_callbacks=[callback],
        id_reuse_policy="ACTIVITY_ID_REUSE_POLICY_ALLOW_DUPLICATE", id_conflict_policy="ACTIVITY_ID_CONFLICT_POLICY_FAIL",
    )  # fmt: skip
    return await handler.call("PollActivityExecution", activity_id="a")


async def ends_the_activity(handler: Handler) -> None:
    for _ in itertools.count():
        if await handler.store.get_current(NAMESPACE_ID, ACTIVITIES.workflow_id("a")) is not None:
            break
        await asyncio.sleep(0)
    await handler.call("TerminateActivityExecution", activity_id="a", reason="enough", request_id="end")


ENDS = {
    "update": (asks_for_an_update, completes_the_update),
    "workflow": (asks_for_a_result, completes_the_workflow),
    "activity": (asks_for_an_activity, ends_the_activity),
}


@pytest.fixture(params=[Limits(), BY_TEMPLATE], ids=["system_url", "template"])
async def handler(request: pytest.FixtureRequest) -> AsyncIterator[Handler]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    bench = Handler(store, request.param)
    await bench.open()
    yield bench
    await bench.history.close()
    await store.close()


@pytest.mark.parametrize(("ask", "end"), ENDS.values(), ids=ENDS)
async def test_the_callback_is_called_before_the_answer(handler: Handler, ask: Any, end: Any) -> None:
    task = await handler.taken()
    asking = asyncio.create_task(ask(handler, handler.callback(task)))
    async with handler.history.engine.lock(handler.operation):  # the callback can't be called yet
        await end(handler)
        await turns()
        assert not asking.done()
    await asking
    described = await handler.describe()
    assert described.info.operation_token == "token"
    assert described.info.status != enums.NEXUS_OPERATION_EXECUTION_STATUS_RUNNING
    # What the handler says now comes too late, and changes nothing.
    await handler.answer(task, start_operation={"sync_success": {"payload": RESULT}})
    again = await handler.describe()
    assert (again.info.status, again.result, again.failure) == (
        described.info.status, described.result, described.failure,
    )  # fmt: skip


@pytest.mark.parametrize(("ask", "end"), ENDS.values(), ids=ENDS)
async def test_a_callback_that_takes_long_is_not_waited_for(handler: Handler, ask: Any, end: Any) -> None:
    task = await handler.taken()
    asking = asyncio.create_task(ask(handler, handler.callback(task)))
    async with handler.history.engine.lock(handler.operation):
        await end(handler)
        await turns()
        await handler.clock.advance(LONGEST_NS / 1e9)
        await asking


async def test_a_callback_to_another_server_is_not_waited_for(handler: Handler) -> None:
    await handler.taken()
    asking = asyncio.create_task(asks_for_an_update(handler, {"nexus": {"url": "http://127.0.0.2:1/"}}))
    await completes_the_update(handler)
    await asking
