"""The worker of batch jobs: it polls their task queue and applies each job to its executions.

A job is a workflow with one activity, as in Temporal. Its progress (page token and counts) is the activity's
heartbeat, sent after each page; so after a crash the activity's retry continues from the last page, on any process
that polls. A row of an internal queue records that a job may be open: servers find the jobs of other processes by it,
functions work on each job for a limited time whenever they are invoked.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import Reply, decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages.nesting import load_json
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api.switches import ON_ACTIVITIES
from whistlestop.frontend.api.visibility import count_workflow_executions, list_workflow_executions
from whistlestop.frontend.batch.job_workflow import STATS_MEMO, TASK_QUEUE, WORKFLOW_TYPE, json_payload
from whistlestop.frontend.batch.operations import Operations
from whistlestop.net.tasks.loops import Loop
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import QueueMessage

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.frontend.ports import FrontendPorts

log = logging.getLogger(__name__)

OPEN_JOBS = "batch-jobs"
PAGE = 50
"""Executions between two heartbeats: at the default rate one second's work, well within the heartbeat timeout."""
GRACE_S = 0.1
"""Seconds between the start of a job and its first operation, in which a job started by mistake can be stopped."""
_IDENTITY = "temporal-batcher"
_ACTIVITY = "BatchActivityWithProtobuf"
_HEARTBEAT_TIMEOUT_S = 10
_KEEP_ALIVE_S = 2.5
_FOREVER_S = 20 * 365 * 24 * 3600
_POLL_S = 5.0
_CALL_S = 30.0
_SWEEP_S = 30.0
_MAX_JOBS = 100
_TURNS = 20
_NEVER_STARTED_NS = 60 * SECOND_NS
_TURN_S = 5.0
_RECHECK_S = 20.0
# The only operations that have an effect on closed executions.
_ON_CLOSED_TOO = frozenset({"deletion_operation", "reset_operation", "delete_activities_operation"})


# ---- open jobs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """A job that may be open, and the row that records it."""

    namespace_id: str
    job_id: str
    noted_ns: int
    """When it was recorded, by the wall clock of the process that recorded it."""
    seen_ns: int
    """Since when this process knows of it, by its steady clock."""
    message: QueueMessage


async def note_job(frontend: FrontendPorts, context: CallContext, job_id: str) -> Job:
    """Record that a job is about to start. This comes before its start, so that no job is forgotten.

    Raise StorageError.
    """
    now_ns = frontend.clock.now_ns()
    data = json.dumps([context.namespace_id, job_id, now_ns]).encode()
    message = QueueMessage(OPEN_JOBS, frontend.ids.task_id(now_ns), data)
    await frontend.store.enqueue(message)
    return Job(context.namespace_id, job_id, now_ns, frontend.clock.steady_ns(), message)


async def _noted(frontend: FrontendPorts) -> list[Job]:
    jobs = []
    for message in await frontend.store.read_queue(OPEN_JOBS, 0, _MAX_JOBS):
        try:
            jobs.append(_job(message, frontend.clock.steady_ns()))
        except (ValueError, TypeError) as error:
            await frontend.aside.seen("queue", (message.queue_name, str(message.message_id)), error)
    return jobs


def _job(message: QueueMessage, seen_ns: int) -> Job:
    namespace_id, job_id, noted_ns = load_json(message.data)
    return Job(namespace_id, job_id, noted_ns, seen_ns, message)


async def begin(frontend: FrontendPorts, job: Job, *, can_long_poll: bool) -> None:
    """Work on a job that was just started: in the background if possible, else for a limited time at once.

    Raise ServiceError or StorageError in the latter case.
    """
    if can_long_poll:
        frontend.background.spawn(_drive_soon(frontend, job))
    else:
        await _turn(frontend, job)


def resume_batches(frontend: FrontendPorts) -> None:
    """Start to work on open jobs, and on those that other servers abandon. A server calls it when it starts."""
    frontend.background.spawn(_sweep(frontend))


