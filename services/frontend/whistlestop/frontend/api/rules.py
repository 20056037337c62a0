"""Types shared by validators and handlers of RPCs: their signatures, and the applicable limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, overload

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.rpcs.handlers import Handlers, RpcTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.common.ids import Ids
    from whistlestop.common.rpcs.rpc import RequestT, Rpc
    from whistlestop.common.timing.throttle import ThrottledWarnings
    from whistlestop.frontend.config import FrontendConfig
    from whistlestop.frontend.ports import FrontendPorts
    from whistlestop.storage.namespaces import Namespace

    Typed = Callable[[RequestT, Namespace | None, "Rules"], None]


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


Validator: TypeAlias = "Callable[[Any, Namespace | None, Rules], None]"
"""Checks a request and fills in defaults such as request ids. Raises ServiceError."""

HANDLERS: Handlers[FrontendPorts] = Handlers()
"""The frontend serves an RPC itself, or does something before or after it calls another service."""
handles = HANDLERS.register


class Validators(RpcTable["Validator"]):
    """The checks before an RPC is served by any service."""

    @overload
    def register(self, rpc: Rpc[RequestT, Any], /) -> Callable[[Typed[RequestT]], Typed[RequestT]]: ...

    @overload
    def register(self, *rpcs: Rpc[Any, Any]) -> Callable[[Validator], Validator]: ...

    def register(self, *rpcs: Rpc[Any, Any]) -> Any:
        """Return a decorator that makes a function the validator of these RPCs. It raises ValueError for a second."""

        def decorate(validator: Validator) -> Validator:
            for rpc in rpcs:
                self.add(rpc, validator)
            return validator

        return decorate


VALIDATORS = Validators()
validates = VALIDATORS.register
