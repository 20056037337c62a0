"""An RPC with the types of its request and response, and the service that it belongs to.

A class derived from `Service` stands for a `service` block. Its attributes are the RPCs, and its instances are typed
clients, called as the stubs of gRPC are:

    HistoryService.FireTimers                                                  # the RPC
    await HistoryService(channel).FireTimers(FireTimersRequest(), context)     # a call

Where a call goes is the channel's business: to an object of this process (without serialising), or to another process
or function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message

    from whistlestop.common.clients import Encoded, Reply
    from whistlestop.common.context import CallContext

RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT", bound="Message")


class Channel(Protocol):
    """A client calls through a channel. A server of this process is a channel to itself."""

    async def call(self, rpc: Rpc[Any, Any], request: Any, context: CallContext) -> Reply:
        """Call the RPC and return its reply. Raise ServiceError, whatever the transport."""
        ...


class Server(Channel, Protocol):
    """An object that serves RPCs, to which endpoints pass calls from other processes."""

    @property
    def rpcs(self) -> Mapping[str, Rpc[Any, Any]]:
        """The RPCs that it serves, by the methods' names."""
        ...


class Rpc(Generic[RequestT, ResponseT]):
    """An RPC: an attribute of the class of its service. `old_name` is its name in release 0.1.0, if that differs."""

    __slots__ = ("method", "old_name", "request_type", "response_type", "service")

    def __init__(self, request_type: type[RequestT], response_type: type[ResponseT], *, old_name: str = "") -> None:
        self.request_type = request_type
        self.response_type = response_type
        self.old_name = old_name
        self.service = self.method = ""

    def __set_name__(self, owner: type[Service], name: str) -> None:
        self.service = owner.full_name
        self.method = name

    @overload
    def __get__(self, client: None, owner: type[Service]) -> Self: ...

    @overload
    def __get__(
        self, client: Service, owner: type[Service]
    ) -> Callable[[RequestT, CallContext], Awaitable[ResponseT | Encoded]]: ...

    def __get__(self, client: Service | None, owner: type[Service]) -> Any:
        return self if client is None else client.bind(self)

    @property
    def full_name(self) -> str:
        """The path of the RPC in gRPC without its leading slash: `package.Service/Method`."""
        return f"{self.service}/{self.method}"

    def __repr__(self) -> str:
        return f"<RPC {self.full_name}>"


class Service:
    """The base of all services. An instance is a client that calls through a channel."""

    full_name: ClassVar[str]
    """The name of the service in protobuf, with its package."""
    rpcs: ClassVar[Mapping[str, Rpc[Any, Any]]]
    """The RPCs by their methods' names."""

    def __init_subclass__(cls) -> None:
        cls.rpcs = {name: found for name, found in vars(cls).items() if isinstance(found, Rpc)}

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def bind(self, rpc: Rpc[RequestT, ResponseT]) -> Callable[[RequestT, CallContext], Awaitable[ResponseT | Encoded]]:
        """Return the function that calls an RPC of this service through the client's channel."""
        channel = self._channel

        def call(request: RequestT, context: CallContext) -> Awaitable[Any]:
            return channel.call(rpc, request, context)

        self.__dict__[rpc.method] = call  # the next use of the attribute finds it here
        return call
