"""Operations of the endpoint `__temporal_system`: a workflow's calls of this server's own API.

No worker is involved. The call is idempotent by the operation's request id, so it may be repeated until its answer is
in the caller's history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clients import decoded
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import system as system_nexus

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import NexusOperation
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.nexus.external_endpoints import Record
    from whistlestop.history.ports import HistoryPorts

_RETRYABLE = frozenset(
    {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN}
)


async def call(ports: HistoryPorts, run: Run, operation: NexusOperation) -> Record:
    """Make the call; return a function that records the answer. No lock may be held: a workflow may call itself."""
    answer = await _call(ports, run, operation)
    return lambda run, operation: _record(run, operation, answer)


async def _call(
    ports: HistoryPorts, run: Run, operation: NexusOperation
) -> service_pb.SignalWithStartWorkflowExecutionResponse | ServiceError:
    scheduled = await ports.engine.event(run, operation.scheduled_event_batch_id, operation.scheduled_event_id)
    attributes = scheduled.nexus_operation_scheduled_event_attributes
    state = run.state
    link = common_pb.Link()
    event = link.workflow_event
    event.namespace, event.workflow_id, event.run_id = state.namespace, state.workflow_id, state.run_id
    event.event_ref.event_id = scheduled.event_id
    event.event_ref.event_type = scheduled.event_type
    # Imported where it is needed: few processes serve such an operation.
    from whistlestop.history.api.signals import signal_with_start_workflow_execution

    try:
        request = system_nexus.parse(attributes, state.namespace)
        request.request_id = operation.request_id
        request.links.append(link)
        context = CallContext(namespace_id=state.namespace_id, namespace=state.namespace)
        reply = await signal_with_start_workflow_execution(ports, request, context)
    except ServiceError as error:
        return error
    answer = decoded(reply, service_pb.SignalWithStartWorkflowExecutionResponse)
    answer.ClearField("first_execution_run_id")
    return answer


def _record(
    run: Run,
    operation: NexusOperation,
    answer: service_pb.SignalWithStartWorkflowExecutionResponse | ServiceError,
) -> None:
    """Record the answer in the caller's history."""
    if isinstance(answer, ServiceError):
        _record_error(run, operation, answer)
    else:
        nexus_operations.complete(run, operation, system_nexus.result(answer), [answer.signal_link])


def _record_error(run: Run, operation: NexusOperation, error: ServiceError) -> None:
    retryable = error.code in _RETRYABLE
    name = "".join(part.capitalize() for part in error.code.name.split("_"))
    failure = failure_pb.Failure(message=f"{name}: {error.message}")
    failure.server_failure_info.non_retryable = not retryable
    if retryable:
        operation.start.attempt += 1
        operation.start.last_complete_ns = run.now_ns
        nexus_operations.try_again(run, operation, failure, cancel=False)
    else:
        nexus_operations.fail(run, operation, failure)
