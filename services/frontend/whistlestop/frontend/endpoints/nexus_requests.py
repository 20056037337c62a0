"""Requests from outside to the workers of a Nexus endpoint or task queue: start or cancel an operation."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import namespace_pb2 as namespace_enums
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

from whistlestop.common import task_queues
from whistlestop.common.clients import decoded
from whistlestop.common.clock import MILLISECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages import nexus_content
from whistlestop.common.proto.nexus_pb2 import (
    DispatchNexusTaskRequest,
    DispatchNexusTaskResponse,
    NexusEndpointData,
)
from whistlestop.frontend.client_versions import check_nexus
from whistlestop.frontend.endpoints import nexus_answers
from whistlestop.frontend.endpoints.nexus_answers import refusal
from whistlestop.net.http.answer import HttpAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.service import Frontend
    from whistlestop.net.http.answer import HttpRequest
    from whistlestop.storage.namespaces import Namespace

MAX_BODY = 2 * 1024 * 1024
_CALLBACK_PREFIX = "nexus-callback-"
_TOKEN_HEADER = "nexus-operation-token"  # noqa: S105 - a header's name
_OF_THE_CONNECTION = frozenset(("host", "transfer-encoding"))


@dataclass(frozen=True, slots=True)
class Target:
    """The task queue to which requests go."""

    namespace: Namespace
    task_queue: str
    endpoint: str = ""


async def of_endpoint(frontend: Frontend, endpoint_id: str) -> Target:
    """Return the target of an endpoint, which must be a worker target. Raises Refusal."""
    record = await frontend.ports.store.get_nexus_endpoint(endpoint_id=endpoint_id)
    if record is None:
        raise refusal("NOT_FOUND", "nexus endpoint not found", retryable=False)
    data = NexusEndpointData.FromString(record.data)
    if not data.endpoint.spec.target.HasField("worker"):
        raise refusal("BAD_REQUEST", "invalid endpoint target")
    namespace = await frontend.ports.namespaces.by_id(data.target_namespace_id)
    if namespace is None:
        raise refusal("NOT_FOUND", "invalid endpoint target", retryable=True)
    return Target(namespace, data.endpoint.spec.target.worker.task_queue, record.name)


async def of_queue(frontend: Frontend, name: str, task_queue: str) -> Target:
    """Return the target for a task queue, given by names. Raises Refusal."""
    if len(name) > frontend.ports.config.max_id_length:
        raise refusal("BAD_REQUEST", "Namespace length exceeds limit.")
    namespace = await frontend.ports.namespaces.by_name(name)
    if namespace is None:
        raise refusal("NOT_FOUND", f'namespace not found: "{name}"')
    if fault := task_queues.internal_fault(task_queue):
        raise refusal("BAD_REQUEST", fault)
    return Target(namespace, task_queue)


async def serve(
    frontend: Frontend, clock: Clock, request: HttpRequest, target: Target, rest: str, context: CallContext
) -> HttpAnswer:
    """Serve a request. `rest` is service/operation or service/operation/cancel. Raises Refusal."""
    if request.method != "POST":
        raise refusal("BAD_REQUEST", f'invalid request method: expected POST, got "{request.method}"')
    service, *others = (unquote(part) for part in rest.split("/"))
    query = parse_qs(request.query, keep_blank_values=True)
    if not others:
        raise refusal("NOT_FOUND", "not found")
    wanted = nexus_pb.Request(endpoint=target.endpoint)
    wanted.scheduled_time.FromNanoseconds(clock.now_ns())
    wanted.capabilities.temporal_failure_responses = _supports_failures(request)
    cancels = len(others) > 1
    if cancels:
        _fill_cancel(wanted, request, service, others, query)
    else:
        _fill_start(wanted, request, service, others[0], query)
    for name in list(filter(_matcher(frontend.ports.config.nexus_dropped_headers).fullmatch, wanted.header)):
        del wanted.header[name]
    deadline_ns = _deadline(request.headers.get("request-timeout", ""), clock, context.deadline_ns)
    if target.namespace.state == namespace_enums.NAMESPACE_STATE_DELETED:
        raise refusal("BAD_REQUEST", "bad request")
    try:
        check_nexus(request.headers)
    except ServiceError as error:
        raise nexus_answers.of_service_error(error, exposed=True) from None
    if not cancels:
        _fill_payload(
            wanted.start_operation, request, frontend.ports.config.of(target.namespace.name).blob_size_limit_error
        )
    call = CallContext(
        deadline_ns, request.headers, target.namespace.namespace_id, target.namespace.name, context.can_long_poll
    )
    dispatch = DispatchNexusTaskRequest(task_queue=target.task_queue, request=wanted)
    try:
        reply = await frontend.ports.history.DispatchNexusTask(dispatch, call)
    except ServiceError as error:
        raise nexus_answers.of_service_error(error) from None
    outcome = decoded(reply, DispatchNexusTaskResponse)
    if cancels and outcome.WhichOneof("outcome") == "response":
        return HttpAnswer(202, b"")
    return _answer(outcome, failure_support=_supports_failures(request))


def _supports_failures(request: HttpRequest) -> bool:
    return request.headers.get(nexus_answers.FAILURE_SUPPORT_HEADER) == "true"


# ---- the request -----------------------------------------------------------------------------------------------------


def _fill_start(
    wanted: nexus_pb.Request, request: HttpRequest, service: str, operation: str, query: Mapping[str, list[str]]
) -> None:
    start = wanted.start_operation
    try:
        start.links.extend(nexus_content.links_of(request.headers))
    except nexus_content.BadLinks:
        raise refusal("BAD_REQUEST", f'invalid "{nexus_content.LINK_HEADER}" header') from None
    start.service, start.operation = service, operation
    start.request_id = request.headers.get("nexus-request-id", "")
    start.callback = query.get("callback", [""])[0]
    for name, value in request.headers.items():
        if name.startswith(_CALLBACK_PREFIX):
            start.callback_header[name.removeprefix(_CALLBACK_PREFIX)] = value
    wanted.header.update(_for_handlers(request.headers, ("content-", _CALLBACK_PREFIX)))


def _fill_payload(start: nexus_pb.StartOperationRequest, request: HttpRequest, most: int) -> None:
    if len(request.body) > MAX_BODY:
        raise refusal("BAD_REQUEST", "invalid input")
    try:
        start.payload.CopyFrom(nexus_content.payload_of(request.headers, request.body))
    except DecodeError:
        raise refusal("BAD_REQUEST", "invalid input") from None
    if start.payload.ByteSize() > most:
        raise refusal("BAD_REQUEST", "input exceeds size limit")


def _fill_cancel(
    wanted: nexus_pb.Request, request: HttpRequest, service: str, others: list[str], query: Mapping[str, list[str]]
) -> None:
    headers = dict(request.headers)
    if len(others) == 3 and others[2] == "cancel":
        # The older form has the token in the path.
        token = others[1]
    elif len(others) == 2 and others[1] == "cancel":
        token = headers.pop(_TOKEN_HEADER, "") or query.get("token", [""])[0]
        if not token:
            raise refusal("BAD_REQUEST", "missing operation token")
    else:
        raise refusal("NOT_FOUND", "not found")
    cancel = wanted.cancel_operation
    cancel.service, cancel.operation = service, others[0]
    cancel.operation_token = cancel.operation_id = token
    wanted.header.update(_for_handlers(headers, ()))


def _for_handlers(headers: Mapping[str, str], dropped: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name not in _OF_THE_CONNECTION and not (dropped and name.startswith(dropped))
    }


@lru_cache(maxsize=8)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern for the names of headers, in which `*` matches anything."""
    return re.compile("|".join(".*".join(map(re.escape, each.split("*"))) for each in patterns) or "(?!)")


