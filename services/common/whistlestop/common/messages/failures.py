"""Failures made by the server, and truncation of failures."""

from __future__ import annotations

from temporalio.api.failure.v1 import message_pb2 as failure_pb

FAILURE_EXCEEDS_LIMIT = "Failure exceeds size limit."
_MAX_CAUSES = 20


def server_failure(message: str, *, non_retryable: bool, cause: failure_pb.Failure | None = None) -> failure_pb.Failure:
    """Return a failure made by the server, without a cause if it is None."""
    failure = failure_pb.Failure(message=message)
    failure.server_failure_info.non_retryable = non_retryable
    if cause is not None:
        failure.cause.CopyFrom(cause)
    return failure


def truncate(failure: failure_pb.Failure, max_size: int, depth: int = _MAX_CAUSES) -> failure_pb.Failure:
    """Return a copy of the failure without payloads in about `max_size` bytes.

    The space goes to type, source, message, stack trace and causes, in that order. At most `depth` causes are kept.
    """
    left = max_size

    def cut(text: str) -> str:
        nonlocal left
        data = text.encode()
        if len(data) > left:
            text = data[: max(left, 0)].decode(errors="ignore")
            data = text.encode()
        left -= len(data) + (4 if data else 0)
        return text

    result = failure_pb.Failure()
    kind = failure.WhichOneof("failure_info")
    if kind == "application_failure_info":
        result.application_failure_info.non_retryable = failure.application_failure_info.non_retryable
        result.application_failure_info.type = cut(failure.application_failure_info.type)
        left -= 8
    elif kind == "server_failure_info":
        result.server_failure_info.non_retryable = failure.server_failure_info.non_retryable
        left -= 4
    result.source = cut(failure.source)
    result.message = cut(failure.message)
    result.stack_trace = cut(failure.stack_trace)
    if failure.HasField("cause") and left > 4 and depth > 0:
        result.cause.CopyFrom(truncate(failure.cause, left - 4, depth - 1))
    return result
