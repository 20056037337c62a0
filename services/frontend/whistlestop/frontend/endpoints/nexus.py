"""Nexus over HTTP.

The paths are:

    POST /nexus/endpoints/{id}/services/{service}/{operation}                starts an operation of an endpoint
    POST /nexus/endpoints/{id}/services/{service}/{operation}/cancel         requests its cancellation
    POST /namespaces/{namespace}/task-queues/{queue}/nexus-services/...      the same, without an endpoint
    POST /nexus/callback, /namespaces/{namespace}/nexus/callback             reports the end of an operation elsewhere
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError, permission_denied
from whistlestop.common.messages.storable import NUL
from whistlestop.common.proto.nexus_pb2 import CompleteNexusOperationRequest
from whistlestop.frontend.auth.config import without_credentials
from whistlestop.frontend.client_versions import check_nexus
from whistlestop.frontend.endpoints import nexus_answers, nexus_requests
from whistlestop.frontend.registry import Access
from whistlestop.net.http.answer import HttpAnswer

if TYPE_CHECKING:
    from whistlestop.common.clock import Clock
    from whistlestop.frontend.service import Frontend
    from whistlestop.net.http.answer import HttpRequest

_CALLBACK = re.compile(r"(?:/namespaces/(?P<namespace>[^/]+))?/nexus/callback")
_SERVICES = re.compile(
    r"(?:/nexus/endpoints/(?P<endpoint>[^/]+)/services"
    r"|/namespaces/(?P<namespace>[^/]+)/task-queues/(?P<task_queue>[^/]+)/nexus-services)/(?P<rest>.*)"
)


async def serve(
    frontend: Frontend, clock: Clock, request: HttpRequest, *, can_long_poll: bool, latest_ns: int | None = None
) -> HttpAnswer:
    """Serve a request whose path is one of these (`is_nexus`). Errors are in the answer."""
    support = request.headers.get(nexus_answers.FAILURE_SUPPORT_HEADER) == "true"
    callback = _CALLBACK.fullmatch(request.path)
    services = _SERVICES.fullmatch(request.path)
    context = CallContext(deadline_ns=latest_ns, can_long_poll=can_long_poll)
    try:
        if callback is not None:
            namespace = unquote(callback["namespace"] or "")
            return await _complete(frontend, await _admitted(frontend, request, namespace), namespace, context)
        assert services is not None
        parts = {name: unquote(part) for name, part in services.groupdict("").items()}
        if NUL in unquote(request.path):
            raise nexus_answers.refusal("BAD_REQUEST", "the path must not contain U+0000")
        if services["endpoint"]:
            target = await _of_endpoint(frontend, request, parts["endpoint"])
            request = await _admitted(frontend, request, target.namespace.name)
        else:
            request = await _admitted(frontend, request, parts["namespace"])
            target = await nexus_requests.of_queue(frontend, parts["namespace"], parts["task_queue"])
        return await nexus_requests.serve(frontend, clock, request, target, parts["rest"], context)
    except nexus_answers.Refusal as refusal:
        return refusal.answer(failure_support=support)


def is_nexus(path: str) -> bool:
    """Return whether a path is one of Nexus: a service's operation, or a callback."""
    return "/nexus" in path and (_CALLBACK.fullmatch(path) is not None or _SERVICES.fullmatch(path) is not None)


def error_answer(request: HttpRequest, error: ServiceError | nexus_answers.Refusal) -> HttpAnswer:
    """Return the error in Nexus's format."""
    refusal = nexus_answers.of_service_error(error) if isinstance(error, ServiceError) else error
    return refusal.answer(failure_support=request.headers.get(nexus_answers.FAILURE_SUPPORT_HEADER) == "true")


def too_large(request: HttpRequest) -> nexus_answers.Refusal:
    """Return the error for a body over MAX_BODY."""
    is_callback = _CALLBACK.fullmatch(request.path) is not None
    return nexus_answers.refusal("BAD_REQUEST", "invalid result content" if is_callback else "invalid input")


async def _of_endpoint(frontend: Frontend, request: HttpRequest, endpoint_id: str) -> nexus_requests.Target:
    """Return the target of an endpoint. Raises Refusal.

    Only a caller with access to all namespaces learns that an endpoint does not exist.
    """
    if not await frontend.is_authenticated(request.headers):
        raise nexus_answers.of_service_error(permission_denied())
    try:
        return await nexus_requests.of_endpoint(frontend, endpoint_id)
    except nexus_answers.Refusal:
        await _admitted(frontend, request, "", Access.READ)
        raise


async def _admitted(
    frontend: Frontend, request: HttpRequest, namespace: str, access: Access = Access.WRITE
) -> HttpRequest:
    """Return the request without its credential, which must not be passed on. Raises Refusal unless the caller may.

    A path without a namespace requires a role in all of them.
    """
    authenticates = frontend.ports.config.auth is not None
    try:
        await frontend.admit(access, namespace, request.headers)
    except ServiceError as error:
        raise nexus_answers.of_service_error(error) from None
    return replace(request, headers=without_credentials(request.headers, authenticates=authenticates))


async def _complete(frontend: Frontend, request: HttpRequest, namespace: str, context: CallContext) -> HttpAnswer:
    """Complete an operation: a token in a header identifies it, and history checks everything.

    The namespace of the path, for which the caller was authorised, must be that of the token.
    """
    if len(request.body) > nexus_requests.MAX_BODY:
        raise too_large(request)
    completion = CompleteNexusOperationRequest(headers=request.headers, body=request.body, namespace=namespace)
    try:
        check_nexus(request.headers)
    except ServiceError as error:
        raise nexus_answers.of_service_error(error, exposed=True) from None
    try:
        await frontend.ports.history.CompleteNexusOperation(completion, context)
    except ServiceError as error:
        exposed = error.code in (Code.NOT_FOUND, Code.INVALID_ARGUMENT)
        raise nexus_answers.of_service_error(error, exposed=exposed) from None
    return HttpAnswer(200, b"")
