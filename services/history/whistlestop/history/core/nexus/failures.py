"""Convert failures between Nexus and Temporal.

A worker with the newer format sends Temporal failures, which go into history as they are. The older format is a Nexus
failure: text, metadata and JSON details. One that was converted from a Temporal failure says so in its metadata and is
converted back; any other becomes an application failure with the same content.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import nexus_pb2 as nexus_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb

from whistlestop.common.messages import nexus_content
from whistlestop.common.messages.nesting import cut_causes, load_json

if TYPE_CHECKING:
    from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

_RETRYABLE = nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE
_NON_RETRYABLE = nexus_enums.NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE
BEHAVIOR_OF = {retryable: behavior for behavior, retryable in nexus_content.RETRYABLE_OF.items()}
_FINAL_TYPES = frozenset({
    "BAD_REQUEST", "UNAUTHENTICATED", "UNAUTHORIZED", "NOT_FOUND", "CONFLICT", "NOT_IMPLEMENTED",
})  # fmt: skip
CANCELED = "canceled"


def handler_failure(kind: str, message: str) -> failure_pb.Failure:
    """Return a failure with which the server itself answers a request."""
    failure = failure_pb.Failure(message=message)
    failure.nexus_handler_failure_info.type = kind
    return failure


def is_retryable(failure: failure_pb.Failure) -> bool:
    """Return whether a handler's error allows another attempt."""
    info = failure.nexus_handler_failure_info
    if info.retry_behavior == _RETRYABLE:
        return True
    return info.retry_behavior != _NON_RETRYABLE and info.type not in _FINAL_TYPES


def of_handler_error(error: nexus_pb.HandlerError) -> failure_pb.Failure:
    """Convert the older format of a handler's error."""
    failure = handler_failure(error.error_type, "handler error")
    failure.nexus_handler_failure_info.retry_behavior = error.retry_behavior
    if error.HasField("failure"):
        failure.message = error.failure.message or failure.message
        failure.cause.CopyFrom(to_temporal(error.failure))
    return failure


def of_operation_error(error: nexus_pb.UnsuccessfulOperationError) -> failure_pb.Failure:
    """Convert the older format of an operation that failed or was cancelled."""
    failure = to_temporal(error.failure)
    if error.operation_state == CANCELED and not failure.HasField("canceled_failure_info"):
        canceled = failure_pb.Failure(message=failure.message, stack_trace=failure.stack_trace)
        canceled.canceled_failure_info.SetInParent()
        if failure.HasField("cause"):
            canceled.cause.CopyFrom(failure.cause)
        return canceled
    if failure.WhichOneof("failure_info") is None:
        failure.application_failure_info.non_retryable = True
        failure.application_failure_info.type = "OperationError"
    return failure


def to_temporal(source: nexus_pb.Failure) -> failure_pb.Failure:
    """Convert a Nexus failure. Its details may contain long chains of causes, which are cut as in any failure."""
    failure = _converted(source)
    cut_causes(failure)
    return failure


def _converted(source: nexus_pb.Failure) -> failure_pb.Failure:
    failure = failure_pb.Failure()
    if source.metadata.get("type") == nexus_content.FAILURE_TYPE:
        from google.protobuf import json_format

        try:
            json_format.ParseDict(load_json(source.details), failure, ignore_unknown_fields=True)
        except (json_format.ParseError, ValueError, TypeError, AttributeError):
            failure.Clear()
    elif source.metadata.get("type") == nexus_content.HANDLER_ERROR:
        details = _details(source)
        failure.nexus_handler_failure_info.type = str(details.get("type", ""))
        retryable = details.get("retryableOverride")
        if isinstance(retryable, bool):
            failure.nexus_handler_failure_info.retry_behavior = BEHAVIOR_OF[retryable]
    elif source.metadata.get("type") == nexus_content.OPERATION_ERROR:
        if _details(source).get("state") == CANCELED:
            failure.canceled_failure_info.SetInParent()
        else:
            failure.application_failure_info.non_retryable = True
            failure.application_failure_info.type = "OperationError"
    elif source.metadata or source.details:
        failure.application_failure_info.type = "NexusFailure"
        payload = failure.application_failure_info.details.payloads.add()
        payload.metadata["encoding"] = b"json/plain"
        payload.data = _as_json(source)
    failure.message = source.message
    failure.stack_trace = source.stack_trace
    if source.HasField("cause"):
        failure.cause.CopyFrom(_converted(source.cause))
    return failure


def _details(source: nexus_pb.Failure) -> dict[str, Any]:
    try:
        details = load_json(source.details or b"{}")
    except ValueError:
        return {}
    return details if isinstance(details, dict) else {}


def _as_json(source: nexus_pb.Failure) -> bytes:
    kept: dict[str, object] = {}
    if source.metadata:
        kept["metadata"] = dict(source.metadata)
    if source.details:
        try:
            kept["details"] = load_json(source.details)
        except ValueError:
            kept["details"] = source.details.decode(errors="replace")
    return json.dumps(kept, separators=(",", ":")).encode()


def without_message(failure: failure_pb.Failure) -> failure_pb.Failure:
    """Return a copy without the message."""
    copy = failure_pb.Failure()
    copy.CopyFrom(failure)
    copy.ClearField("message")
    return copy
