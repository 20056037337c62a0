"""Queries: dispatched directly to a worker, or with the next workflow task so that they see its effects.

A query and its answer are rows, because the asking and the answering call may run on different instances. While a
workflow task is pending, the query waits for it (the run's state records that queries wait, so that the start of a task
reads them); when the task ends and no other follows, the asking call notices and dispatches the query directly.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import failed_cause_pb2
from temporalio.api.enums.v1 import query_pb2 as query_enums
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.query.v1 import message_pb2 as query_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import Encoded, decoded
from whistlestop.common.context import CallContext
from whistlestop.common.errors import (
    Code,
    ServiceError,
    deadline_exceeded,
    failed_precondition,
    invalid_argument,
    not_found,
)
from whistlestop.common.notify import execution_topic, query_topic
from whistlestop.common.proto import internal_pb2
from whistlestop.common.proto.deployment_pb2 import RefreshDrainageRequest
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.versioning import drainage
from whistlestop.common.versioning.deployments import find_version_info, versioned_queue
from whistlestop.history import tokens
from whistlestop.history.api import handles
from whistlestop.history.api.histories import first_page
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.transition.run import PAUSED, RUNNING
from whistlestop.history.core.update import decide as update
from whistlestop.history.core.versioning import decide as versioning
from whistlestop.history.core.versioning import state as versioning_state
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.engine import histories
from whistlestop.history.engine.waiting_callers import is_waiting
from whistlestop.storage.records import ExecutionKey, MatchingTask, QueryRecord, TaskKey

if TYPE_CHECKING:
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.ports import HistoryPorts

DEFAULT_TIMEOUT_S = 10.0
_NO_WORKERS = (
    "You are trying to query a closed Workflow that is PINNED to Worker Deployment Version {0}, but {0} is drained and "
    "has no pollers to answer the query. Immediately: You can re-deploy Workers in this Deployment Version to take "
    "those queries, or you can workflow update-options to change your workflow to AUTO_UPGRADE. For the future: In "
    "your infrastructure, consider waiting longer after the last queried timestamp as reported in Describe Deployment "
    "before you sunset Workers. Or mark this workflow as AUTO_UPGRADE."
)
"""Temporal's wording."""
_NO_POLLER = "no poller seen for task queue recently, worker may be down"
_NO_POLLER_MARGIN_NS = SECOND_NS
"""How long before the caller's deadline it is told that nobody polls, rather than that its time is over."""
_CHECK_AGAIN_NS = 2 * SECOND_NS
"""When a waiting query is first checked for whether its run's workflow tasks are still routed to its queue."""
FAILING_TASK_ATTEMPTS = 3
MAX_ATTACHED = 100
BUFFER_FULL = (
    "consistent query buffer is full, this may be caused by too many queries and workflow not able to process query "
    "fast enough"
)
_TOO_BUSY = details_pb.ResourceExhaustedFailure(
    cause=failed_cause_pb2.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW,
    scope=failed_cause_pb2.RESOURCE_EXHAUSTED_SCOPE_NAMESPACE,
)
TASK_NOT_FOUND = "query task not found, or already expired"
PollResponse = service_pb.PollWorkflowTaskQueueResponse
_HISTORY_FIELD = PollResponse.DESCRIPTOR.fields_by_name["history"].number


@handles(HistoryService.QueryWorkflow)
async def query_workflow(
    ports: HistoryPorts, request: service_pb.QueryWorkflowRequest, context: CallContext
) -> service_pb.QueryWorkflowResponse:
    """Query the workflow, and wait for the answer.

    Raise NOT_FOUND, DEADLINE_EXCEEDED without an answer, FAILED_PRECONDITION when no worker can answer,
    INVALID_ARGUMENT for a failed query, and RESOURCE_EXHAUSTED when too many queries wait.
    """
    deadline_ns = context.deadline_ns
    if deadline_ns is None:
        deadline_ns = ports.clock.steady_ns() + int(DEFAULT_TIMEOUT_S * SECOND_NS)
    execution = request.execution

    async def answer_from(key: ExecutionKey) -> service_pb.QueryWorkflowResponse | None:
        reply = await _query_run(ports, request, key, deadline_ns)
        if reply is not None:
            link = reply.link.workflow
            link.namespace, link.workflow_id, link.run_id = context.namespace, key.workflow_id, key.run_id
            link.reason = "Query rejected" if reply.HasField("query_rejected") else "Query processed"
        return reply

    return await ports.engine.read_from(context.namespace_id, execution.workflow_id, execution.run_id, answer_from)


