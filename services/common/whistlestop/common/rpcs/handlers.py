"""The handlers of a service: one table, filled by a decorator.

    HANDLERS: Handlers[History] = Handlers(__name__, {"fire_timers": ("FireTimers",), …})
    handles = HANDLERS.register

    @handles(HistoryService.FireTimers)
    async def fire_timers(service: History, request: FireTimersRequest, context: CallContext) -> FireTimersResponse: …

Type checkers compare a handler with the types of its RPC. A module with handlers is imported when one of its RPCs is
called for the first time, because a function or a test server needs few of them; for this the table names each module
with its RPCs. `tests/layout/test_registry.py` compares all tables with the `service` blocks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
    from typing import Protocol

    from google.protobuf.message import Message

    from whistlestop.common.clients import Encoded, Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Rpc

FunctionT = TypeVar("FunctionT", bound="Callable[..., object]")
ServerT = TypeVar("ServerT")

if TYPE_CHECKING:
    RequestT = TypeVar("RequestT", bound=Message)
    ResponseT = TypeVar("ResponseT", bound=Message)
    OtherRequestT = TypeVar("OtherRequestT", bound=Message)

    class _Decorator(Protocol[ServerT, RequestT, ResponseT]):
        """Registers a function as it is: the type of its reply stays known to those who call it directly."""

        @overload
        def __call__(
            self, handler: Callable[[ServerT, RequestT, CallContext], Coroutine[Any, Any, ResponseT]], /
        ) -> Callable[[ServerT, RequestT, CallContext], Coroutine[Any, Any, ResponseT]]: ...

        @overload
        def __call__(
            self, handler: Callable[[ServerT, RequestT, CallContext], Awaitable[ResponseT | Encoded]], /
        ) -> Callable[[ServerT, RequestT, CallContext], Awaitable[ResponseT | Encoded]]: ...


Handler: TypeAlias = "Callable[[ServerT, Any, CallContext], Awaitable[Reply]]"


class RpcTable(Generic[FunctionT]):
    """Functions by RPC."""

    def __init__(self) -> None:
        self.functions: dict[str, FunctionT] = {}
        """The functions of the modules imported so far, by the methods' names. Add to it by `add` alone."""

    def add(self, rpc: Rpc[Any, Any], function: FunctionT) -> None:
        """Add the function of an RPC. Raise ValueError if it has one already."""
        if self.functions.setdefault(rpc.method, function) is not function:
            raise ValueError(f"{rpc!r} has two functions: {self.functions[rpc.method]} and {function}")


class Handlers(RpcTable["Handler[ServerT]"], Generic[ServerT]):
    """The handlers of the RPCs that one class of servers serves.

    `modules` names the modules of `package` with the methods of each.
    """

    def __init__(self, package: str = "", modules: Mapping[str, Iterable[str]] | None = None) -> None:
        super().__init__()
        self._package = package
        self.module_of = {method: module for module, methods in (modules or {}).items() for method in methods}

    @overload
    def register(self, rpc: Rpc[RequestT, ResponseT], /) -> _Decorator[ServerT, RequestT, ResponseT]: ...

    @overload
    def register(
        self, rpc: Rpc[RequestT, Any], other: Rpc[OtherRequestT, Any], /
    ) -> Callable[
        [Callable[[ServerT, RequestT | OtherRequestT, CallContext], Awaitable[Reply]]],
        Callable[[ServerT, RequestT | OtherRequestT, CallContext], Awaitable[Reply]],
    ]: ...

    @overload
    def register(self, *rpcs: Rpc[Any, Any]) -> Callable[[FunctionT], FunctionT]: ...

    def register(self, *rpcs: Rpc[Any, Any]) -> Any:
        """Return a decorator that makes a function the handler of these RPCs. It raises ValueError for a second one."""

        def decorate(handler: Handler[ServerT]) -> Handler[ServerT]:
            for rpc in rpcs:
                self.add(rpc, handler)
            return handler

        return decorate

    def find(self, method: str) -> Handler[ServerT] | None:
        """Return the handler of a method, importing its module; None if there is none."""
        handler = self.functions.get(method)
        if handler is None and (module := self.module_of.get(method)) is not None:
            import_module(f"{self._package}.{module}")
            handler = self.functions.get(method)
        return handler
