"""Deliver the transfer tasks of Nexus: requests to workers of an endpoint, and completion callbacks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.nexus_pb2 import NexusEndpointData
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.nexus import system as system_nexus
from whistlestop.history.core.times import MILLISECOND_NS, SECOND_NS, timestamp_ns
from whistlestop.history.core.transition.clock import skipped_ns
from whistlestop.history.engine import changes
from whistlestop.history.nexus import callbacks as nexus_callbacks
from whistlestop.history.nexus import external_endpoints, system_operations
from whistlestop.history.nexus import http as nexus_http
from whistlestop.history.transfers.outcomes import PutOff
from whistlestop.storage.records import ExecutionKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from temporalio.api.failure.v1 import message_pb2 as failure_pb

    from whistlestop.common.proto.nexus_pb2 import OperationToken
    from whistlestop.history.core.state_pb2 import NexusOperation, TransferData
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.changes import Changes
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.history.transfers.outcomes import Rest
    from whistlestop.storage.records import TransferTask

T = TypeVar("T")
OPERATION_HEADER = "nexus-operation-token"
_START, _CANCEL, _CALLBACK = nexus_operations.START_KIND, nexus_operations.CANCEL_KIND, callbacks.KIND
KINDS = frozenset({_START, _CANCEL, _CALLBACK})
"""The kinds of these transfer tasks."""
_UNKNOWN_ENDPOINT = "endpoint not registered"
_EXTERNAL = "outside"
"""In place of a namespace id, for an external endpoint."""


# ---- requests --------------------------------------------------------------------------------------------------------


async def deliver(ports: HistoryPorts, task: TransferTask, data: TransferData) -> Rest | None:
    """Deliver one transfer task. Return the part that calls another server, or None if nothing is left to do.

    Raise StorageError.
    """
    if task.kind == _CALLBACK:
        return await _call_back(ports, task, data)
    return await _request(ports, task, data, cancel=task.kind == _CANCEL)


async def _request(ports: HistoryPorts, task: TransferTask, data: TransferData, *, cancel: bool) -> Rest | None:
    record: external_endpoints.Record | None = None
    run = await _run_of(ports, task.key)
    operation = _wanted(run, data, cancel=cancel)
    if run is not None and operation is not None:
        if operation.endpoint == system_nexus.ENDPOINT:
            # No lock is held: the call may come back to this run.
            record = await system_operations.call(ports, run, operation)
        else:
            _admit(ports, task.key.namespace_id, *nexus_operations.destination_of(operation, cancel=cancel))
        if record is None and (url := await external_endpoints.address(ports, operation)):
            return partial(_request_external, ports, task, data, url, cancel=cancel)
    await _change(ports, task, partial(_note, ports, task=task, data=data, record=record, cancel=cancel))
    return None


async def _change(ports: HistoryPorts, task: TransferTask, attempt: Callable[[Changes], Awaitable[T]]) -> T:
    """Commit what the attempt changes, and delete the transfer task in the same commit. Return its answer."""
    return await changes.change_together(ports.engine, attempt, workflow_id=task.key.workflow_id, done=task)


def _admit(ports: HistoryPorts, namespace_id: str, kind: str, destination: str) -> None:
    """Raise PutOff while the destination's circuit breaker is open."""
    until_ns = ports.engine.breakers.admit((namespace_id, kind, destination))
    if until_ns:
        raise PutOff(until_ns)


async def _request_external(
    ports: HistoryPorts, task: TransferTask, data: TransferData, url: str, *, cancel: bool
) -> None:
    run = await _run_of(ports, task.key)
    operation = _wanted(run, data, cancel=cancel)
    if run is None or operation is None:
        await ports.store.delete_transfer_task(task)
        return
    record = await external_endpoints.request(ports, run, operation, url, cancel=cancel)
    # Others commit to the run meanwhile: then only the recording is repeated, not the request.
    await _change(ports, task, partial(_note, ports, task=task, data=data, record=record, cancel=cancel))


