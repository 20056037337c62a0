"""Commands to workers on their way: handed out, answered, made again, given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from temporalio.api.nexusservices.workerservice.v1 import request_response_pb2 as commands_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.core.command_builders import schedule_activity
from tests.history.test_executions import NAMESPACE_ID, Bench
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto import internal_pb2
from whistlestop.common.proto.nexus_pb2 import RecordNexusRequestStartedRequest
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.core.limits import Limits
from whistlestop.history.transfers.worker_commands import MOST_ATTEMPTS, OPERATION, SERVICE
from whistlestop.storage.records import SLOTS, MatchingTask
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONTROL = "/temporal-sys/worker-commands/default/one"
_WORKFLOW, _ACTIVITY, _NEXUS = 1, 2, 3


@pytest_asyncio.fixture(params=[True, False], ids=["alone", "among_others"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    yield Bench(store, Limits(cancel_activity_worker_command=True), exclusive=request.param)
    await store.close()


async def rows(bench: Bench, queue: str, task_type: int) -> list[MatchingTask]:
    return await bench.store.list_tasks(NAMESPACE_ID, queue, task_type, None, 10)


async def terminated(bench: Bench, control_queue: str = CONTROL) -> bytes:
    """Close a run whose activity a worker has; return the activity's token."""
    await bench.start()
    (task,) = await rows(bench, "q", _WORKFLOW)
    poll = rr.PollWorkflowTaskQueueRequest(namespace="default", identity="w")
    asked = internal_pb2.RecordWorkflowTaskStartedRequest(
        scheduled_event_id=task.scheduled_event_id, stamp=task.stamp, request_id="r", poll=poll, task_queue="q"
    )
    asked.execution.workflow_id, asked.execution.run_id = task.workflow_id, task.run_id
    answer: Any = decoded(
        await bench.history.call(HistoryService.RecordWorkflowTaskStarted, asked, bench.context),
        rr.PollWorkflowTaskQueueResponse,
    )
    await bench.call("RespondWorkflowTaskCompleted", task_token=answer.task_token, commands=[schedule_activity()])
    (task,) = await rows(bench, "orders", _ACTIVITY)
    started = internal_pb2.RecordActivityTaskStartedRequest(
        execution=asked.execution,
        scheduled_event_id=task.scheduled_event_id,
        stamp=task.stamp,
        request_id="r",
        poll=rr.PollActivityTaskQueueRequest(namespace="default", worker_control_task_queue=control_queue),
    )
    activity: Any = decoded(
        await bench.history.call(HistoryService.RecordActivityTaskStarted, started, bench.context),
        rr.PollActivityTaskQueueResponse,
    )
    await bench.call("TerminateWorkflowExecution", workflow_execution={"workflow_id": "wf"})
    await bench.history.transfers.drain()
    return bytes(activity.task_token)


async def take(bench: Bench) -> Any:
    """Poll the control queue, as matching does it."""
    (task,) = await rows(bench, CONTROL, _NEXUS)
    request = RecordNexusRequestStartedRequest(query_id=task.query_id, namespace_id=NAMESPACE_ID)
    answer = decoded(
        await bench.history.call(HistoryService.RecordNexusRequestStarted, request, bench.context),
        rr.PollNexusTaskQueueResponse,
    )
    await bench.store.delete_tasks([task.key])
    return answer


async def look_again(bench: Bench, seconds: float = 10) -> None:
    await bench.clock.advance(seconds)
    await bench.history.transfers.sweep_once()
    await bench.history.transfers.drain()


async def owed(bench: Bench) -> int:
    return len(await bench.store.scan_transfer_tasks(0, SLOTS, bench.clock.now_ns() + 3600 * SECOND_NS, 10))


async def test_the_worker_gets_the_tokens_of_its_activities(bench: Bench) -> None:
    token = await terminated(bench)
    task = await take(bench)
    start = task.request.start_operation
    assert (start.service, start.operation, dict(start.payload.metadata)) == (
        SERVICE,
        OPERATION,
        {"encoding": b"binary/protobuf"},
    )
    commands = commands_pb.ExecuteCommandsRequest.FromString(start.payload.data).commands
    assert [command.cancel_activity.task_token for command in commands] == [token]
    assert task.request.header["request-timeout"] == "9.000000000s"


async def test_an_answered_request_is_not_made_again(bench: Bench) -> None:
    await terminated(bench)
    task = await take(bench)
    await bench.call(
        "RespondNexusTaskCompleted", task_token=task.task_token, response={"start_operation": {"sync_success": {}}}
    )
    await look_again(bench)
    assert (await rows(bench, CONTROL, _NEXUS), await owed(bench)) == ([], 0)
    assert await bench.store.purge_queries(2**62, 10) == 0


async def test_a_request_that_no_worker_takes_is_given_up(bench: Bench) -> None:
    """And leaves nothing behind."""
    await terminated(bench)
    for _ in range(MOST_ATTEMPTS):
        assert (len(await rows(bench, CONTROL, _NEXUS)), await owed(bench)) == (1, 1)
        await look_again(bench)
    assert (await rows(bench, CONTROL, _NEXUS), await owed(bench)) == ([], 0)
    assert await bench.store.purge_queries(2**62, 10) == 0


async def test_a_request_of_a_worker_that_died_is_sent_again(bench: Bench) -> None:
    await terminated(bench)
    first = await take(bench)
    await look_again(bench)
    second = await take(bench)
    assert second.request.start_operation == first.request.start_operation


async def test_a_late_answer_is_discarded(bench: Bench) -> None:
    await terminated(bench)
    task = await take(bench)
    for _ in range(MOST_ATTEMPTS):
        await look_again(bench)
    with pytest.raises(ServiceError) as refused:
        await bench.call("RespondNexusTaskCompleted", task_token=task.task_token)
    assert refused.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(("kind", "again"), [("INTERNAL", 1), ("UNAVAILABLE", 1), ("BAD_REQUEST", 0), ("", 1)])
async def test_a_refusal_is_final_or_not(bench: Bench, kind: str, again: int) -> None:
    await terminated(bench)
    task = await take(bench)
    await bench.call("RespondNexusTaskFailed", task_token=task.task_token, error={"error_type": kind})
    await look_again(bench)
    assert (len(await rows(bench, CONTROL, _NEXUS)), await owed(bench)) == (again, again)


async def test_a_failure_of_the_command_itself_is_final(bench: Bench) -> None:
    """The worker's contract knows no such answer."""
    await terminated(bench)
    task = await take(bench)
    failure = {"message": "no", "application_failure_info": {"type": "X"}}
    await bench.call("RespondNexusTaskFailed", task_token=task.task_token, failure=failure)
    await look_again(bench)
    assert (await rows(bench, CONTROL, _NEXUS), await owed(bench)) == ([], 0)


@pytest.mark.parametrize("queue", ["/_sys/x", "x" * 1001])
async def test_a_queue_that_cannot_be_polled_gets_no_tasks(bench: Bench, queue: str) -> None:
    await terminated(bench, queue)
    assert (await rows(bench, queue, _NEXUS), await owed(bench)) == ([], 0)
