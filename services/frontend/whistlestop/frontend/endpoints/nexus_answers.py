"""Answers of Nexus over HTTP: errors as JSON failures, with the status and the headers that belong to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from whistlestop.common.errors import Code
from whistlestop.common.messages import nexus_content
from whistlestop.net.http.answer import HttpAnswer

if TYPE_CHECKING:
    from whistlestop.common.errors import ServiceError

FAILURE_SUPPORT_HEADER = "temporal-nexus-failure-support"
FAILURE_SOURCE = {"temporal-nexus-failure-source": "worker"}
"""Tells the caller that the worker failed, not the server."""
JSON = {"content-type": "application/json"}

_STATUS = {
    "BAD_REQUEST": 400, "REQUEST_TIMEOUT": 408, "CONFLICT": 409, "UNAUTHENTICATED": 401, "UNAUTHORIZED": 403,
    "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429, "INTERNAL": 500, "NOT_IMPLEMENTED": 501, "UNAVAILABLE": 503,
    "UPSTREAM_TIMEOUT": 520,
}  # fmt: skip
_INTERNAL = 500
_UNSUCCESSFUL = 424

_OF_CODE = {
    Code.ALREADY_EXISTS: ("BAD_REQUEST", "bad request"),
    Code.INVALID_ARGUMENT: ("BAD_REQUEST", "bad request"),
    Code.FAILED_PRECONDITION: ("BAD_REQUEST", "bad request"),
    Code.OUT_OF_RANGE: ("BAD_REQUEST", "bad request"),
    Code.ABORTED: ("UNAVAILABLE", "service unavailable"),
    Code.UNAVAILABLE: ("UNAVAILABLE", "service unavailable"),
    Code.CANCELLED: ("INTERNAL", "canceled"),
    Code.UNAUTHENTICATED: ("UNAUTHENTICATED", "authentication failed"),
    Code.PERMISSION_DENIED: ("UNAUTHORIZED", "permission denied"),
    Code.NOT_FOUND: ("NOT_FOUND", "not found"),
    Code.RESOURCE_EXHAUSTED: ("RESOURCE_EXHAUSTED", "resource exhausted"),
    Code.UNIMPLEMENTED: ("NOT_IMPLEMENTED", "not implemented"),
    Code.DEADLINE_EXCEEDED: ("UPSTREAM_TIMEOUT", "request timeout"),
}
"""The handler error type for each gRPC code, and its message when details must not be exposed."""


class Refusal(Exception):
    """The request is refused by the server or by its handler. `failure` is the Nexus failure as JSON."""

    def __init__(
        self,
        kind: str,
        failure: dict[str, Any],
        *,
        retryable: bool | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(kind)
        self.kind = kind
        self.failure = failure
        self.retryable = retryable
        self.headers = headers or {}

    def answer(self, *, failure_support: bool) -> HttpAnswer:
        """Return the HTTP answer.

        A client that does not announce support of Nexus failures gets the cause alone, if there is one.
        """
        headers = self.headers if self.retryable is None else self.headers | _retryable(retryable=self.retryable)
        content = _as_wanted(self.failure, failure_support=failure_support)
        return _failure(_STATUS.get(self.kind, _INTERNAL), content, headers)


def refusal(kind: str, message: str, *, retryable: bool | None = None, from_worker: bool = False) -> Refusal:
    """Return an error of this Nexus error type. With `retryable` None, the type decides on retries."""
    failure = {
        "message": message,
        "metadata": {"type": nexus_content.HANDLER_ERROR},
        "details": nexus_content.handler_details(kind, retryable=retryable),
    }
    return Refusal(kind, failure, retryable=retryable, headers=FAILURE_SOURCE if from_worker else {})


def of_service_error(error: ServiceError, *, exposed: bool = False) -> Refusal:
    """Convert an error of a service; its message is replaced by a general one unless `exposed`."""
    kind, message = _OF_CODE.get(error.code, ("INTERNAL", "internal error"))
    return refusal(kind, error.message if exposed else message)


def unsuccessful(state: str, cause: dict[str, Any], *, failure_support: bool) -> HttpAnswer:
    """Return the answer for an operation that failed or was canceled."""
    failure = {
        "message": "operation error",
        "metadata": {"type": nexus_content.OPERATION_ERROR, "unwrap-error": "true"},
        "details": {"state": state},
        "cause": cause,
    }
    content = _as_wanted(failure, failure_support=failure_support)
    return _failure(_UNSUCCESSFUL, content, FAILURE_SOURCE | {"nexus-operation-state": state})


def _retryable(*, retryable: bool) -> dict[str, str]:
    return {"nexus-request-retryable": "true" if retryable else "false"}


def _as_wanted(failure: dict[str, Any], *, failure_support: bool) -> dict[str, Any]:
    cause: dict[str, Any] = failure.get("cause") or {}
    return cause if cause and not failure_support else failure


def _failure(status: int, failure: dict[str, Any], headers: dict[str, str]) -> HttpAnswer:
    body = json.dumps(failure, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return HttpAnswer(status, body, JSON | headers)
