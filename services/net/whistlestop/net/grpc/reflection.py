"""Server reflection, v1 and v1alpha, which grpcurl and similar tools use before they call.

Its messages are imported with the first request, since most servers never get one. Both versions have the same
messages under different names, so those of v1alpha serve for both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.grpc.head import Method

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

    from whistlestop.net.grpc.head import MessageStream

_MAX_REQUEST: Final = 4_096
_MAX_KEPT_REQUEST: Final = 256
_MAX_KEPT: Final = 2 * 1024 * 1024
_MAX_ANSWERS: Final = 64
_DESCRIBED: Final = ("temporalio.api.workflowservice.v1.service_pb2", "temporalio.api.operatorservice.v1.service_pb2")
REFLECTION_SERVICES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Reflection:
    """Answers from the process's descriptor pool, and lists `services`."""

    def __init__(self, services: frozenset[str]) -> None:
        self._services = sorted({*services, *REFLECTION_SERVICES})
        self._kept: dict[bytes, bytes] = {}
        """Cached answers by the bytes of their requests."""

    def methods(self) -> dict[str, Method]:
        """Return the methods by their paths."""
        paths = (f"/{service}/ServerReflectionInfo" for service in REFLECTION_SERVICES)
        return {path: Method(path, streaming=self._answer, public=True, most=_MAX_REQUEST) for path in paths}

    async def _answer(self, call: MessageStream) -> None:
        from grpc_reflection.v1alpha import reflection_pb2 as reflection_pb

        for name in _DESCRIBED:  # only reflection needs the descriptors of services
            import_module(name)
        async for data in call:
            answer = self._kept.get(data)
            if answer is None:
                try:
                    request = reflection_pb.ServerReflectionRequest.FromString(data)
                except DecodeError:
                    raise ServiceError(Code.INTERNAL, "grpc: the reflection request does not parse") from None
                response = reflection_pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
                self._fill(request, response)
                answer = response.SerializeToString()
                self._keep(data, answer)
            await call.send(answer)

    def _keep(self, data: bytes, answer: bytes) -> None:
        """Cache an answer, since tools repeat their requests and some answers are large."""
        if len(data) > _MAX_KEPT_REQUEST or len(answer) > _MAX_KEPT:
            return
        if sum(map(len, self._kept.values())) + len(answer) > _MAX_KEPT or len(self._kept) >= _MAX_ANSWERS:
            self._kept.clear()
        self._kept[data] = answer

    def _fill(self, request: Any, response: Any) -> None:
        kind = request.WhichOneof("message_request")
        pool = descriptor_pool.Default()
        try:
            if kind == "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                _add_file(response, pool.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                _import_owner(request.file_containing_symbol)
                _add_file(response, pool.FindFileContainingSymbol(request.file_containing_symbol))
            elif kind == "file_containing_extension":
                asked = request.file_containing_extension
                owner = pool.FindMessageTypeByName(asked.containing_type)
                extension: Any = pool.FindExtensionByNumber(owner, asked.extension_number)
                _add_file(response, extension.file)
            elif kind == "all_extension_numbers_of_type":
                owner = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                answer = response.all_extension_numbers_response
                answer.base_type_name = owner.full_name
                answer.extension_number.extend(each.number for each in pool.FindAllExtensions(owner))
            else:
                _refuse(response, Code.INVALID_ARGUMENT, "the reflection request is empty")
        except KeyError:
            _refuse(response, Code.NOT_FOUND, f"not found: {getattr(request, kind)}")


def _import_owner(symbol: str) -> None:
    """Add to the pool the services that this server implements without their generated modules."""
    if symbol.startswith("grpc.health."):
        from grpc_health.v1 import health_pb2

        assert health_pb2
    elif symbol == REFLECTION_SERVICES[0] or symbol.startswith("grpc.reflection.v1."):
        raise KeyError(symbol)  # the package does not contain the descriptors of v1


def _add_file(response: Any, file: FileDescriptor) -> None:
    """Add the file, followed by all files that it imports, to the response."""
    seen: dict[str, FileDescriptor] = {}
    waiting = [file]
    while waiting:
        each = waiting.pop()
        if each.name not in seen:
            seen[each.name] = each
            waiting += each.dependencies
    response.file_descriptor_response.file_descriptor_proto.extend(each.serialized_pb for each in seen.values())


def _refuse(response: Any, code: Code, message: str) -> None:
    response.error_response.error_code = int(code)
    response.error_response.error_message = message
