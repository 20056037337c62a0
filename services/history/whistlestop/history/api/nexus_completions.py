"""CompleteNexusOperation: somebody outside this server tells over HTTP how an operation ended."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from whistlestop.common.errors import Code, ServiceError, invalid_argument, not_found
from whistlestop.common.proto.nexus_pb2 import CompleteNexusOperationRequest, CompleteNexusOperationResponse
from whistlestop.history import nexus_callbacks, nexus_http
from whistlestop.history.api import METHODS
from whistlestop.history.core import nexus_failures, nexus_operations
from whistlestop.history.core.times import SECOND_NS

if TYPE_CHECKING:
    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.history.core.run import Run
    from whistlestop.history.service import History

_SUCCEEDED, _FAILED = "succeeded", "failed"


async def complete_nexus_operation(
    service: History, request: CompleteNexusOperationRequest, context: CallContext
) -> Reply:
    """Idempotent: an operation that is over is not found any more."""
    headers = dict(request.headers)
    token = nexus_callbacks.parse_token(headers.get(nexus_callbacks.CALLBACK_HEADER, ""))
    if token is None:
        raise invalid_argument("invalid callback token")
    state = headers.get("nexus-operation-state", "")
    if state not in (_SUCCEEDED, _FAILED, nexus_failures.CANCELED):
        raise invalid_argument(f'invalid request operation state: "{state}"')
    started_ns = _started_ns(headers.get("nexus-operation-start-time", ""))
    operation_token = headers.get("nexus-operation-token", "")

    def decide(run: Run) -> None:
        operation = nexus_operations.of_callback(run, token.scheduled_event_id, token.request_id)
        nexus_operations.note_started(run, operation, operation_token, started_ns, nexus_http.links_of(headers))
        if state == _SUCCEEDED:
            nexus_operations.complete(run, operation, nexus_http.payload_of(headers, request.body))
        else:
            canceled = state == nexus_failures.CANCELED
            nexus_operations.fail(run, operation, nexus_http.operation_failure(request.body, canceled=canceled))

    try:
        await service.engine.transact(token.namespace_id, token.workflow_id, token.run_id, decide)
    except ServiceError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        # The run may have been reset: then another one waits for the same request.
        try:
            await service.engine.transact(token.namespace_id, token.workflow_id, "", decide)
        except ServiceError as again:
            raise (not_found(nexus_operations.NOT_FOUND) if again.code is Code.NOT_FOUND else again) from None
    return CompleteNexusOperationResponse()


def _started_ns(text: str) -> int:
    if not text:
        return 0
    try:
        return int(parsedate_to_datetime(text).timestamp()) * SECOND_NS
    except ValueError:
        raise invalid_argument("failed to parse operation start time header") from None


METHODS["CompleteNexusOperation"] = complete_nexus_operation
