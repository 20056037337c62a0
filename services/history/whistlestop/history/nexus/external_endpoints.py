"""External endpoints: request operations over HTTP, as part of the delivery of a transfer task."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from google.protobuf.message import DecodeError

from whistlestop.common.messages import nexus_content
from whistlestop.common.proto.nexus_pb2 import NexusEndpointData, OperationToken
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.nexus import links as nexus_links
from whistlestop.history.core.times import MILLISECOND_NS, SECOND_NS
from whistlestop.history.nexus import http as nexus_http
from whistlestop.history.nexus.callbacks import CALLBACK_HEADER, callback_url, token_of
from whistlestop.net.outbound import BadRequest, NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from temporalio.api.failure.v1 import message_pb2 as failure_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import NexusOperation
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.net.outbound import Answer

    Record: TypeAlias = Callable[[Run, NexusOperation], None]
    """Record the outcome of a request on a fresh working copy of the run."""

_UNSUCCESSFUL = 424


async def address(ports: HistoryPorts, operation: NexusOperation) -> str:
    """Return the URL of the operation's endpoint if that is external, otherwise an empty text. Raise StorageError."""
    record = await ports.store.get_nexus_endpoint(endpoint_id=operation.endpoint_id)
    return "" if record is None else NexusEndpointData.FromString(record.data).endpoint.spec.target.external.url


async def request(ports: HistoryPorts, run: Run, operation: NexusOperation, url: str, *, cancel: bool) -> Record:
    """Make the request; return a function that records its outcome on a working copy of the run."""
    left_ns, _ = nexus_operations.time_for(run, operation, cancel=cancel)
    if left_ns < run.limits.nexus_min_request_timeout_ns:
        return lambda run, operation: _out_of_time(run, operation, cancel=cancel)
    scheduled = await ports.engine.event(run, operation.scheduled_event_batch_id, operation.scheduled_event_id)
    path = f"{url.rstrip('/')}/{quote(operation.service, safe='')}/{quote(operation.operation, safe='')}"
    callers = scheduled.nexus_operation_scheduled_event_attributes.nexus_header
    ours = {"Request-Timeout": f"{left_ns // MILLISECOND_NS}ms", "User-Agent": "temporalio/server"}
    body = b""
    if cancel:
        path += "/cancel"
        ours["Nexus-Operation-Token"] = operation.operation_token
    else:
        path, body = _fill_start(run, operation, scheduled, path, ours)
    try:
        answer = await ports.outbound.post(path, nexus_content.headers_of(ours, callers), body, left_ns / SECOND_NS)
    except (NoAnswer, BadRequest) as error:
        failure = nexus_operations.call_error(str(error), retryable=True)
        return lambda run, operation: _try_again(run, operation, failure, cancel=cancel)
    return lambda run, operation: _record(run, operation, answer, cancel=cancel)


def _fill_start(
    run: Run, operation: NexusOperation, scheduled: history_pb.HistoryEvent, path: str, headers: dict[str, str]
) -> tuple[str, bytes]:
    """Add a start request's headers; return its path and body."""
    state = run.state
    attributes = scheduled.nexus_operation_scheduled_event_attributes
    content, body = nexus_content.content_of(attributes.input if attributes.HasField("input") else None)
    headers |= content | {
        "Nexus-Request-Id": operation.request_id,
        "Nexus-Link": nexus_links.header_value(nexus_links.caller(state, scheduled)),
        "Temporal-Nexus-Failure-Support": "true",
    }
    timeout_ns = nexus_operations.operation_timeout(operation, run.now_ns)
    if timeout_ns:
        headers["Operation-Timeout"] = f"{timeout_ns // MILLISECOND_NS}ms"
    callback = callback_url(state, run.limits)
    if not callback:
        # Nobody could report the end later, so only an operation that completes at once has an end.
        return path, body
    token = OperationToken(
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        scheduled_event_id=operation.scheduled_event_id,
        request_id=operation.request_id,
    )
    headers[f"Nexus-Callback-{CALLBACK_HEADER}"] = token_of(token)
    return f"{path}?{urlencode({'callback': callback})}", body


# ---- outcomes --------------------------------------------------------------------------------------------------------


def _out_of_time(run: Run, operation: NexusOperation, *, cancel: bool) -> None:
    nexus_operations.end_if_out_of_time(run, operation, cancel=cancel)


def _try_again(run: Run, operation: NexusOperation, failure: failure_pb.Failure, *, cancel: bool) -> None:
    nexus_operations.requested(run, operation, cancel=cancel)
    nexus_operations.try_again(run, operation, failure, cancel=cancel)


def _record(run: Run, operation: NexusOperation, answer: Answer, *, cancel: bool) -> None:
    nexus_operations.requested(run, operation, cancel=cancel)
    if cancel and answer.status == 202:
        nexus_operations.cancel_delivered(run, operation)
    elif not cancel and answer.status == 200:
        _complete(run, operation, answer)
    elif not cancel and answer.status == 201 and (token := _token(answer)):
        nexus_operations.start(run, operation, token, nexus_http.links_of(answer.headers))
    elif not cancel and answer.status == _UNSUCCESSFUL:
        canceled = answer.headers.get("nexus-operation-state") == nexus_failures.CANCELED
        failure = nexus_http.operation_failure(nexus_http.failure_of(answer.body), canceled=canceled)
        nexus_operations.fail(run, operation, failure)
    else:
        nexus_operations.refused(run, operation, nexus_http.refusal_of(answer), cancel=cancel)


def _complete(run: Run, operation: NexusOperation, answer: Answer) -> None:
    try:
        result = nexus_content.payload_of(answer.headers, answer.body)
    except DecodeError:
        failure = nexus_operations.call_error("the result is not what its content type says", retryable=True)
        nexus_operations.try_again(run, operation, failure, cancel=False)
        return
    if result.ByteSize() > run.limits.blob_size_error:
        nexus_operations.fail(run, operation, nexus_operations.TOO_LARGE)
        return
    nexus_operations.complete(run, operation, result, nexus_http.links_of(answer.headers))


def _token(answer: Answer) -> str:
    try:
        info = json.loads(answer.body)
        return str(info.get("token") or info.get("id") or "")
    except (ValueError, AttributeError, RecursionError):
        return ""
