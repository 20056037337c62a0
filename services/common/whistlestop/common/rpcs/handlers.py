"""The handlers of a service: one table, filled by a decorator.

    handles: Handlers[History] = Handlers("history", __name__, {"fire_timers": ("FireTimers",), …})

    @handles(HistoryService.FireTimers)
    async def fire_timers(service: History, request: FireTimersRequest, context: CallContext) -> FireTimersResponse: …

A module with handlers is imported when one of its RPCs is called for the first time, because a function or a test
server needs few of them. For this the table names each module with its RPCs. `tests/layout/test_registry.py` compares
the tables with the handlers and the handlers with the `service` blocks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from google.protobuf.message import Message

    from whistlestop.common.clients import Encoded, Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Rpc

ServerT = TypeVar("ServerT")
R1 = TypeVar("R1", bound="Message")
R2 = TypeVar("R2", bound="Message")
A1 = TypeVar("A1", bound="Message")
A2 = TypeVar("A2", bound="Message")

Typed: TypeAlias = "Callable[[ServerT, R1, CallContext], Awaitable[A1 | Encoded]]"
Handler: TypeAlias = "Callable[[ServerT, Any, CallContext], Awaitable[Reply]]"


class Handlers(Generic[ServerT]):
    """The handlers of the RPCs that one server class serves."""

    def __init__(self, package: str = "", modules: Mapping[str, Iterable[str]] | None = None) -> None:
        self._package = package
        self.module_of = {method: module for module, methods in (modules or {}).items() for method in methods}
        """The module of each method that is imported by its first call, relative to the package."""
        self._found: dict[str, Handler[ServerT]] = {}

    @overload
    def __call__(self, rpc: Rpc[R1, A1], /) -> Callable[[Typed[ServerT, R1, A1]], Typed[ServerT, R1, A1]]: ...

    @overload
    def __call__(
        self, rpc: Rpc[R1, A1], other: Rpc[R2, A2], /
    ) -> Callable[
        [Callable[[ServerT, R1 | R2, CallContext], Awaitable[A1 | A2 | Encoded]]],
        Callable[[ServerT, R1 | R2, CallContext], Awaitable[A1 | A2 | Encoded]],
    ]: ...

    def __call__(self, *rpcs: Rpc[Any, Any]) -> Any:
        """Return a decorator that makes a function the handler of the RPCs. Raise ValueError if one has a handler."""

        def register(handler: Handler[ServerT]) -> Handler[ServerT]:
            for rpc in rpcs:
                if rpc.method in self._found:
                    raise ValueError(f"{rpc!r} has two handlers: {self._found[rpc.method]} and {handler}")
                self._found[rpc.method] = handler
            return handler

        return register

    def find(self, method: str) -> Handler[ServerT] | None:
        """Return the handler of a method, importing its module; None if there is none."""
        handler = self._found.get(method)
        if handler is None and (module := self.module_of.get(method)) is not None:
            import_module(f"{self._package}.{module}")
            handler = self._found.get(method)
        return handler

    @property
    def imported(self) -> Mapping[str, Handler[ServerT]]:
        """The handlers of the modules imported so far, by method."""
        return self._found