def _deadline(text: str, clock: Clock, latest_ns: int | None) -> int | None:
    if not text:
        return latest_ns
    span_ms = nexus_content.duration_ms(text)
    if span_ms is None:
        raise refusal("BAD_REQUEST", "invalid request timeout header")
    if span_ms == 0:
        return latest_ns
    deadline_ns = clock.steady_ns() + span_ms * MILLISECOND_NS
    return deadline_ns if latest_ns is None else min(deadline_ns, latest_ns)


# ---- the answer ------------------------------------------------------------------------------------------------------


def _answer(outcome: Any, *, failure_support: bool) -> HttpAnswer:
    """Return the answer for the worker's outcome. Raises Refusal."""
    kind = outcome.WhichOneof("outcome")
    if kind == "timed_out":
        raise refusal("UPSTREAM_TIMEOUT", "upstream timeout", from_worker=True)
    if kind == "failure":
        info = outcome.failure.nexus_handler_failure_info
        failure = nexus_content.failure_json(outcome.failure)
        retryable = nexus_content.RETRYABLE_OF.get(info.retry_behavior)
        raise nexus_answers.Refusal(info.type, failure, retryable=retryable, headers=nexus_answers.FAILURE_SOURCE)
    if kind == "handler_error":
        raise _of_handler_error(outcome.handler_error)
    start = outcome.response.start_operation
    variant = start.WhichOneof("variant")
    if variant == "sync_success":
        success = start.sync_success
        headers, body = nexus_content.content_of(success.payload if success.HasField("payload") else None)
        return HttpAnswer(200, body, {name.lower(): value for name, value in headers.items()} | _links(success.links))
    if variant == "async_success":
        pending = start.async_success
        info = {"token": pending.operation_token or pending.operation_id, "state": "running"}
        body = json.dumps(info, ensure_ascii=False, separators=(",", ":")).encode()
        return HttpAnswer(201, body, nexus_answers.JSON | _links(pending.links))
    if variant == "operation_error":
        cause = nexus_content.nexus_failure_json(start.operation_error.failure)
        return nexus_answers.unsuccessful(start.operation_error.operation_state, cause, failure_support=failure_support)
    if variant == "failure":
        state = "canceled" if start.failure.HasField("canceled_failure_info") else "failed"
        cause = nexus_content.failure_json(start.failure)
        return nexus_answers.unsuccessful(state, cause, failure_support=failure_support)
    raise refusal("INTERNAL", "empty outcome", from_worker=True)


def _of_handler_error(error: nexus_pb.HandlerError) -> nexus_answers.Refusal:
    """Convert the older form of a handler error."""
    retryable = nexus_content.RETRYABLE_OF.get(error.retry_behavior)
    failure = {
        "metadata": {"type": nexus_content.HANDLER_ERROR},
        "details": nexus_content.handler_details(error.error_type, retryable=retryable),
        "cause": nexus_content.nexus_failure_json(error.failure),
    }
    return nexus_answers.Refusal(error.error_type, failure, retryable=retryable, headers=nexus_answers.FAILURE_SOURCE)


def _links(links: Iterable[nexus_pb.Link]) -> dict[str, str]:
    text = nexus_content.link_header(links)
    return {nexus_content.LINK_HEADER: text} if text else {}