def page_s(wanted_per_s: float, most_per_s: float) -> float:
    """Return the minimum duration of a page in seconds; without a wanted rate, that of the server's maximum rate."""
    return PAGE / (min(wanted_per_s, most_per_s) if wanted_per_s > 0 else most_per_s)


async def work_on_batches(frontend: FrontendPorts) -> int:
    """Work on each open job for a limited time, oldest first, in an invoked function. Return the number of jobs.

    Raise StorageError when the jobs can't be read.
    """
    jobs = await _noted(frontend)
    ends_ns = frontend.clock.steady_ns() + round(_RECHECK_S * SECOND_NS)
    for job in jobs:
        if frontend.clock.steady_ns() >= ends_ns:
            break
        try:
            await _turn(frontend, job)
        except Exception:  # go on with the other jobs; this one is tried again at the next invocation
            log.exception("batch job %s failed; it is continued at the next invocation", job.job_id)
    return len(jobs)


async def _sweep(frontend: FrontendPorts) -> None:
    driven: dict[tuple[str, str], asyncio.Task[None]] = {}
    loop = Loop("batches", frontend.clock)

    async def turn() -> None:
        for job in await _noted(frontend):
            key = (job.namespace_id, job.job_id)
            if key not in driven or driven[key].done():
                driven[key] = frontend.background.spawn(_drive(frontend, job))
        loop.succeeded()
        for key in [key for key, task in driven.items() if task.done()]:
            del driven[key]
        await frontend.clock.sleep(_SWEEP_S)

    await loop.run(turn)


async def _drive_soon(frontend: FrontendPorts, job: Job) -> None:
    """Leave time to stop the job, then work on it."""
    await frontend.clock.sleep(GRACE_S)
    await _drive(frontend, job)


async def _drive(frontend: FrontendPorts, job: Job) -> None:
    """Poll for the job's tasks until it is closed."""
    while True:
        try:
            worker = await _worker(frontend, job, can_long_poll=True)
            if worker is None or not await worker.is_open(job):
                await frontend.store.delete_message(job.message)
                return
            if not await worker.work_on_workflow_task():
                await worker.work_on_activity_task()
        except (ServiceError, StorageError) as error:
            log.warning("batch job %s failed, trying again in a second: %r", job.job_id, error)
            await frontend.clock.sleep(1)
        except Exception as error:  # noqa: BLE001 - no error may end the work on this job
            await frontend.aside.seen("queue", (job.message.queue_name, str(job.message.message_id)), error)
            await frontend.clock.sleep(_SWEEP_S)


async def _turn(frontend: FrontendPorts, job: Job) -> None:
    """Work on the job for a limited time."""
    worker = await _worker(frontend, job, can_long_poll=False)
    ends_ns = frontend.clock.steady_ns() + round(_TURN_S * SECOND_NS)
    for _ in range(_TURNS):
        if worker is None or not await worker.is_open(job):
            await frontend.store.delete_message(job.message)
            return
        did = await worker.work_on_workflow_task() or await worker.work_on_activity_task(ends_ns)
        if not did or frontend.clock.steady_ns() >= ends_ns:
            return


async def _worker(frontend: FrontendPorts, job: Job, *, can_long_poll: bool) -> BatchWorker | None:
    namespace = await frontend.namespaces.by_id(job.namespace_id)
    if namespace is None:
        return None
    return BatchWorker(frontend, CallContext(None, {}, job.namespace_id, namespace.name, can_long_poll))


# ---- progress ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the next page begins, and the outcome of the pages so far."""

    page_token: bytes
    total: int
    page_number: int = 0
    succeeded: int = 0
    failed: int = 0

    @classmethod
    def of(cls, details: common_pb.Payloads) -> Progress:
        """Parse the details of a heartbeat. Raise ValueError, KeyError or IndexError when they are of another form."""
        details_json = json.loads(details.payloads[0].data)
        return cls(
            base64.b64decode(details_json["PageToken"]), details_json["TotalEstimate"], details_json["CurrentPage"],
            details_json["SuccessCount"], details_json["ErrorCount"],
        )  # fmt: skip

    def payloads(self) -> common_pb.Payloads:
        """Return the progress as heartbeat details."""
        details_json = {
            "PageToken": base64.b64encode(self.page_token).decode(), "CurrentPage": self.page_number,
            "TotalEstimate": self.total, "SuccessCount": self.succeeded, "ErrorCount": self.failed,
        }  # fmt: skip
        return common_pb.Payloads(payloads=[json_payload(details_json)])