async def _query_run(
    ports: HistoryPorts, request: service_pb.QueryWorkflowRequest, key: ExecutionKey, deadline_ns: int
) -> service_pb.QueryWorkflowResponse | None:
    """Query that run; return None when another run holds the workflow id by now, which is the one that is meant."""
    engine = ports.engine
    query_id = ports.ids.uuid()
    buffered = False
    topics = query_topic(query_id), execution_topic(key.namespace_id, key.workflow_id, key.run_id)
    try:
        with (
            ports.notifier.subscribe(*topics) as audience,
            ports.waiting_callers.waiting(query_id, key, deadline_ns) as expires_ns,
        ):
            while True:
                entry = await engine.read(key, audience)
                may_be_overtaken = entry.state.close_ns and not buffered and not request.execution.run_id
                if may_be_overtaken and await engine.is_succeeded(key):
                    return None
                # The answer and the state in which the task has ended are one commit, so the answer is read second.
                answer = await _answer(ports, query_id) if buffered else None
                if answer is not None:
                    return _reply(answer)
                rejected = _rejection(entry.state, request.query_reject_condition)
                if rejected is not None:
                    return rejected
                _check_answerable(ports, entry.state, deadline_ns)
                if _safe_to_ask_directly(entry.state):
                    break
                if not buffered:
                    record = QueryRecord(query_id, key, request.query.SerializeToString(), True, expires_ns)
                    await _buffer(ports, record)
                    buffered = True
                if not entry.state.buffered_queries:
                    await engine.change(key.namespace_id, key.workflow_id, key.run_id, _note_waiting)
                if not await audience.wait(deadline_ns):
                    raise deadline_exceeded()
    finally:
        # However the wait ends, even by cancellation, the row is deleted, since it would block other queries.
        if buffered:
            await asyncio.shield(ports.store.delete_query(query_id))
    return _reply(await _ask_directly(ports, entry, ports.ids.uuid(), request, deadline_ns))


async def _buffer(ports: HistoryPorts, record: QueryRecord) -> None:
    """Let the next workflow task take the query along. Raise RESOURCE_EXHAUSTED when too many wait already."""
    most = ports.limits.buffered_queries

    async def put() -> None:
        since_ns = ports.waiting_callers.since_ns(record.key)
        if len(await ports.store.list_buffered_queries(record.key, since_ns, most)) >= most:
            raise ServiceError(Code.RESOURCE_EXHAUSTED, BUFFER_FULL, _TOO_BUSY)
        await ports.store.put_query(record, None)

    await ports.engine.in_turn(record.key, put)


def _rejection(state: MutableState, condition: int) -> service_pb.QueryWorkflowResponse | None:
    """Return the rejection by the reject condition or by a pause; None when the query is not rejected."""
    status = state.status
    not_open = condition == query_enums.QUERY_REJECT_CONDITION_NOT_OPEN
    not_clean = (
        condition == query_enums.QUERY_REJECT_CONDITION_NOT_COMPLETED_CLEANLY
        and status != wf_enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
    )
    if status == PAUSED or (status != RUNNING and (not_open or not_clean)):
        reply = service_pb.QueryWorkflowResponse()
        reply.query_rejected.status = status  # type: ignore[assignment]
        return reply
    return None


def _check_answerable(ports: HistoryPorts, state: MutableState, deadline_ns: int) -> None:
    """Raise FAILED_PRECONDITION when no worker can answer before the deadline."""
    completed_any = state.last_completed_started_event_id != 0
    if state.status not in (RUNNING, PAUSED) and not completed_any:
        raise update.workflow_not_ready("Workflow execution closed before WorkflowTaskStarted event")
    has_task = state.workflow_task.scheduled_event_id != 0
    if not has_task and not completed_any and _starts_after(ports, state, deadline_ns):
        raise update.workflow_not_ready("Workflow task is not scheduled yet.")
    if state.workflow_task.attempt >= FAILING_TASK_ATTEMPTS:
        raise update.workflow_not_ready("Unable to query workflow due to Workflow Task in failed state.")


