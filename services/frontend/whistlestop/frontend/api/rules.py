"""What validation and handlers of the RPCs share: their signatures and the limits in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.throttle import ThrottledWarnings
    from whistlestop.frontend.config import FrontendConfig
    from whistlestop.frontend.service import Frontend
    from whistlestop.storage.namespaces import Namespace


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits, and where fresh ids come from."""

    config: FrontendConfig
    ids: Ids
    warn: ThrottledWarnings
    """For the operator."""


class UnknownSearchAttribute(ServiceError):
    """The namespace (as it was read) maps no such attribute: worth a second look at the store."""

    def __init__(self, namespace: str, name: str) -> None:
        super().__init__(
            Code.INVALID_ARGUMENT, f"Namespace {namespace} has no mapping defined for search attribute {name}"
        )


# Requests are `Any` here: generated messages share no base that knows their fields, and each function says in its
# name which request it takes.
Validator: TypeAlias = "Callable[[Any, Namespace | None, Rules], None]"
"""Checks a request and fills what the frontend fills (request ids, defaults). Raises ServiceError."""

Handler: TypeAlias = "Callable[[Frontend, Any, CallContext], Awaitable[Reply]]"
"""Serves an RPC in the frontend itself."""