async def _note(
    ports: HistoryPorts,
    change: Changes,
    task: TransferTask,
    data: TransferData,
    record: external_endpoints.Record | None,
    *,
    cancel: bool,
) -> None:
    """Record the outcome of the request, or put it on the task queue of the endpoint's workers."""
    run = await change.get(task.key)
    operation = _wanted(run, data, cancel=cancel)
    if run is None or operation is None:
        return
    if record is not None:
        record(run, operation)
        return
    target, failure = await _target(ports, operation.endpoint_id, operation.endpoint)
    if target is not None:
        run.bookkeeping = True
        nexus_operations.dispatch(run, operation, target, cancel=cancel)
    else:
        nexus_operations.refused(run, operation, failure, cancel=cancel)


def _wanted(run: Run | None, data: TransferData, *, cancel: bool) -> NexusOperation | None:
    """Return the run's operation, if the request still has to be made; otherwise None."""
    operation = run.state.nexus_operations.get(data.initiated_event_id) if run is not None and run.is_open else None
    return operation if operation is not None and nexus_operations.is_wanted(operation, cancel=cancel) else None


async def _run_of(ports: HistoryPorts, key: ExecutionKey) -> Run | None:
    """Return a working copy of the run, to be read only; None when the run is gone."""
    entry = await ports.engine.read_if_any(key)
    return None if entry is None else ports.engine.run_of(entry)


async def _target(
    ports: HistoryPorts, endpoint_id: str, name: str
) -> tuple[nexus_operations.Target | None, failure_pb.Failure]:
    """Return the task queue to which the endpoint leads now, or the failure that tells why there is none."""
    record = await ports.store.get_nexus_endpoint(endpoint_id=endpoint_id)
    if record is None:
        record = await ports.store.get_nexus_endpoint(name=name)
    if record is None:
        return None, nexus_failures.handler_failure("NOT_FOUND", _UNKNOWN_ENDPOINT)
    data = NexusEndpointData.FromString(record.data)
    if await ports.namespaces.by_id(data.target_namespace_id) is None:
        namespace = data.endpoint.spec.target.worker.namespace
        return None, nexus_failures.handler_failure("NOT_FOUND", f'namespace not found: "{namespace}"')
    task_queue = data.endpoint.spec.target.worker.task_queue
    return nexus_operations.Target(data.target_namespace_id, task_queue), nexus_failures.handler_failure("", "")


# ---- callbacks -------------------------------------------------------------------------------------------------------


async def _call_back(ports: HistoryPorts, task: TransferTask, data: TransferData) -> Rest | None:
    """Deliver a completion callback."""
    run = await _run_of(ports, task.key)
    if run is None or not callbacks.is_owed(run.state, data.callback_index):
        await ports.store.delete_transfer_task(task)
        return None
    callback = run.state.completion_callbacks[data.callback_index].nexus
    if not nexus_callbacks.stays_here(run.state, run.limits, callback):
        return partial(_call_external, ports, task, data)
    token = nexus_callbacks.parse_token(nexus_callbacks.header_of(callback, nexus_callbacks.CALLBACK_HEADER))
    if token is None:
        refusal = nexus_http.Refused("invalid callback token", retryable=False)
        await _change(ports, task, partial(_settle, task=task, data=data, refusal=refusal))
        return None
    operation_token = nexus_callbacks.header_of(callback, OPERATION_HEADER)

    async def attempt(change: Changes) -> None:
        await _call_caller(ports, change, task, data, token, operation_token)

    await _change(ports, task, attempt)
    return None


async def _call_caller(
    ports: HistoryPorts,
    change: Changes,
    task: TransferTask,
    data: TransferData,
    token: OperationToken,
    operation_token: str,
) -> None:
    """Complete an operation within this server, in one commit of both runs."""
    target, led_to = await _waiting_run(ports, token)
    await change.hold({task.key} if target is None else {task.key, target})
    run = await change.get(task.key)
    if run is None or not callbacks.is_owed(run.state, data.callback_index):
        return
    caller = await change.get(target) if target is not None else None
    refusal = _notify_caller(run, caller, token, data, operation_token, led_to)
    if refusal:
        if caller is not None and caller is not run:
            change.discard(caller)
        callbacks.failed(run, data.callback_index, refusal)
    else:
        callbacks.succeeded(run, data.callback_index)