def _starts_after(ports: HistoryPorts, state: MutableState, deadline_ns: int) -> bool:
    left_ns = deadline_ns - ports.clock.steady_ns()
    return state.execution_start_ns > ports.clock.now_ns() + left_ns


def _safe_to_ask_directly(state: MutableState) -> bool:
    """Return whether nothing is in progress for which the answer would have to wait."""
    if state.last_completed_started_event_id == 0:
        return False
    return state.status not in (RUNNING, PAUSED) or state.workflow_task.scheduled_event_id == 0


def _note_waiting(run: Run) -> None:
    """Record that the start of the next workflow task has to read waiting queries."""
    if run.has_pending_workflow_task or run.state.first_workflow_task_backoff_until_ns:
        run.state.buffered_queries = 1
        run.changed = run.bookkeeping = True


async def _answer(ports: HistoryPorts, query_id: str) -> query_pb.WorkflowQueryResult | None:
    record = await ports.store.get_query(query_id)
    if record is None or record.answer is None:
        return None
    return query_pb.WorkflowQueryResult.FromString(record.answer)


async def _leave_sticky_queue(ports: HistoryPorts, entry: Entry) -> None:
    """Send the run's next workflow tasks to its own queue, since the worker of the sticky one did not answer."""
    key, sticky = entry.key, entry.state.sticky_task_queue

    def decide(run: Run) -> None:
        if run.is_open and run.state.sticky_task_queue == sticky:
            run.state.sticky_task_queue = ""
            run.changed = True

    await ports.engine.change(key.namespace_id, key.workflow_id, key.run_id, decide)


async def _ask_directly(
    ports: HistoryPorts, entry: Entry, query_id: str, request: service_pb.QueryWorkflowRequest, deadline_ns: int
) -> query_pb.WorkflowQueryResult:
    """Dispatch the query to the worker that has the run cached, or else to any worker; return its answer."""
    state = entry.state
    sticky = state.sticky_task_queue
    if sticky and versioning.keeps_cache(state, await ports.engine.deployments.cached(entry.key.namespace_id)):
        sticky_ns = state.sticky_schedule_to_start_timeout_ns or ports.limits.sticky_timeout_default_ns
        until_ns = min(deadline_ns, ports.clock.steady_ns() + sticky_ns)
        has_poller = await _has_poller(ports, entry, sticky)
        if has_poller:
            result = await _dispatch(ports, entry, query_id, request, sticky, until_ns, deadline_ns)
            if result is not None:
                return result
            await ports.store.delete_query(query_id)
        # A worker that had less time than its own timeout, since the caller has none left, may still be there.
        unanswered = not has_poller or until_ns < deadline_ns
        if unanswered and not state.close_ns:
            await _leave_sticky_queue(ports, entry)
    await _check_workers(ports, entry)
    if sticky:
        query_id = ports.ids.uuid()
    while True:
        result = await _dispatch(ports, entry, query_id, request, state.task_queue, deadline_ns, deadline_ns)
        await ports.store.delete_query(query_id)
        if result is not None:
            return result
        if ports.clock.steady_ns() >= deadline_ns:
            raise deadline_exceeded()
        # The run's workflow tasks are routed to another queue by now.
        query_id = ports.ids.uuid()


async def _check_workers(ports: HistoryPorts, entry: Entry) -> None:
    """Raise FAILED_PRECONDITION when the run is pinned to a drained version without workers."""
    state = entry.state
    version = versioning_state.pinned_version(state)
    if version is None or state.versioning_info.HasField("version_transition"):
        return
    namespace_id = entry.key.namespace_id
    deployments = ports.engine.deployments
    info = find_version_info(await deployments.cached(namespace_id), version)
    if info is None or not drainage.has_ended_service(info):
        return
    context = CallContext(namespace_id=namespace_id, namespace=state.namespace)
    await ports.itself.RefreshDrainage(RefreshDrainageRequest(versions=[version]), context)
    info = find_version_info(await deployments.read(namespace_id), version)
    # A version with a compute configuration has workers started for the query.
    if info is None or not drainage.is_drained(info) or info.compute_config.scaling_groups:
        return
    if not await _has_poller(ports, entry, versioned_queue(state.task_queue, version), in_history=True):
        raise failed_precondition(_NO_WORKERS.format(version.build_id))


