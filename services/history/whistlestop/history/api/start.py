"""StartWorkflowExecution: id policies, deduplication by request id, the new run.

The common case is tried first, without any read: create the run if nobody holds the workflow id. Only on a conflict is
the current run read and are the policies applied; what they allow is again one commit, on condition that the current
run is still the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.records import record
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.versioning.deployments import check_override, named_version
from whistlestop.history.api import handles, links
from whistlestop.history.core.chain import id_policies
from whistlestop.history.core.chain import start as core_start
from whistlestop.history.core.chain.id_policies import Verdict
from whistlestop.history.core.operations import options
from whistlestop.history.core.workflow_task import decide as workflow_task
from whistlestop.history.engine import changes
from whistlestop.history.engine.changes import Next
from whistlestop.storage.records import ExecutionKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.api.common.v1 import message_pb2 as common_pb

    from whistlestop.common.clients import Encoded
    from whistlestop.common.context import CallContext
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.engine import Engine
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.ports import HistoryPorts

MAX_EARLIER_RUNS = 10
"""The maximum of runs in a chain that are searched for a repeated request."""
RUNNING = wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING


def new_run(
    ports: HistoryPorts,
    request: service_pb.StartWorkflowExecutionRequest,
    context: CallContext,
    expected_current_run_id: str | None,
) -> Run:
    """Return a new run for the request, with its first event. It is not stored yet."""
    now_ns = ports.clock.now_ns()
    attributes = core_start.started_attributes(request, now_ns=now_ns, limits=ports.limits.of(context.namespace))
    return core_start.new_run(
        attributes,
        namespace_id=context.namespace_id,
        namespace=context.namespace,
        workflow_id=request.workflow_id,
        run_id=ports.ids.uuid(),
        request_id=request.request_id,
        now_ns=now_ns,
        ids=ports.ids,
        limits=ports.limits,
        user_metadata=request.user_metadata if request.HasField("user_metadata") else None,
        links=request.links,
        expected_current_run_id=expected_current_run_id,
    )


async def check_version(
    ports: HistoryPorts, request: service_pb.StartWorkflowExecutionRequest, context: CallContext
) -> None:
    """Raise FAILED_PRECONDITION when the request pins its run to a version that no worker of the queue has."""
    if named_version(request.versioning_override) is not None:
        known = await ports.engine.deployments.read(context.namespace_id)
        check_override(known, request.versioning_override, request.task_queue.name)


@record
class Start:
    """One start in progress. `prepare` adds to a new run what is committed with it."""

    ports: HistoryPorts
    request: service_pb.StartWorkflowExecutionRequest
    context: CallContext
    prepare: Callable[[Run], None]

    def new_run(self, follows: str | None) -> Run:
        """Return a new run that is not stored yet. `follows` is the run that holds the workflow id so far, if any."""
        run = new_run(self.ports, self.request, self.context, follows)
        self.prepare(run)
        return run


@handles(HistoryService.StartWorkflowExecution)
async def start_workflow_execution(
    ports: HistoryPorts, request: service_pb.StartWorkflowExecutionRequest, context: CallContext
) -> service_pb.StartWorkflowExecutionResponse | Encoded:
    """Start a run, or answer as the id policies say when the workflow id is in use. Raise ALREADY_EXISTS."""
    delayed = bool(request.cron_schedule) or request.workflow_start_delay.ToNanoseconds() > 0
    if delayed or not ports.limits.of(context.namespace).eager_workflow_start:
        request.request_eager_execution = False

    def prepare(run: Run) -> None:
        eager = request.request_eager_execution
        core_start.first_workflow_task(run, dispatch=not eager)
        if eager and run.has_pending_workflow_task:
            workflow_task.start(run, request_id=request.request_id, identity=request.identity)

    reply, run = await start(Start(ports, request, context, prepare))
    if run is not None and request.request_eager_execution:
        await _add_eager_task(ports, run, reply)
    return reply


async def start(starting: Start) -> tuple[service_pb.StartWorkflowExecutionResponse, Run | None]:
    """Return the reply, and the run if this request started it (otherwise None). Raise ALREADY_EXISTS."""
    await check_version(starting.ports, starting.request, starting.context)

    async def resolve(entry: Entry) -> tuple[service_pb.StartWorkflowExecutionResponse, Run | None] | Next:
        answer = await _seen_before(starting, entry)
        if answer is not None:
            return answer
        step = next_step(starting, entry.state)
        if step is not None:
            return step
        reply = await _use_existing(starting, entry)
        return Next.READ_AGAIN if reply is None else (reply, None)

    answer = await changes.create(starting.ports.engine, starting.new_run, resolve)
    return answer if isinstance(answer, tuple) else (_started(starting, answer.state), answer)


def next_step(starting: Start, current: MutableState) -> Next | None:
    """Return what the id policies say about the run that holds the workflow id; None if it is to be used.

    Raise ALREADY_EXISTS, and RESOURCE_EXHAUSTED for a run that follows its predecessor too soon.
    """
    request = starting.request
    verdict = id_policies.decide(current, request.workflow_id_reuse_policy, request.workflow_id_conflict_policy)
    if verdict is Verdict.USE_EXISTING:
        return None
    _check_interval(starting, current, replaces=verdict is Verdict.TERMINATE)
    return Next.REPLACE if verdict is Verdict.TERMINATE else Next.FOLLOW


def _check_interval(starting: Start, current: MutableState, *, replaces: bool) -> None:
    """Raise RESOURCE_EXHAUSTED for a run that follows its predecessor too soon, where that is configured."""
    ports = starting.ports
    limits = ports.limits.of(starting.context.namespace)
    id_policies.check_interval(current, limits, ports.clock.now_ns(), replaces=replaces)


def _started(starting: Start, state: MutableState) -> service_pb.StartWorkflowExecutionResponse:
    reply = service_pb.StartWorkflowExecutionResponse(
        run_id=state.run_id, first_execution_run_id=state.first_run_id, started=True, status=RUNNING
    )
    reply.link.CopyFrom(links.to_started_event(starting.context.namespace, state.workflow_id, state.run_id))
    return reply


async def _seen_before(
    starting: Start, entry: Entry
) -> tuple[service_pb.StartWorkflowExecutionResponse, Run | None] | None:
    """Repeat the answer to a request that took effect before (the first answer may have been lost); None otherwise."""
    state = entry.state
    request = starting.request
    event_type = id_policies.request_of(state, request.request_id)
    if event_type is None:
        before = await _run_before(starting, entry)
        if before is None:
            return None
        state = before.state
        event_type = id_policies.request_of(state, request.request_id)
    reply = _started(starting, state)
    reply.status = state.status  # type: ignore[assignment]
    if event_type != et.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
        reply.started = False
        reply.link.CopyFrom(_request_link(starting, state))
        return reply, None
    task = state.workflow_task
    run: Run | None = None
    if request.request_eager_execution and task.scheduled_event_id and task.started_event_id == 3 and task.attempt == 1:
        run = starting.ports.engine.run_of(entry)
    return reply, run


async def _run_before(starting: Start, entry: Entry) -> Entry | None:
    """Return the run of the chain that took this request before `entry` continued it; None without one.

    A request that starts a run started the first of the chain. One that attaches something may have attached it to any
    run; only for such a request are more of them read.
    """
    engine, request = starting.ports.engine, starting.request
    first = await first_of_chain(engine, entry.state)
    if first is not None and first.state.create_request_id == request.request_id:
        return first
    if request.on_conflict_options.attach_request_id:
        for _ in range(MAX_EARLIER_RUNS):
            run_id = entry.state.continued_run_id
            key = ExecutionKey(entry.key.namespace_id, entry.key.workflow_id, run_id)
            before = await engine.read_if_any(key) if run_id else None
            if before is None:
                break
            if request.request_id in before.state.request_ids:
                return before
            entry = before
    return None


async def first_of_chain(engine: Engine, state: MutableState) -> Entry | None:
    """Return the first run of the chain of this one; None when it is this one itself or does not exist.

    Raise StorageError.
    """
    if state.first_run_id in ("", state.run_id):
        return None
    return await engine.read_if_any(ExecutionKey(state.namespace_id, state.workflow_id, state.first_run_id))


def _request_link(starting: Start, state: MutableState) -> common_pb.Link:
    return links.to_request(
        starting.context.namespace,
        state.workflow_id,
        state.run_id,
        starting.request.request_id,
        et.EVENT_TYPE_WORKFLOW_EXECUTION_OPTIONS_UPDATED,
    )


async def _use_existing(starting: Start, entry: Entry) -> service_pb.StartWorkflowExecutionResponse | None:
    """Return the open run, attaching what the request asks for; None when it has closed meanwhile."""
    state = entry.state
    request = starting.request
    reply = _started(starting, state)
    reply.started = False
    if not request.HasField("on_conflict_options"):
        return reply
    wanted = request.on_conflict_options
    change = options.Change(
        attached_request_id=request.request_id if wanted.attach_request_id else "",
        attached_callbacks=request.completion_callbacks if wanted.attach_completion_callbacks else (),
        links=request.links if wanted.attach_links else (),
    )
    if wanted.attach_request_id:
        reply.link.CopyFrom(_request_link(starting, state))
    key = entry.key
    try:
        await starting.ports.engine.change(
            key.namespace_id, key.workflow_id, key.run_id, lambda run: options.update(run, change)
        )
    except ServiceError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return None
    return reply


async def _add_eager_task(ports: HistoryPorts, run: Run, reply: service_pb.StartWorkflowExecutionResponse) -> None:
    """Add the first workflow task to the reply."""
    from whistlestop.history.api.workflow_tasks import poll_reply

    if run.has_started_workflow_task:
        reply.eager_workflow_task.ParseFromString(await poll_reply(ports, run, partial=False))