class _Disappeared(Exception):
    """The activity was stopped: the job was terminated, or the attempt timed out."""


# ---- the worker ----------------------------------------------------------------------------------------------------


class BatchWorker:
    """Polls the batch queue of one namespace."""

    def __init__(self, frontend: FrontendPorts, context: CallContext) -> None:
        self._frontend = frontend
        self._context = context

    def _until(self, seconds: float) -> CallContext:
        return replace(self._context, deadline_ns=self._frontend.clock.steady_ns() + round(seconds * SECOND_NS))

    async def is_open(self, job: Job) -> bool:
        """Return whether there is work left.

        A job that does not exist counts as open for a minute after it was recorded. Raise ServiceError.
        """
        request = service_pb.DescribeWorkflowExecutionRequest(namespace=self._context.namespace)
        request.execution.workflow_id = job.job_id
        try:
            reply = await self._frontend.history.DescribeWorkflowExecution(request, self._until(_CALL_S))
        except ServiceError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            if self._age_ns(job) > _NEVER_STARTED_NS:
                return False
            await self._frontend.clock.sleep(1)
            return True
        info = decoded(reply, service_pb.DescribeWorkflowExecutionResponse).workflow_execution_info
        return bool(info.type.name == WORKFLOW_TYPE and info.status == wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING)

    def _age_ns(self, job: Job) -> int:
        """Return how long ago the job was recorded. A function knows that only from the record."""
        clock = self._frontend.clock
        return clock.steady_ns() - job.seen_ns if self._context.can_long_poll else clock.now_ns() - job.noted_ns

    async def work_on_workflow_task(self) -> bool:
        """Poll for a workflow task and complete it. Return whether it made the workflow go on or end."""
        poll = service_pb.PollWorkflowTaskQueueRequest(namespace=self._context.namespace, identity=_IDENTITY)
        poll.task_queue.name = TASK_QUEUE
        reply = await self._frontend.matching.PollWorkflowTaskQueue(poll, self._until(_POLL_S))
        task = decoded(reply, service_pb.PollWorkflowTaskQueueResponse)
        if not task.task_token:
            return False
        commands = _decide(task.history.events)
        completed = service_pb.RespondWorkflowTaskCompletedRequest(
            namespace=self._context.namespace, task_token=task.task_token, identity=_IDENTITY, commands=commands
        )
        await self._frontend.history.RespondWorkflowTaskCompleted(completed, self._until(_CALL_S))
        return len(commands) != 1

    async def work_on_activity_task(self, ends_ns: int | None = None) -> bool:
        """Poll for the activity of a job and run it, until `ends_ns` at most. Return whether there was one.

        Raise ServiceError.
        """
        poll = service_pb.PollActivityTaskQueueRequest(namespace=self._context.namespace, identity=_IDENTITY)
        poll.task_queue.name = TASK_QUEUE
        reply = await self._frontend.matching.PollActivityTaskQueue(poll, self._until(_POLL_S))
        task = decoded(reply, service_pb.PollActivityTaskQueueResponse)
        if not task.task_token:
            return False
        try:
            await Attempt(self._frontend, self._until(_FOREVER_S), task, ends_ns).run()
        except _Disappeared:
            log.info("the batch activity of %s was stopped", task.workflow_execution.workflow_id)
        return True


