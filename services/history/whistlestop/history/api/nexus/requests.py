"""External Nexus requests: received over HTTP, dispatched to a worker of the queue, answered to the waiting caller.

They are not written into any history. Request and answer are in a row, like those of a query, because receiving,
dispatching and answering may happen on different instances; the row is deleted when the caller leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.nexus.v1 import message_pb2 as nexus_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import not_found
from whistlestop.common.messages import nexus_content
from whistlestop.common.notify import query_topic
from whistlestop.common.proto import internal_pb2
from whistlestop.common.proto.nexus_pb2 import (
    DispatchNexusTaskRequest,
    DispatchNexusTaskResponse,
    RecordNexusRequestStartedRequest,
)
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.times import MILLISECOND_NS, SECOND_NS, timestamp_ns
from whistlestop.history.core.versioning import nexus as nexus_routing
from whistlestop.history.engine.waiting_callers import is_waiting
from whistlestop.storage.records import ExecutionKey, MatchingTask, QueryRecord, TaskKey

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.ports import HistoryPorts

LONGEST_NS = 60 * SECOND_NS
_PRIORITY = 3
_CHECK_AGAIN_NS = 2 * SECOND_NS
"""The time after which an unanswered request is checked for a change of the routing; it doubles from then on."""
_OPERATION_TIMEOUT = "operation-timeout"


@handles(HistoryService.DispatchNexusTask)
async def dispatch_nexus_task(
    ports: HistoryPorts, request: DispatchNexusTaskRequest, context: CallContext
) -> DispatchNexusTaskResponse:
    """Dispatch the request to a worker and wait for its answer, until shortly before the caller's deadline.

    Without an answer by then, the response has `timed_out`. Raise StorageError.
    """
    steady_ns = ports.clock.steady_ns()
    deadline_ns = steady_ns + LONGEST_NS
    if context.deadline_ns is not None:
        deadline_ns = min(deadline_ns, context.deadline_ns - ports.limits.of(context.namespace).nexus_answer_margin_ns)
    if deadline_ns <= steady_ns:
        return DispatchNexusTaskResponse(timed_out=True)
    place = ports.ids.uuid()
    while True:
        answer = await _dispatch(ports, request, context.namespace_id, place, deadline_ns)
        if answer is not None:
            return answer
        if ports.clock.steady_ns() >= deadline_ns:
            return DispatchNexusTaskResponse(timed_out=True)


async def _dispatch(
    ports: HistoryPorts, request: DispatchNexusTaskRequest, namespace_id: str, place: str, deadline_ns: int
) -> DispatchNexusTaskResponse | None:
    """Put the request on the queue of a version; return None at the deadline, or when it belongs to another queue.

    `place` stands for the request in ramps, so that it moves only if their routing does.
    """
    request_id, now_ns = ports.ids.uuid(), ports.wall.now_ns()
    deployments = await ports.engine.deployments.cached(namespace_id)
    queue = nexus_routing.queue_of_request(deployments, request.task_queue, place)
    row = TaskKey(namespace_id, queue, nexus_routing.TASK_TYPE, _PRIORITY, ports.ids.task_id(now_ns))
    task = MatchingTask(row, "", "", 0, 0, now_ns, query_id=request_id)
    key = ExecutionKey(namespace_id, "", "")
    pause_ns = _CHECK_AGAIN_NS
    check_ns = ports.clock.steady_ns() + pause_ns
    with (
        ports.notifier.subscribe(query_topic(request_id)) as audience,
        ports.waiting_callers.waiting(request_id, key, deadline_ns) as expires_ns,
    ):
        record = QueryRecord(request_id, key, request.request.SerializeToString(), False, expires_ns)
        await ports.store.put_query(record, task)
        ports.engine.tasks_written((task,))
        try:
            await ports.push.written((task,))
            while True:
                answer = await _answer(ports, request_id)
                if answer is not None:
                    return answer
                await audience.wait(min(deadline_ns, check_ns))
                steady_ns = ports.clock.steady_ns()
                if steady_ns >= deadline_ns:
                    return await _answer(ports, request_id)
                if steady_ns < check_ns:
                    continue
                pause_ns *= 2
                check_ns = steady_ns + pause_ns
                deployments = await ports.engine.deployments.read(namespace_id)
                if nexus_routing.queue_of_request(deployments, request.task_queue, place) == queue:
                    continue
                if await is_waiting(ports.store, row):
                    # Whoever takes the task from now on is refused, because the query is deleted below.
                    return await _answer(ports, request_id)
        finally:
            await ports.store.delete_query(request_id)
            await ports.store.delete_tasks((row,))


async def _answer(ports: HistoryPorts, request_id: str) -> DispatchNexusTaskResponse | None:
    record = await ports.store.get_query(request_id)
    if record is None or record.answer is None:
        return None
    return DispatchNexusTaskResponse.FromString(record.answer)


@handles(HistoryService.RecordNexusRequestStarted)
async def record_nexus_request_started(
    ports: HistoryPorts, request: RecordNexusRequestStartedRequest, context: CallContext
) -> service_pb.PollNexusTaskQueueResponse:
    """Return the request to a poller, with the time that its caller still waits. Raise NOT_FOUND when it is gone."""
    record = await ports.store.get_query(request.query_id)
    if record is None or record.answer is not None or (left_ns := ports.waiting_callers.left_ns(record)) <= 0:
        raise not_found(nexus_operations.TASK_NOT_FOUND)
    reply = service_pb.PollNexusTaskQueueResponse(
        request=nexus_pb.Request.FromString(record.request),
        task_token=internal_pb2.TaskToken(
            namespace_id=request.namespace_id, query_id=request.query_id
        ).SerializeToString(),
    )
    reply.request.header.update(timeout_headers(left_ns))
    _shorten_operation_timeout(reply.request, ports.wall.now_ns())
    return reply


def _shorten_operation_timeout(request: nexus_pb.Request, now_ns: int) -> None:
    """Reduce the operation's timeout by the time since it was requested."""
    span_ms = nexus_content.duration_ms(request.header.get(_OPERATION_TIMEOUT, ""))
    if span_ms:
        left_ms = span_ms - (now_ns - timestamp_ns(request.scheduled_time)) // MILLISECOND_NS
        request.header[_OPERATION_TIMEOUT] = f"{left_ms}ms"


