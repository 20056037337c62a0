"""Authorisation of every call from outside, whatever its transport.

As in Temporal's server, a refused caller gets PERMISSION_DENIED "Request unauthorized." whatever the reason;
GetSystemInfo and health checks are open to everybody. Unlike there, a refused caller does not learn whether the
namespace exists, and ListNamespaces shows only the namespaces in which the caller has a role.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from whistlestop.common.errors import Code, ServiceError, permission_denied
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.frontend.auth.config import BEHIND_A_SIGNATURE
from whistlestop.frontend.auth.grants import roles_for
from whistlestop.frontend.auth.keys import PREFIX, hash_of
from whistlestop.frontend.auth.sources import source_of
from whistlestop.frontend.registry import UNAUTHENTICATED_RPC, Access
from whistlestop.net import certificates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.frontend.auth.config import AuthConfig
    from whistlestop.frontend.auth.grants import Claims
    from whistlestop.frontend.registry import RpcSpec
    from whistlestop.storage.namespaces import NamespaceCache

log = logging.getLogger(__name__)

_LISTED = "ListNamespaces"


class AccessControl:
    """The known credentials, and the check of permissions. Raises BadKeys for an invalid document of keys."""

    def __init__(self, config: AuthConfig, namespaces: NamespaceCache, clock: Clock) -> None:
        self._clock = clock
        self._namespaces = namespaces
        self._keys = source_of(config.keys, clock) if config.keys else None
        self._certificates = config.certificates
        self._tokens = None
        if config.jwt is not None:
            from whistlestop.frontend.auth.tokens import TokenVerifier

            self._tokens = TokenVerifier(config.jwt, clock)

    async def admit(self, spec: RpcSpec, request: Message, context: CallContext) -> CallContext:
        """Authorise a call and return its context. Raises ServiceError(PERMISSION_DENIED)."""
        method = spec.method
        if method == UNAUTHENTICATED_RPC:
            return context
        claims = await self._known(context.headers)
        if method == _LISTED:
            return replace(context, sees=claims.sees)
        namespace: str = request.namespace if spec.namespaced else ""  # type: ignore[attr-defined]  # it is there
        if not namespace and spec.by_token:
            namespace = await self._namespace_of_token(request)
        if not claims.has(roles_for(spec.access_to(request), method), namespace):
            raise _refused(claims, method, namespace)
        if method == "RespondWorkflowTaskCompleted":
            _check_commands(claims, request, namespace)
        return context

    async def check(self, access: Access, namespace: str, headers: Mapping[str, str]) -> None:
        """Check the caller's access to a namespace, for requests that are not RPCs. Raises ServiceError."""
        claims = await self._known(headers)
        if not claims.has(roles_for(access), namespace):
            raise _refused(claims, f"with {access} access", namespace)

    def peek(self, headers: Mapping[str, str]) -> bool | None:
        """Return what `is_authenticated` would, or None if that would have to wait."""
        token = _bearer(headers)
        known = self._peek(token, headers)
        if known is False:
            _note_refusal(token)
        return known

    def _peek(self, token: str, headers: Mapping[str, str]) -> bool | None:
        names = headers.get(certificates.HEADER) if self._certificates else None
        now_ns = self._clock.now_ns()
        if token and not token.startswith(PREFIX):
            if self._tokens is None:
                return False
            return True if self._tokens.peek(hash_of(token), now_ns) is not None else None
        if self._keys is None or not (token or names):
            return False
        keys = self._keys.peek()
        if keys is None:
            return None
        if token:
            return keys.find(hash_of(token), now_ns) is not None
        return keys.of_certificate((names or "").split("\n"), now_ns) is not None

    async def is_authenticated(self, headers: Mapping[str, str]) -> bool:
        """Return whether the caller is authenticated, before the request is read."""
        try:
            await self._known(headers)
        except ServiceError as error:
            # If the keys can't be read now, the call itself fails with UNAVAILABLE later.
            return error.code is not Code.PERMISSION_DENIED
        return True

    async def _known(self, headers: Mapping[str, str]) -> Claims:
        token = _bearer(headers)
        names = headers.get(certificates.HEADER) if self._certificates else None
        if token:
            hashed = hash_of(token)
            now_ns = self._clock.now_ns()
            if token.startswith(PREFIX):
                if self._keys is not None:
                    keys = self._keys.peek() or await self._keys.load()
                    claims = keys.find(hashed, now_ns)
                    if claims is not None:
                        return claims
            elif self._tokens is not None:
                claims = self._tokens.peek(hashed, now_ns) or await self._tokens.verify(token, hashed)
                if claims is not None:
                    return claims
        elif names and self._keys is not None:
            keys = self._keys.peek() or await self._keys.load()
            claims = keys.of_certificate(names.split("\n"), self._clock.now_ns())
            if claims is not None:
                return claims
        _note_refusal(token)
        raise permission_denied()

    async def _namespace_of_token(self, request: Message) -> str:
        """Return the namespace of a task token; empty if it is invalid, so that only system-wide roles count."""
        try:
            token = TaskToken.FromString(request.task_token)  # type: ignore[attr-defined]  # by_token says so
        except DecodeError:
            return ""
        found = await self._namespaces.by_id(token.namespace_id) if token.namespace_id else None
        return found.name if found is not None else ""


_WITH_NAMESPACE = {
    "start_child_workflow_execution_command_attributes": "StartWorkflowExecution",
    "signal_external_workflow_execution_command_attributes": "SignalWorkflowExecution",
    "request_cancel_external_workflow_execution_command_attributes": "RequestCancelWorkflowExecution",
}
"""Commands that may name another namespace, and the RPCs to which they correspond."""


def _check_commands(claims: Claims, request: Any, namespace: str) -> None:
    """Raise PERMISSION_DENIED unless the worker itself may do in other namespaces what its commands ask for.

    Whether commands may name other namespaces at all is decided by history, which may be another process.
    """
    for command in request.commands:
        attributes = command.WhichOneof("attributes")
        method = _WITH_NAMESPACE.get(attributes)
        other = getattr(command, attributes).namespace if method else ""
        if method and other not in ("", namespace) and not claims.has(roles_for(Access.WRITE, method), other):
            raise _refused(claims, method, other)


def _note_refusal(token: str) -> None:
    log.debug("a call was refused: %s", "its credential is not valid" if token else "it has no credential")


def _refused(claims: Claims, method: str, namespace: str) -> Exception:
    log.info("%s may not call %s", claims.subject, method, extra={"namespace": namespace, "rpc": method})
    return permission_denied()


def _bearer(headers: Mapping[str, str]) -> str:
    """Return the caller's key or token; empty when there is none."""
    scheme, _, token = (headers.get(BEHIND_A_SIGNATURE) or headers.get("authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