async def _call_external(ports: HistoryPorts, task: TransferTask, data: TransferData) -> None:
    """Send a completion to another server, over HTTP."""
    run = await _run_of(ports, task.key)
    if run is None or not callbacks.is_owed(run.state, data.callback_index):
        await ports.store.delete_transfer_task(task)
        return
    callback = run.state.completion_callbacks[data.callback_index].nexus
    breaker = (task.key.namespace_id, _CALLBACK, callbacks.destination_of(callback))
    _admit(ports, *breaker)
    completion = nexus_http.Completion(
        result=callbacks.result_of(data),
        failure=callbacks.failure_of(data),
        started_ns=run.state.start_ns,
        closed_ns=timestamp_ns(data.close_event.event_time) or run.now_ns,
        link=callbacks.link_of(run.state, data.callback_index),
    )
    timeout_s = run.limits.callback_request_timeout_ns / SECOND_NS
    refusal = await nexus_http.complete(ports.outbound, callback.url, dict(callback.header), completion, timeout_s)
    ports.engine.breakers.report(breaker, failed=refusal is not None and refusal.retryable)
    again_ns = await _change(ports, task, partial(_settle, task=task, data=data, refusal=refusal))
    if again_ns:
        raise PutOff(again_ns)


async def _settle(change: Changes, task: TransferTask, data: TransferData, refusal: nexus_http.Refused | None) -> int:
    """Record the outcome of an attempt. Return when it has to be retried (server's clock, nanoseconds); 0 for never."""
    run = await change.get(task.key)
    if run is None or not callbacks.is_owed(run.state, data.callback_index):
        return 0
    if refusal is None:
        callbacks.succeeded(run, data.callback_index)
    elif not refusal.retryable:
        callbacks.failed(run, data.callback_index, refusal.message)
    else:
        deadline_ns = callbacks.put_off(run, data.callback_index, refusal.message)
        change.keep_transfer_task()
        return deadline_ns - skipped_ns(run.state)  # The run's own clock may be ahead.
    return 0


async def _waiting_run(ports: HistoryPorts, token: OperationToken) -> tuple[ExecutionKey | None, str]:
    """Return the run that waits (the one that scheduled the operation, or its reset), and the result of `_led_to`."""
    key = ExecutionKey(token.namespace_id, token.workflow_id, token.run_id)
    run = await _run_of(ports, key)
    if run is None or not run.is_open or token.scheduled_event_id not in run.state.nexus_operations:
        try:
            key = await ports.engine.resolve(token.namespace_id, token.workflow_id)
        except ServiceError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return None, ""
        run = await _run_of(ports, key)
    return key, await _led_to(ports, run, token)


async def _led_to(ports: HistoryPorts, caller: Run | None, token: OperationToken) -> str:
    """Return the namespace to which the endpoint has led since it was created; empty where that does not matter."""
    operation = caller.state.nexus_operations.get(token.scheduled_event_id) if caller is not None else None
    if operation is None or operation.start.handler_namespace_id:
        return ""
    record = await ports.store.get_nexus_endpoint(endpoint_id=operation.endpoint_id)
    if record is None or record.version != 1:
        return ""
    return NexusEndpointData.FromString(record.data).target_namespace_id or _EXTERNAL


def _notify_caller(
    run: Run, caller: Run | None, token: OperationToken, data: TransferData, operation_token: str, led_to: str
) -> str:
    """Complete the caller's operation. Return an error message if the operation does not exist (any more)."""
    if caller is None:
        return f"handler error (NOT_FOUND): {nexus_operations.NOT_FOUND}"
    try:
        operation = nexus_operations.of_callback(caller, token.scheduled_event_id, token.request_id)
    except ServiceError as error:
        return f"handler error (NOT_FOUND): {error.message}"
    if not nexus_operations.may_notify(caller, operation, run.key.namespace_id, led_to):
        # The answer to a token of another namespace's request is the same as without one.
        return f"handler error (NOT_FOUND): {nexus_operations.NOT_FOUND}"
    link = callbacks.link_of(run.state, data.callback_index)
    # Nexus sends times in milliseconds.
    started_ns = run.state.start_ns // MILLISECOND_NS * MILLISECOND_NS
    nexus_operations.note_started(caller, operation, operation_token, started_ns, [link])
    failure = callbacks.failure_of(data)
    if failure is None:
        nexus_operations.complete(caller, operation, callbacks.result_of(data))
    else:
        nexus_operations.fail(caller, operation, failure)
    return ""
