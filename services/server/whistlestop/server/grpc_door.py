"""The gRPC door: one generic handler over raw bytes, in front of `Frontend.call`.

Rules of this file: nothing here knows an RPC. Per call it does what must be done and no more (grpc's own share is a
quarter of a millisecond already): parsers and handlers are looked up once per method, metadata is read only when
somebody asks for it, and an error is rendered once. Payloads never reach a log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from whistlestop.common.clients import encoded
from whistlestop.common.context import CallContext
from whistlestop.common.doors.decode import check_size, parse_request
from whistlestop.common.doors.status import status_bytes
from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend.registry import REGISTRY, SERVICES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from whistlestop.common.clock import Clock
    from whistlestop.frontend.registry import RpcSpec
    from whistlestop.frontend.service import Frontend

logger = logging.getLogger(__name__)

HEALTH_SERVICE = "grpc.health.v1.Health"
_SERVING = b"\x08\x01"
_NOT_SERVING = b"\x08\x02"
_SERVICE_UNKNOWN = b"\x08\x03"
_HEALTHY = SERVICES | {HEALTH_SERVICE}
_DETAILS = "grpc-status-details-bin"
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
# What grpc lets in; the limit that counts is the frontend's, which is refused in words that SDKs know.
_MAX_MESSAGE = 128 * 1024 * 1024

# SO_REUSEPORT would let a second server take the same port without a word; a taken port must be an error.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class _Headers(Mapping[str, str]):
    """The call's metadata, read only when asked for. Binary values are left out."""

    __slots__ = ("_context", "_values")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._values: dict[str, str] | None = None

    def _read(self) -> dict[str, str]:
        if self._values is None:
            pairs = self._context.invocation_metadata() or ()
            self._values = {key: value for key, value in pairs if isinstance(value, str)}
        return self._values

    def __getitem__(self, key: str) -> str:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


class _Handlers(grpc.GenericRpcHandler):
    """Every method of the registry, grpc health, and an answer for whatever else is called."""

    def __init__(self, frontend: Frontend, clock: Clock) -> None:
        self._frontend = frontend
        self._clock = clock
        self.serving = True
        self._by_path: dict[str, Any] = {f"/{name}": self._handler(spec) for name, spec in REGISTRY.items()}
        self._by_path[f"/{HEALTH_SERVICE}/Check"] = _unary(self._check_health)
        self._by_path[f"/{HEALTH_SERVICE}/Watch"] = grpc.unary_stream_rpc_method_handler(self._watch_health)
        self._drained = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        path = handler_call_details.method
        return self._by_path.get(path) or _unary(_refuse_unknown(path))

    def _handler(self, spec: RpcSpec) -> Any:
        call, clock, name, kind = self._frontend.call, self._clock, spec.full_name, spec.request_type
        parse = kind.FromString
        most = self._frontend.config.max_message_size

        async def handle(data: bytes, context: Any) -> bytes:
            try:
                if len(data) > most:
                    check_size(len(data), most)
                try:
                    request = parse(data)
                except DecodeError:
                    request = parse_request(kind, data)
                left_s = context.time_remaining()
                deadline_ns = None if left_s is None else clock.now_ns() + int(left_s * 1e9)
                return encoded(await call(name, request, CallContext(deadline_ns, _Headers(context))))
            except ServiceError as error:
                await abort(context, error)
            except asyncio.CancelledError:
                raise
            except Exception:
                # A bug: told to the log, without the payload, and to nobody else.
                logger.exception("%s failed", name)
                await abort(context, ServiceError(Code.INTERNAL, "internal error"))

        return _unary(handle)

    async def _check_health(self, data: bytes, context: Any) -> bytes:
        name = _watched(data)
        if name and name not in _HEALTHY:
            await abort(context, ServiceError(Code.NOT_FOUND, "unknown service"))
        return _SERVING if self.serving else _NOT_SERVING

    async def _watch_health(self, data: bytes, context: Any) -> AsyncIterator[bytes]:
        """The state now, and again when it changes, which it does once."""
        name = _watched(data)
        if name and name not in _HEALTHY:
            yield _SERVICE_UNKNOWN
            await asyncio.Event().wait()  # until the client leaves: such a service never comes
        if self.serving:
            yield _SERVING
            await self._drained.wait()
        yield _NOT_SERVING

    def drain(self) -> None:
        """Tell whoever asks that this server is going away."""
        self.serving = False
        self._drained.set()


def _watched(data: bytes) -> str:
    """The service's name, the one field of HealthCheckRequest."""
    return data[2:].decode("utf-8", "replace") if data[:1] == b"\n" else ""


def _unary(behaviour: Callable[[bytes, Any], Any]) -> Any:
    # No (de)serialisers: the handler gets and gives bytes.
    return grpc.unary_unary_rpc_method_handler(behaviour)


def _refuse_unknown(path: str) -> Callable[[bytes, Any], Any]:
    service, separator, method = path.removeprefix("/").rpartition("/")
    if not separator:
        message = f'malformed method name: "{path}"'
    elif service in SERVICES or service == HEALTH_SERVICE:
        message = f"unknown method {method} for service {service}"
    else:
        message = f"unknown service {service}"

    async def refuse(data: bytes, context: Any) -> bytes:
        await abort(context, ServiceError(Code.UNIMPLEMENTED, message))

    return refuse


async def abort(context: Any, error: ServiceError) -> NoReturn:
    """End the call with the error's status, and its details where it has any."""
    trailing = ((_DETAILS, status_bytes(error)),) if error.details else ()
    await context.abort(_STATUS[int(error.code)], error.message, trailing)
    raise AssertionError("abort returned")


class GrpcDoor:
    """A gRPC server on one address. `port` is the bound one (useful after asking for 0)."""

    def __init__(self, frontend: Frontend, clock: Clock) -> None:
        self._handlers = _Handlers(frontend, clock)
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listen on `host:port`; raises OSError when the address can't be had."""
        server = grpc.aio.server(options=_OPTIONS)
        _add_reflection(server)
        server.add_generic_rpc_handlers((self._handlers,))
        try:
            if credentials is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"can't listen on {address}: is the port taken?") from error
        if self.port == 0:
            raise OSError(f"can't listen on {address}: is the port taken?")
        await server.start()
        self._server = server
        return self.port

    async def stop(self, grace_s: float = 2.0) -> None:
        """Refuse new calls, give running ones `grace_s`, then end them."""
        self._handlers.drain()
        if self._server is not None:
            await self._server.stop(grace_s)

    async def wait(self) -> None:
        """Until the server is stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()


def _add_reflection(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((*sorted(SERVICES), HEALTH_SERVICE, reflection.SERVICE_NAME), server)
