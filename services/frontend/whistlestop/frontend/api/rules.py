"""Types shared by validators and handlers of RPCs: their signatures, and the applicable limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.timing.throttle import ThrottledWarnings
    from whistlestop.frontend.config import FrontendConfig
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of a namespace, and the source of new ids."""

    config: FrontendConfig
    ids: Ids
    warn: ThrottledWarnings
    """Logs warnings for the operator."""


class UnknownSearchAttribute(ServiceError):
    """The namespace, as it was cached, has no such attribute; the caller reads it again from the store."""

    def __init__(self, namespace: str, name: str) -> None:
        super().__init__(
            Code.INVALID_ARGUMENT, f"Namespace {namespace} has no mapping defined for search attribute {name}"
        )


# Requests are `Any`, because generated messages have no base class with their fields; the name of each function says
# which request it takes.
Validator: TypeAlias = "Callable[[Any, Namespace | None, Rules], None]"
"""Checks a request and fills in defaults such as request ids. Raises ServiceError."""

Handler: TypeAlias = "Callable[[FrontendPorts, Any, CallContext], Awaitable[Reply]]"
"""Serves an RPC in the frontend."""
