"""Find the namespace of a request by its name or by its task token.

Messages and their order are those of Temporal's namespace validation. The namespace of a token takes precedence over
the request's; if both are given, they must be the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import namespace_pb2 as enums_pb
from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError, invalid_argument, namespace_not_found
from whistlestop.common.proto.internal_pb2 import TaskToken

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.frontend.registry import RpcSpec
    from whistlestop.storage.namespaces import Namespace, NamespaceCache

_REGISTERED = enums_pb.NAMESPACE_STATE_REGISTERED
_DEPRECATED = enums_pb.NAMESPACE_STATE_DEPRECATED
_DELETED = enums_pb.NAMESPACE_STATE_DELETED

_STATE_NAMES: dict[int, str] = {_REGISTERED: "Registered", _DEPRECATED: "Deprecated", _DELETED: "Deleted"}
_SERVING = (_REGISTERED, _DEPRECATED)
_STATES_BY_METHOD = {
    "StartWorkflowExecution": (_REGISTERED,),
    "SignalWithStartWorkflowExecution": (_REGISTERED,),
    "DeleteNamespace": (_REGISTERED, _DEPRECATED, _DELETED),
}

# The namespace of these RPCs need not exist, or is looked up by their handlers.
_NAME_MUST_BE_SET = frozenset(
    {
        "RegisterNamespace",
        "DescribeNamespace",
        "UpdateNamespace",
        "DeprecateNamespace",
        "DeleteNamespace",
    }
)
_NOT_RESOLVED = frozenset({"RegisterNamespace", "DescribeNamespace"})
_OPTIONAL = frozenset({"AddSearchAttributes", "RemoveSearchAttributes", "ListSearchAttributes"})


class NamespaceResolver:
    """Finds the namespace of a request, or reports what is wrong with it."""

    def __init__(self, cache: NamespaceCache, max_length: int) -> None:
        self._cache = cache
        self._max_length = max_length

    def peek(self, spec: RpcSpec, request: Any) -> Namespace | None:
        """Return the namespace if it is cached and registered (the usual case); on None, call `resolve`."""
        if spec.by_token or spec.method in _NOT_RESOLVED:
            return None
        found = self._cache.peek(request.namespace)
        return found if found is not None and found.state == _REGISTERED else None

    async def resolve(self, spec: RpcSpec, request: Any) -> Namespace | None:
        """Return the namespace, or None if the RPC looks it up itself. Raises ServiceError."""
        found = await (self._by_token(request) if spec.by_token else self._by_request(spec, request))
        if found is not None:
            _check_state(spec.method, found)
        return found

    async def _by_token(self, request: Any) -> Namespace | None:
        try:
            namespace_id = TaskToken.FromString(request.task_token).namespace_id
        except DecodeError:
            namespace_id = ""
        found = await self._cache.by_id(namespace_id) if namespace_id else None
        if found is None or request.namespace not in ("", found.name):
            raise await self._fault_by_token(request, namespace_id)
        request.namespace = found.name
        return found

    async def _fault_by_token(self, request: Any, namespace_id: str) -> ServiceError:
        """Return the error: first of the namespace that the request names, then of its token."""
        if len(request.namespace.encode()) > self._max_length:
            return invalid_argument("Namespace length exceeds limit.")
        if request.namespace and await self._cache.by_name(request.namespace) is None:
            return namespace_not_found(request.namespace)
        if not request.task_token:
            return invalid_argument("Task token not set on request.")
        try:
            TaskToken.FromString(request.task_token)
        except DecodeError:
            return invalid_argument("Error deserializing task token.")
        if not namespace_id:
            return invalid_argument("Namespace not set on request.")
        if await self._cache.by_id(namespace_id) is None:
            return namespace_not_found(namespace_id)
        return invalid_argument("Operation requested with a token from a different namespace.")

    async def _by_request(self, spec: RpcSpec, request: Any) -> Namespace | None:
        name: str = request.namespace
        if len(name.encode()) > self._max_length:
            raise invalid_argument("Namespace length exceeds limit.")
        by_id = _id_of(spec.method, request)
        if not name and not by_id:
            if spec.method in _OPTIONAL:
                return None
            raise invalid_argument(
                "Namespace not set on request." if spec.method in _NAME_MUST_BE_SET else "Namespace is empty."
            )
        if spec.method in _NOT_RESOLVED:
            return None
        if name and by_id:
            raise invalid_argument("Only one of namespace name or Id should be set on request.")
        found = await (self._cache.by_id(by_id) if by_id else self._cache.by_name(name))
        if found is None:
            raise namespace_not_found(by_id or name)
        return found


def _id_of(method: str, request: Message) -> str:
    if method == "DescribeNamespace":
        return str(request.id)  # type: ignore[attr-defined]
    if method == "DeleteNamespace":
        return str(request.namespace_id)  # type: ignore[attr-defined]
    return ""


def _check_state(method: str, namespace: Namespace) -> None:
    allowed = _STATES_BY_METHOD.get(method, _SERVING)
    if namespace.state in allowed:
        return
    state = _STATE_NAMES.get(namespace.state, "Unspecified")
    expected = " or ".join(_STATE_NAMES[each] for each in allowed)
    raise ServiceError(
        Code.FAILED_PRECONDITION,
        f"Namespace has invalid state: {state}. Must be {expected}.",
        details_pb.NamespaceInvalidStateFailure(
            namespace=namespace.name,
            state=namespace.state,  # type: ignore[arg-type]
            allowed_states=list(allowed),
        ),
    )
