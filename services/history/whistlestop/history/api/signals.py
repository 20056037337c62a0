"""SignalWorkflowExecution and SignalWithStartWorkflowExecution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles, links
from whistlestop.history.api.start import Start, check_version, first_of_chain, next_step
from whistlestop.history.core.chain import start as core_start
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.engine import changes
from whistlestop.history.engine.changes import Next

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.ports import HistoryPorts

SIGNALED = et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED


@handles(HistoryService.SignalWorkflowExecution)
async def signal_workflow_execution(
    ports: HistoryPorts, request: service_pb.SignalWorkflowExecutionRequest, context: CallContext
) -> service_pb.SignalWorkflowExecutionResponse:
    """Signal the named run, or the current one. Raise NOT_FOUND, also for a closed run, or INVALID_ARGUMENT."""
    execution = request.workflow_execution

    def decide(run: Run) -> None:
        signal.receive(
            run,
            name=request.signal_name,
            input=request.input if request.HasField("input") else None,
            header=request.header if request.HasField("header") else None,
            identity=request.identity,
            request_id=request.request_id,
            links=request.links,
        )

    run, _ = await ports.engine.change(context.namespace_id, execution.workflow_id, execution.run_id, decide)
    return service_pb.SignalWorkflowExecutionResponse(
        link=links.to_request(context.namespace, execution.workflow_id, run.key.run_id, request.request_id, SIGNALED)
    )


_START_FIELDS = (
    "workflow_type",
    "task_queue",
    "input",
    "workflow_execution_timeout",
    "workflow_run_timeout",
    "workflow_task_timeout",
    "retry_policy",
    "memo",
    "search_attributes",
    "header",
    "workflow_start_delay",
    "user_metadata",
    "versioning_override",
    "priority",
    "time_skipping_config",
)
_START_VALUES = (
    "namespace",
    "workflow_id",
    "identity",
    "request_id",
    "workflow_id_reuse_policy",
    "workflow_id_conflict_policy",
    "cron_schedule",
)


def start_request(
    request: service_pb.SignalWithStartWorkflowExecutionRequest,
) -> service_pb.StartWorkflowExecutionRequest:
    """Return the start request in a signal-with-start."""
    start = service_pb.StartWorkflowExecutionRequest()
    for field in _START_FIELDS:
        if request.HasField(field):  # type: ignore[arg-type]
            getattr(start, field).CopyFrom(getattr(request, field))
    for field in _START_VALUES:
        setattr(start, field, getattr(request, field))
    start.links.extend(request.links)
    return start


class _ClosedError(Exception):
    """The current run is closed and can't be signalled, so another has to be started."""


@handles(HistoryService.SignalWithStartWorkflowExecution)
async def signal_with_start_workflow_execution(
    ports: HistoryPorts, request: service_pb.SignalWithStartWorkflowExecutionRequest, context: CallContext
) -> service_pb.SignalWithStartWorkflowExecutionResponse:
    """Signal the open run, or start one whose second event is the signal; return the id of the run.

    Raise ALREADY_EXISTS when the id policies forbid the start, or UNAVAILABLE after too many conflicts.
    """

    def prepare(run: Run) -> None:
        _check(run)
        signal.record(run, **_signal(request))  # type: ignore[arg-type]
        signal.note_request(run.state, digest)
        core_start.first_workflow_task(run)

    def _check(run: Run) -> None:
        signal.check(run, request.signal_input if request.HasField("signal_input") else None)

    if not request.workflow_id_conflict_policy:
        request.workflow_id_conflict_policy = wf_enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
    digest = _digest(request)
    starting = Start(ports, start_request(request), context, prepare)
    await check_version(ports, starting.request, context)
    replaces = request.workflow_id_conflict_policy == wf_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING or (
        request.workflow_id_reuse_policy == wf_enums.WORKFLOW_ID_REUSE_POLICY_TERMINATE_IF_RUNNING
    )
    engine = ports.engine

    async def resolve(entry: Entry) -> tuple[Run, bool] | Next:
        if signal.is_same_request(entry.state, request.request_id, digest):
            return engine.run_of(entry), True  # The request started this run, and was sent again.
        step = next_step(starting, entry.state)
        if step is not None:
            return step
        signaled = await _signal_current(ports, request, digest, context)
        return Next.READ_AGAIN if signaled is None else (signaled, False)

    signaled = None if replaces else await _signal_current(ports, request, digest, context)
    if signaled is None:
        answer = await changes.create(engine, starting.new_run, resolve)
        run, started = answer if isinstance(answer, tuple) else (answer, True)
    else:
        run, started = signaled, False
    run_id = run.key.run_id
    if not started and request.request_id in run.state.signal_request_ids:
        run_id = await _started_by(ports, run, request.request_id)
    return service_pb.SignalWithStartWorkflowExecutionResponse(
        run_id=run_id,
        first_execution_run_id=run.state.first_run_id,
        started=started,
        signal_link=links.to_request(context.namespace, request.workflow_id, run_id, request.request_id, SIGNALED),
    )


async def _started_by(ports: HistoryPorts, run: Run, request_id: str) -> str:
    """Return the run that this request started if `run` belongs to its chain; otherwise `run`."""
    first = await first_of_chain(ports.engine, run.state)
    return run.key.run_id if first is None or first.state.create_request_id != request_id else first.key.run_id


def _signal(request: service_pb.SignalWithStartWorkflowExecutionRequest) -> dict[str, object]:
    return {
        "name": request.signal_name,
        "input": request.signal_input if request.HasField("signal_input") else None,
        "header": request.header if request.HasField("header") else None,
        "identity": request.identity,
        "request_id": request.request_id,
        "links": request.links,
    }


def _digest(request: service_pb.SignalWithStartWorkflowExecutionRequest) -> int:
    """Return a 64-bit digest of the whole request, which distinguishes it from others with the same id."""
    from hashlib import blake2b  # imported only when it is needed

    return int.from_bytes(blake2b(request.SerializeToString(deterministic=True), digest_size=8).digest(), "big")


async def _signal_current(
    ports: HistoryPorts, request: service_pb.SignalWithStartWorkflowExecutionRequest, digest: int, context: CallContext
) -> Run | None:
    """Signal the open run, or find the run that took this request before; return None when there is neither."""

    def decide(run: Run) -> None:
        if not run.is_open and not signal.is_same_request(run.state, request.request_id, digest):
            raise _ClosedError
        signal.receive(run, with_start=True, **_signal(request))  # type: ignore[arg-type]
        if run.is_open:
            signal.note_request(run.state, digest)

    try:
        run, _ = await ports.engine.change(context.namespace_id, request.workflow_id, "", decide)
    except _ClosedError:
        return None
    except ServiceError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return None
    return run
