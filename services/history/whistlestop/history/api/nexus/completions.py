"""CompleteNexusOperation: an external handler reports over HTTP how an operation ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from whistlestop.common.errors import Code, ServiceError, invalid_argument, not_found
from whistlestop.common.messages import nexus_content
from whistlestop.common.proto.nexus_pb2 import CompleteNexusOperationRequest, CompleteNexusOperationResponse
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.core.nexus import decide as nexus_operations
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.nexus import links as nexus_links
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.nexus import callbacks as nexus_callbacks
from whistlestop.history.nexus import http as nexus_http

if TYPE_CHECKING:
    from collections.abc import Mapping

    from temporalio.api.common.v1 import message_pb2 as common_pb
    from temporalio.api.failure.v1 import message_pb2 as failure_pb

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.nexus_pb2 import OperationToken
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts

_SUCCEEDED, _FAILED = "succeeded", "failed"


@handles(HistoryService.CompleteNexusOperation)
async def complete_nexus_operation(
    ports: HistoryPorts, request: CompleteNexusOperationRequest, context: CallContext
) -> CompleteNexusOperationResponse:
    """Complete the operation of a callback token. Raise NOT_FOUND for one that is closed already."""
    headers = dict(request.headers)
    started_ns = _started_ns(headers.get("nexus-operation-start-time", ""))
    _check_close_time(headers.get("nexus-operation-close-time", ""))
    try:
        links = nexus_links.from_nexus(nexus_content.links_of(headers))
    except nexus_content.BadLinks:
        raise invalid_argument("failed to decode links from request headers") from None
    state = headers.get("nexus-operation-state", "")
    failure = _failure(state, headers, request.body)
    token = await _token(ports, headers, request.namespace)
    operation_token = headers.get("nexus-operation-token", "")
    limits = ports.limits.of(context.namespace)
    _check_length(operation_token, limits.nexus_operation_token_length)
    result = None if failure is not None else _result(headers, request.body, limits.blob_size_error)

    def decide(run: Run) -> None:
        operation = nexus_operations.of_callback(run, token.scheduled_event_id, token.request_id)
        nexus_operations.note_started(run, operation, operation_token, started_ns, links)
        if failure is None:
            nexus_operations.complete(run, operation, result)
        else:
            nexus_operations.fail(run, operation, failure)

    try:
        await ports.engine.change(token.namespace_id, token.workflow_id, token.run_id, decide)
    except ServiceError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        # After a reset, another run waits for the same request.
        try:
            await ports.engine.change(token.namespace_id, token.workflow_id, "", decide)
        except ServiceError as again:
            raise (not_found(nexus_operations.NOT_FOUND) if again.code is Code.NOT_FOUND else again) from None
    return CompleteNexusOperationResponse()


def _failure(state: str, headers: Mapping[str, str], body: bytes) -> failure_pb.Failure | None:
    """Return how the operation failed; None when it succeeded. Raise INVALID_ARGUMENT."""
    if state == _SUCCEEDED:
        return None
    if state not in (_FAILED, nexus_failures.CANCELED):
        raise invalid_argument(f'invalid request operation state: "{state}"')
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise invalid_argument(f'invalid request content type: "{content_type}"')
    try:
        source = nexus_content.read_failure(body)
    except (ValueError, TypeError, AttributeError):
        raise invalid_argument("failed to decode Failure from request body") from None
    return nexus_http.operation_failure(source, canceled=state == nexus_failures.CANCELED)


async def _token(ports: HistoryPorts, headers: Mapping[str, str], namespace: str) -> OperationToken:
    token = nexus_callbacks.parse_token(headers.get(nexus_callbacks.CALLBACK_HEADER, ""))
    if token is None:
        raise invalid_argument("invalid callback token")
    found = await ports.namespaces.by_id(token.namespace_id)
    if found is None:
        raise not_found(f'namespace "{token.namespace_id}" not found')
    if namespace and namespace != found.name:
        raise invalid_argument("invalid callback token")
    return token


def _check_length(operation_token: str, most: int) -> None:
    if len(operation_token) > most:
        raise invalid_argument(f"operation token length exceeds allowed limit ({len(operation_token)}/{most})")


def _result(headers: Mapping[str, str], body: bytes, most: int) -> common_pb.Payload:
    try:
        result = nexus_content.payload_of(headers, body)
    except DecodeError:
        raise invalid_argument("invalid result content") from None
    if result.ByteSize() > most:
        raise invalid_argument("result exceeds size limit")
    return result


def _started_ns(text: str) -> int:
    if not text:
        return 0
    from email.utils import parsedate_to_datetime  # as in nexus_http

    try:
        return int(parsedate_to_datetime(text).timestamp()) * SECOND_NS
    except (ValueError, OverflowError):
        raise invalid_argument("failed to parse operation start time header") from None


def _check_close_time(text: str) -> None:
    if not text:
        return
    try:
        Timestamp().FromJsonString(text)
    except ValueError:
        raise invalid_argument("failed to parse operation close time header") from None
