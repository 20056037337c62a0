"""ServiceError, the only error type that is reported to callers.

An error carries a gRPC status code, a message worded as Temporal words it and, where the SDKs act on them, Temporal's
`errordetails` messages. Nothing here depends on gRPC, HTTP or Lambda: each transport encodes a `ServiceError` in its
own way.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.messages.error_size import fit

if TYPE_CHECKING:
    from google.protobuf.message import Message


class Code(IntEnum):
    """The gRPC status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ServiceError(Exception):
    """An RPC ends with `code` and `message`; `details` are sent in the status details, in order.

    Message and details are cut to what every transport can carry, so that a message may quote a caller's input.
    """

    def __init__(self, code: Code, message: str, *details: Message) -> None:
        self.code = code
        self.message, self.details = fit(message, details)
        super().__init__(self.message)

    def __repr__(self) -> str:
        return f"ServiceError({self.code.name}, {self.message!r}, {len(self.details)} details)"


def invalid_argument(message: str) -> ServiceError:
    """Return the error for a request that is wrong in itself, whatever the state."""
    return ServiceError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServiceError:
    """Return the error for an execution, task or other object that does not exist (any more)."""
    return ServiceError(Code.NOT_FOUND, message, details_pb.NotFoundFailure())


def failed_precondition(message: str) -> ServiceError:
    """Return the error for a request that the current state forbids."""
    return ServiceError(Code.FAILED_PRECONDITION, message)


def already_started(message: str, start_request_id: str, run_id: str, first_execution_run_id: str = "") -> ServiceError:
    """Return the error for a workflow id that is in use while the id policies forbid another run."""
    return ServiceError(
        Code.ALREADY_EXISTS,
        message,
        details_pb.WorkflowExecutionAlreadyStartedFailure(
            start_request_id=start_request_id, run_id=run_id, first_execution_run_id=first_execution_run_id
        ),
    )


def namespace_not_found(namespace: str) -> ServiceError:
    """Return the error for an unknown namespace, given its name or id."""
    return ServiceError(
        Code.NOT_FOUND,
        f"Namespace {namespace} is not found.",
        details_pb.NamespaceNotFoundFailure(namespace=namespace),
    )


def permission_denied() -> ServiceError:
    """Return the error for a caller without permission. The reason is only logged, never sent."""
    return ServiceError(Code.PERMISSION_DENIED, "Request unauthorized.", details_pb.PermissionDeniedFailure())


def unimplemented(message: str) -> ServiceError:
    """Return the error for an unsupported request; the message gives the reason."""
    return ServiceError(Code.UNIMPLEMENTED, message)


def data_loss(message: str) -> ServiceError:
    """Return the error for stored data that cannot be read. Retrying does not help."""
    return ServiceError(Code.DATA_LOSS, message)


def unavailable(message: str) -> ServiceError:
    """Return an error that asks the caller to retry: the server is closing, or the store did not answer."""
    return ServiceError(Code.UNAVAILABLE, message)


def deadline_exceeded(message: str = "context deadline exceeded") -> ServiceError:
    """Return the error for a request whose deadline has passed."""
    return ServiceError(Code.DEADLINE_EXCEEDED, message)