def _decide(events: Any) -> list[command_pb.Command]:
    """Return the next commands of the batch workflow, given its history."""
    started: history_pb.HistoryEvent = events[0]
    kinds = {event.event_type: event for event in events}
    completed = kinds.get(et.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    if completed is not None:
        result = completed.activity_task_completed_event_attributes.result
        end = Progress.of(result)
        upsert = command_pb.Command(command_type=ct.COMMAND_TYPE_MODIFY_WORKFLOW_PROPERTIES)
        memo = upsert.modify_workflow_properties_command_attributes.upserted_memo
        memo.fields[STATS_MEMO].CopyFrom(json_payload({"NumSuccess": end.succeeded, "NumFailure": end.failed}))
        complete = command_pb.Command(command_type=ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
        complete.complete_workflow_execution_command_attributes.result.CopyFrom(result)
        return [upsert, complete]
    failed = kinds.get(et.EVENT_TYPE_ACTIVITY_TASK_FAILED)
    if failed is not None:
        fail = command_pb.Command(command_type=ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION)
        fail.fail_workflow_execution_command_attributes.failure.CopyFrom(
            failed.activity_task_failed_event_attributes.failure
        )
        return [fail]
    if et.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED in kinds:
        return []
    schedule = command_pb.Command(command_type=ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    attributes = schedule.schedule_activity_task_command_attributes
    attributes.activity_id = "5"
    attributes.activity_type.name = _ACTIVITY
    attributes.task_queue.name = TASK_QUEUE
    attributes.input.CopyFrom(started.workflow_execution_started_event_attributes.input)
    attributes.start_to_close_timeout.seconds = _FOREVER_S
    attributes.heartbeat_timeout.seconds = _HEARTBEAT_TIMEOUT_S
    attributes.retry_policy.initial_interval.seconds = 1
    attributes.retry_policy.backoff_coefficient = 1.7
    attributes.retry_policy.maximum_interval.seconds = 60
    return [schedule]


class Attempt:
    """One attempt of a job's activity."""

    def __init__(
        self,
        frontend: FrontendPorts,
        context: CallContext,
        task: service_pb.PollActivityTaskQueueResponse,
        ends_ns: int | None,
    ) -> None:
        self._frontend = frontend
        self._clock = frontend.clock
        self._context = context
        self._token = task.task_token
        self._ends_ns = ends_ns
        self._details = task.heartbeat_details
        self._job = service_pb.StartBatchOperationRequest.FromString(task.input.payloads[0].data)
        self._operations = Operations(frontend, self._job, context)
        self._query = _query(self._job)
        self._on_activities = self._job.WhichOneof("operation") in ON_ACTIVITIES
        self._page_s = page_s(self._job.max_operations_per_second, frontend.config.batch_operations_per_s)

    async def run(self) -> None:
        """Process page after page, to the end or until the time is up."""
        try:
            progress = Progress.of(self._details) if self._details.payloads else Progress(b"", await self._estimate())
            while True:
                began_ns = self._clock.steady_ns()
                executions, after = await self._page(progress.page_token)
                outcomes = await self._perform_all(executions, progress)
                progress = Progress(
                    after, progress.total, progress.page_number + 1,
                    progress.succeeded + sum(outcomes), progress.failed + len(outcomes) - sum(outcomes),
                )  # fmt: skip
                if not after:
                    break
                await self._heartbeat(progress)
                if self._ends_ns is not None and self._clock.steady_ns() >= self._ends_ns:
                    await self._fail("the turn is over", retry=True)
                    return
                spent_s = (self._clock.steady_ns() - began_ns) / SECOND_NS
                if spent_s < self._page_s:
                    await self._clock.sleep(self._page_s - spent_s)
                    await self._heartbeat(progress)  # detects that the job was stopped meanwhile
        except ServiceError as error:
            await self._fail(error.message, retry=error.code is not Code.INVALID_ARGUMENT)
            return
        completed = service_pb.RespondActivityTaskCompletedRequest(
            namespace=self._context.namespace, task_token=self._token, identity=_IDENTITY, result=progress.payloads()
        )
        await _unless_not_found(self._frontend.history.RespondActivityTaskCompleted(completed, self._context))

    # ---- selecting executions

    async def _estimate(self) -> int:
        if not self._query:
            return len(self._job.executions) + len(self._job.target_executions)
        if self._on_activities:
            counted = service_pb.CountActivityExecutionsRequest(namespace=self._context.namespace, query=self._query)
            return (await self._operations.call(WorkflowService.CountActivityExecutions, counted)).count
        request = service_pb.CountWorkflowExecutionsRequest(query=self._query)
        return (await count_workflow_executions(self._frontend, request, self._context)).count

    async def _page(self, after: bytes) -> tuple[list[common_pb.WorkflowExecution], bytes]:
        if self._query and self._on_activities:
            listing = service_pb.ListActivityExecutionsRequest(
                namespace=self._context.namespace, query=self._query, page_size=PAGE, next_page_token=after
            )
            found = await self._operations.call(WorkflowService.ListActivityExecutions, listing)
            listed = [
                common_pb.WorkflowExecution(workflow_id=each.activity_id, run_id=each.run_id)
                for each in found.executions
            ]
            return listed, found.next_page_token
        if self._query:
            page = await list_workflow_executions(
                self._frontend,
                service_pb.ListWorkflowExecutionsRequest(query=self._query, page_size=PAGE, next_page_token=after),
                self._context,
            )
            return [each.execution for each in page.executions], page.next_page_token
        listed = list(self._job.executions) + [
            common_pb.WorkflowExecution(workflow_id=each.business_id, run_id=each.run_id)
            for each in self._job.target_executions
        ]
        first = int(after or b"0")
        end = first + PAGE
        return listed[first:end], str(end).encode() if end < len(listed) else b""

    # ---- operating and reporting

    async def _perform_all(self, executions: list[common_pb.WorkflowExecution], progress: Progress) -> list[bool]:
        """Apply the operation to all executions, a few at a time; return which succeeded.

        Heartbeats are sent meanwhile, however long it takes.
        """
        gate = asyncio.Semaphore(self._frontend.config.batch_concurrency)

        async def one(execution: common_pb.WorkflowExecution) -> bool:
            async with gate:
                return await self._operations.perform(execution)

        work = asyncio.ensure_future(_all([one(each) for each in executions]))
        alive = asyncio.ensure_future(self._keep_alive(progress))
        try:
            await asyncio.wait({work, alive}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                alive.result()  # it ends only by raising
            return await work
        finally:
            work.cancel()
            alive.cancel()

    async def _keep_alive(self, progress: Progress) -> None:
        while True:
            await self._clock.sleep(_KEEP_ALIVE_S)
            await self._heartbeat(progress)

    async def _heartbeat(self, progress: Progress) -> None:
        beat = service_pb.RecordActivityTaskHeartbeatRequest(
            namespace=self._context.namespace, task_token=self._token, identity=_IDENTITY, details=progress.payloads()
        )
        await _unless_not_found(self._frontend.history.RecordActivityTaskHeartbeat(beat, self._context))

    async def _fail(self, message: str, *, retry: bool) -> None:
        request = service_pb.RespondActivityTaskFailedRequest(
            namespace=self._context.namespace, task_token=self._token, identity=_IDENTITY
        )
        request.failure.message = message
        request.failure.source = _IDENTITY
        request.failure.application_failure_info.non_retryable = not retry
        if retry:
            request.failure.application_failure_info.next_retry_delay.seconds = 1
        await _unless_not_found(self._frontend.history.RespondActivityTaskFailed(request, self._context))


async def _unless_not_found(call: Awaitable[Reply]) -> None:
    """Wait for a call about the activity. Raise _Disappeared when there is no such activity any more."""
    try:
        await call
    except ServiceError as error:
        if error.code is Code.NOT_FOUND:
            raise _Disappeared from None
        raise


async def _all(work: list[Any]) -> list[bool]:
    return list(await asyncio.gather(*work))


def _query(job: service_pb.StartBatchOperationRequest) -> str:
    """Return the filter for executions on which the operation has an effect."""
    query = job.visibility_query
    if not query or job.WhichOneof("operation") in _ON_CLOSED_TOO:
        return query
    query = f"({query}) AND (ExecutionStatus='Running' OR ExecutionStatus='Paused')"
    if job.unpause_activities_operation.type:
        kind = job.unpause_activities_operation.type.replace("\\", "\\\\").replace("'", "\\'")
        query += f" AND TemporalPauseInfo = 'property:activityType={kind}'"
    return query