async def _has_poller(
    ports: HistoryPorts, entry: Entry, task_queue: str, *, within_s: int = 0, in_history: bool = False
) -> bool:
    request = internal_pb2.HasPollerRequest(
        task_queue=task_queue, task_type=workflow_task.TASK_TYPE_WORKFLOW, within_s=within_s, in_history=in_history
    )
    context = CallContext(namespace_id=entry.state.namespace_id, namespace=entry.state.namespace)
    reply = await ports.matching.HasPoller(request, context)
    return decoded(reply, internal_pb2.HasPollerResponse).has_poller


async def _dispatch(
    ports: HistoryPorts,
    entry: Entry,
    query_id: str,
    request: service_pb.QueryWorkflowRequest,
    task_queue: str,
    until_ns: int,
    deadline_ns: int,
) -> query_pb.WorkflowQueryResult | None:
    """Dispatch a query to one queue; return None without an answer by `until_ns`, or when the routing has changed.

    Raise FAILED_PRECONDITION shortly before that when the run's queue has not been polled lately.
    """
    key = entry.key
    now_ns = ports.wall.now_ns()
    pause_ns, is_normal = _CHECK_AGAIN_NS, task_queue == entry.state.task_queue
    check_ns = ports.clock.steady_ns() + pause_ns if is_normal else until_ns
    pollers_ns = max(ports.clock.steady_ns(), until_ns - _NO_POLLER_MARGIN_NS) if is_normal else until_ns
    if is_normal:
        deployments = await ports.engine.deployments.cached(key.namespace_id)
        task_queue = versioning.queue_of_workflow_task(entry.state, deployments)
    row = TaskKey(
        key.namespace_id,
        task_queue,
        workflow_task.TASK_TYPE_WORKFLOW,
        workflow_task.priority_key(entry.state.priority),
        ports.ids.task_id(now_ns),
    )
    task = MatchingTask(row, key.workflow_id, key.run_id, 0, 0, now_ns, query_id=query_id)
    with (
        ports.notifier.subscribe(query_topic(query_id)) as audience,
        ports.waiting_callers.waiting(query_id, key, deadline_ns) as expires_ns,
    ):
        record = QueryRecord(query_id, key, request.query.SerializeToString(), False, expires_ns)
        await ports.store.put_query(record, task)
        ports.engine.tasks_written((task,))
        await ports.push.written((task,))
        while True:
            answer = await _answer(ports, query_id)
            if answer is not None:
                return answer
            await audience.wait(min(until_ns, check_ns, pollers_ns))
            steady_ns = ports.clock.steady_ns()
            if pollers_ns <= steady_ns < until_ns:
                pollers_ns = until_ns
                await _check_pollers(ports, entry, row)
            if steady_ns < min(until_ns, check_ns):
                continue
            if steady_ns < until_ns:
                # In a function every wait ends early, so the time of the next check does not depend on how waits end.
                pause_ns *= 2
                check_ns = steady_ns + pause_ns
                deployments = await ports.engine.deployments.read(key.namespace_id)
                if versioning.queue_of_workflow_task(entry.state, deployments) == task_queue:
                    continue
            await ports.store.delete_tasks((row,))
            return await _answer(ports, query_id)


