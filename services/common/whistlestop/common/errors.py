"""The one error type that crosses a door.

Rules of this file: an error carries a gRPC status code, a message worded as Temporal words it and, where the SDKs
decide on them, Temporal's `errordetails` messages. Nothing here knows about gRPC, HTTP or Lambda: each door renders
a `ServiceError` in its own way.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.error_size import fit

if TYPE_CHECKING:
    from google.protobuf.message import Message


class Code(IntEnum):
    """The gRPC status codes by their numbers."""

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
    """An RPC ends with `code` and `message`; `details` travel in the status details, in order.

    Both are cut to what every transport can carry, so a message may quote whatever a caller sent.
    """

    def __init__(self, code: Code, message: str, *details: Message) -> None:
        self.code = code
        self.message, self.details = fit(message, details)
        super().__init__(self.message)

    def __repr__(self) -> str:
        return f"ServiceError({self.code.name}, {self.message!r}, {len(self.details)} details)"


def invalid_argument(message: str) -> ServiceError:
    """The request itself is wrong, whatever the state."""
    return ServiceError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServiceError:
    """The execution, task or thing asked for is not there (any more)."""
    return ServiceError(Code.NOT_FOUND, message, details_pb.NotFoundFailure())


def failed_precondition(message: str) -> ServiceError:
    """The state forbids the request."""
    return ServiceError(Code.FAILED_PRECONDITION, message)


def already_started(
    message: str, start_request_id: str, run_id: str, first_execution_run_id: str = ""
) -> ServiceError:
    """A workflow of that id is there and the id policies forbid another one."""
    return ServiceError(
        Code.ALREADY_EXISTS,
        message,
        details_pb.WorkflowExecutionAlreadyStartedFailure(
            start_request_id=start_request_id, run_id=run_id, first_execution_run_id=first_execution_run_id
        ),
    )


def namespace_not_found(namespace: str) -> ServiceError:
    """No namespace of that name or id."""
    return ServiceError(
        Code.NOT_FOUND,
        f"Namespace {namespace} is not found.",
        details_pb.NamespaceNotFoundFailure(namespace=namespace),
    )


def permission_denied() -> ServiceError:
    """The caller may not. Why is told to nobody but the log."""
    return ServiceError(Code.PERMISSION_DENIED, "Request unauthorized.", details_pb.PermissionDeniedFailure())


def unimplemented(message: str) -> ServiceError:
    """Not supported, with the reason."""
    return ServiceError(Code.UNIMPLEMENTED, message)


def data_loss(message: str) -> ServiceError:
    """What is stored can't be read. Trying again does not help."""
    return ServiceError(Code.DATA_LOSS, message)


def unavailable(message: str) -> ServiceError:
    """Try again: the server is closing, or the store did not answer."""
    return ServiceError(Code.UNAVAILABLE, message)


def deadline_exceeded(message: str = "context deadline exceeded") -> ServiceError:
    """The caller's time ran out."""
    return ServiceError(Code.DEADLINE_EXCEEDED, message)