async def answered(ports: HistoryPorts, token: internal_pb2.TaskToken, answer: DispatchNexusTaskResponse) -> None:
    """Store a worker's answer and notify the waiting caller. Raise NOT_FOUND when there is none."""
    key = ExecutionKey(token.namespace_id, "", "")
    if not await ports.store.answer_query(token.query_id, key, answer.SerializeToString()):
        raise not_found(nexus_operations.TASK_NOT_FOUND)
    ports.notifier.publish((query_topic(token.query_id),))


async def completed(
    ports: HistoryPorts, token: internal_pb2.TaskToken, request: service_pb.RespondNexusTaskCompletedRequest
) -> None:
    """Answer with the handler's response, which may say that the operation failed. Raise NOT_FOUND."""
    await answered(ports, token, DispatchNexusTaskResponse(response=request.response))


async def failed(
    ports: HistoryPorts, token: internal_pb2.TaskToken, request: service_pb.RespondNexusTaskFailedRequest
) -> None:
    """Answer with the handler's error. Raise NOT_FOUND."""
    if request.HasField("error"):
        await answered(ports, token, DispatchNexusTaskResponse(handler_error=request.error))
    else:
        await answered(ports, token, DispatchNexusTaskResponse(failure=request.failure))


def timeout_headers(left_ns: int) -> dict[str, str]:
    """Return the headers with a request's timeout, in both spellings that workers read."""
    span = f"{max(left_ns, MILLISECOND_NS) / SECOND_NS:.9f}s"
    return {"request-timeout": span, "Request-Timeout": span}