async def _check_pollers(ports: HistoryPorts, entry: Entry, row: TaskKey) -> None:
    """Raise FAILED_PRECONDITION when no worker has taken the query and its queue has not been polled lately."""
    window_s = -(-ports.limits.query_poller_window_ns // SECOND_NS)
    if not await is_waiting(ports.store, row) or await _has_poller(ports, entry, row.task_queue, within_s=window_s):
        return
    await ports.store.delete_tasks((row,))
    raise failed_precondition(_NO_POLLER)


def stored(result: query_pb.WorkflowQueryResult, limits: Limits) -> bytes:
    """Return a worker's answer for its row; one that is too large becomes an error."""
    size = result.answer.ByteSize()
    if size > limits.blob_size_error:
        result = query_pb.WorkflowQueryResult(error_message="Blob data size exceeds limit.")
    return result.SerializeToString()


def _reply(result: query_pb.WorkflowQueryResult) -> service_pb.QueryWorkflowResponse:
    if not result.result_type:
        raise invalid_argument(result.error_message)
    if result.result_type == query_enums.QUERY_RESULT_TYPE_ANSWERED:
        reply = service_pb.QueryWorkflowResponse()
        if result.HasField("answer"):
            reply.query_result.CopyFrom(result.answer)
        return reply
    detail = details_pb.QueryFailedFailure()
    if result.HasField("failure"):
        detail.failure.CopyFrom(result.failure)
    raise ServiceError(Code.INVALID_ARGUMENT, result.error_message, detail)


async def attach(ports: HistoryPorts, run: Run, reply: PollResponse) -> None:
    """Attach the queries that wait for the started task to its poll's reply. Raise StorageError."""
    if not run.state.buffered_queries:
        return
    for record in await ports.store.list_buffered_queries(
        run.key, ports.waiting_callers.since_ns(run.key), MAX_ATTACHED
    ):
        if ports.waiting_callers.left_ns(record) <= 0:
            continue
        try:
            reply.queries[record.query_id].ParseFromString(record.request)
        except DecodeError as error:
            # Its caller times out; the workflow task still goes to its worker.
            del reply.queries[record.query_id]
            await ports.engine.aside.note("queries", (record.query_id,), error)
            await ports.store.delete_query(record.query_id)


@handles(HistoryService.RecordQueryTaskStarted)
async def record_query_task_started(
    ports: HistoryPorts, request: internal_pb2.RecordQueryTaskStartedRequest, context: CallContext
) -> service_pb.PollWorkflowTaskQueueResponse | Encoded:
    """Return a direct query to a poller, with the whole history unless the queue is sticky.

    Raise NOT_FOUND when the query is answered or its caller is gone.
    """
    record = await ports.store.get_query(request.query_id)
    if record is None or record.answer is not None or ports.waiting_callers.left_ns(record) <= 0:
        raise not_found(TASK_NOT_FOUND)
    entry = await ports.engine.read(record.key)
    state = entry.state
    reply = PollResponse(
        task_token=internal_pb2.TaskToken(
            namespace_id=state.namespace_id,
            workflow_id=state.workflow_id,
            run_id=state.run_id,
            query_id=request.query_id,
        ).SerializeToString(),
        previous_started_event_id=state.last_completed_started_event_id,
        attempt=1,
    )
    reply.workflow_execution.workflow_id = state.workflow_id
    reply.workflow_execution.run_id = state.run_id
    reply.workflow_type.name = state.workflow_type
    reply.query.ParseFromString(record.request)
    reply.workflow_execution_task_queue.name = state.task_queue
    reply.workflow_execution_task_queue.kind = queue_enums.TASK_QUEUE_KIND_NORMAL
    if request.task_queue == state.sticky_task_queue:
        reply.history.SetInParent()
        return reply
    limits = ports.limits.of(state.namespace)
    data, reply.next_page_token = await first_page(
        ports.engine, entry, 1, state.next_event_id, b"", batches=limits.query_history_page
    )
    return Encoded(reply.SerializeToString() + histories.spliced(_HISTORY_FIELD, data))


@handles(HistoryService.RespondQueryTaskCompleted)
async def respond_query_task_completed(
    ports: HistoryPorts, request: service_pb.RespondQueryTaskCompletedRequest, context: CallContext
) -> service_pb.RespondQueryTaskCompletedResponse:
    """Store a worker's answer to a direct query. Raise NOT_FOUND when its caller is gone."""
    token = tokens.received(request.task_token, tokens.Kind.QUERY, context, TASK_NOT_FOUND)
    result = query_pb.WorkflowQueryResult(result_type=request.completed_type, error_message=request.error_message)
    if request.HasField("query_result"):
        result.answer.CopyFrom(request.query_result)
    if request.HasField("failure"):
        result.failure.CopyFrom(request.failure)
    key = ExecutionKey(token.namespace_id, token.workflow_id, token.run_id)
    if not await ports.store.answer_query(token.query_id, key, result.SerializeToString()):
        raise not_found(TASK_NOT_FOUND)
    ports.notifier.publish((query_topic(token.query_id),))
    return service_pb.RespondQueryTaskCompletedResponse()
