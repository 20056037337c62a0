"""CreateNexusEndpoint, UpdateNexusEndpoint, DeleteNexusEndpoint, GetNexusEndpoint, ListNexusEndpoints.

Endpoints belong to the cluster. They are always read from the store, so that an endpoint is visible everywhere as
soon as its creation is answered.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb

from whistlestop.common import task_queues
from whistlestop.common.errors import (
    Code,
    ServiceError,
    failed_precondition,
    invalid_argument,
    not_found,
    unavailable,
)
from whistlestop.common.messages.storable import NUL
from whistlestop.common.proto.nexus_pb2 import NexusEndpointData
from whistlestop.common.rpcs.operator_service import OperatorService
from whistlestop.frontend.api.rules import handles
from whistlestop.storage.errors import EndpointConflict, EndpointExists, Unreadable
from whistlestop.storage.records import NexusEndpointRecord

if TYPE_CHECKING:
    from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

    from whistlestop.common.context import CallContext
    from whistlestop.frontend.ports import FrontendPorts

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9\-]*[a-zA-Z0-9]")
_NAME_IN_MESSAGES = r"^[a-zA-Z][a-zA-Z0-9\\-]*[a-zA-Z0-9]$"
_URL_PREFIX = "/nexus/endpoints/{}/services"
_DEFAULT_PAGE = 100
_MAX_PER_PAGE = 1000


@handles(OperatorService.CreateNexusEndpoint)
async def create_nexus_endpoint(
    frontend: FrontendPorts, request: operator_pb.CreateNexusEndpointRequest, context: CallContext
) -> operator_pb.CreateNexusEndpointResponse:
    """Create an endpoint. Raises ALREADY_EXISTS if the name is taken."""
    data = await _checked(frontend, request.spec)
    data.endpoint.created_time.FromNanoseconds(frontend.clock.now_ns())
    endpoint_id = str(uuid.UUID(frontend.ids.uuid()))
    record = NexusEndpointRecord(endpoint_id, request.spec.name, data.SerializeToString(), 0)
    try:
        await frontend.store.create_nexus_endpoint(record)
    except EndpointExists:
        raise _exists("creating", request.spec.name) from None
    return operator_pb.CreateNexusEndpointResponse(endpoint=await _endpoint_of(frontend, record, version=1))


@handles(OperatorService.UpdateNexusEndpoint)
async def update_nexus_endpoint(
    frontend: FrontendPorts, request: operator_pb.UpdateNexusEndpointRequest, context: CallContext
) -> operator_pb.UpdateNexusEndpointResponse:
    """Replace the whole spec, if the endpoint still has the version that the caller has seen.

    Raise ALREADY_EXISTS, FAILED_PRECONDITION, NOT_FOUND or UNAVAILABLE.
    """
    data = await _checked(frontend, request.spec)
    previous = await frontend.store.get_nexus_endpoint(endpoint_id=request.id) if request.id else None
    if previous is None:
        raise not_found(f"error updating Nexus endpoint. endpoint ID {request.id} not found")
    if request.version != previous.version:
        raise failed_precondition(
            f"nexus endpoint version mismatch. received: {request.version} expected {previous.version}"
        )
    with contextlib.suppress(Unreadable):  # It is repaired by this very update.
        data.endpoint.created_time.CopyFrom(_read(previous).endpoint.created_time)
    data.endpoint.last_modified_time.FromNanoseconds(frontend.clock.now_ns())
    record = NexusEndpointRecord(request.id, request.spec.name, data.SerializeToString(), previous.version)
    try:
        await frontend.store.update_nexus_endpoint(record)
    except EndpointExists:
        raise _exists("updating", request.spec.name) from None
    except EndpointConflict:
        raise unavailable(f"Nexus endpoint {request.id} is being changed by others. Try again.") from None
    described = await _endpoint_of(frontend, record, version=previous.version + 1)
    return operator_pb.UpdateNexusEndpointResponse(endpoint=described)


@handles(OperatorService.DeleteNexusEndpoint)
async def delete_nexus_endpoint(
    frontend: FrontendPorts, request: operator_pb.DeleteNexusEndpointRequest, context: CallContext
) -> operator_pb.DeleteNexusEndpointResponse:
    """Delete an endpoint. Operations in progress fail at their next attempt. Raise StorageError."""
    issues = _id_issues(request.id)
    if request.version <= 0:
        issues.append("endpoint version is non-positive")
    _raise(issues)
    if not await frontend.store.delete_nexus_endpoint(request.id):
        raise not_found(f"error deleting nexus endpoint with ID: {request.id}")
    return operator_pb.DeleteNexusEndpointResponse()


@handles(OperatorService.GetNexusEndpoint)
async def get_nexus_endpoint(
    frontend: FrontendPorts, request: operator_pb.GetNexusEndpointRequest, context: CallContext
) -> operator_pb.GetNexusEndpointResponse:
    """Return an endpoint by id. Raise INVALID_ARGUMENT or NOT_FOUND."""
    _raise(_id_issues(request.id))
    record = await frontend.store.get_nexus_endpoint(endpoint_id=request.id)
    if record is None:
        raise not_found(f"Nexus endpoint with ID `{request.id}` not found")
    return operator_pb.GetNexusEndpointResponse(endpoint=await _endpoint_of(frontend, record))


@handles(OperatorService.ListNexusEndpoints)
async def list_nexus_endpoints(
    frontend: FrontendPorts, request: operator_pb.ListNexusEndpointsRequest, context: CallContext
) -> operator_pb.ListNexusEndpointsResponse:
    """Return a page of endpoints by id, or the one with the given name if it exists. Raise INVALID_ARGUMENT.

    The page token is the first id of the next page.
    """
    response = operator_pb.ListNexusEndpointsResponse()
    if request.name:
        record = await frontend.store.get_nexus_endpoint(name=request.name)
        if record is not None:
            response.endpoints.append(await _endpoint_of(frontend, record))
        return response
    if request.page_size < 0:
        raise invalid_argument("page_size is negative")
    if request.page_size > _MAX_PER_PAGE:
        raise invalid_argument(f"page_size exceeds limit of {_MAX_PER_PAGE}")
    size = request.page_size or _DEFAULT_PAGE
    first_id = _first_id(request.next_page_token)
    records = await frontend.store.list_nexus_endpoints(first_id, size + 1)
    for record in records[:size]:
        try:
            response.endpoints.append(await _endpoint_of(frontend, record))
        except Unreadable as error:
            await frontend.aside.seen("nexus_endpoints", (record.endpoint_id,), error)
    if len(records) > size:
        response.next_page_token = records[size].endpoint_id.encode()
    return response


def _first_id(token: bytes) -> str:
    if not token:
        return ""
    try:
        return str(uuid.UUID(token.decode()))
    except ValueError:
        raise invalid_argument("invalid page token") from None


async def _checked(frontend: FrontendPorts, spec: nexus_pb.EndpointSpec) -> NexusEndpointData:
    """Return the data to store for a spec. Raises INVALID_ARGUMENT with everything that is wrong with it."""
    config = frontend.config
    issues = _name_issues(spec.name, config.endpoint_name_max_length)
    data = NexusEndpointData()
    data.endpoint.spec.CopyFrom(spec)
    variant = spec.target.WhichOneof("variant")
    if variant is None:
        issues.append("empty target variant")
        _raise(issues)
    if variant == "worker":
        worker = spec.target.worker
        if not worker.namespace:
            issues.append("target namespace not set")
        else:
            namespace = await frontend.namespaces.by_name(worker.namespace)
            if namespace is None:
                raise failed_precondition(
                    "could not verify namespace referenced by target exists: "
                    f"Namespace {worker.namespace} is not found."
                )
            data.target_namespace_id = namespace.namespace_id
        queue_issue = _queue_issue(worker.task_queue, config.max_id_length)
        if queue_issue:
            issues.append(f'invalid target task queue: "{queue_issue}"')
    else:
        issues += _url_issues(spec.target.external.url, config.endpoint_url_max_length)
    if spec.description.ByteSize() > config.endpoint_description_max_size:
        issues.append(f"description size exceeds limit of {config.endpoint_description_max_size}")
    _raise(issues)
    return data


def _name_issues(name: str, most: int) -> list[str]:
    if not name:
        return ["endpoint name not set"]
    issues = []
    if len(name.encode()) > most:
        issues.append(f"endpoint name exceeds length limit of {most}")
    if not _NAME.fullmatch(name):
        issues.append(f'endpoint name must match the regex: "{_NAME_IN_MESSAGES}"')
    return issues


def _queue_issue(name: str, most: int) -> str:
    if not name:
        return "taskQueue is not set"
    if len(name.encode()) > most:
        return "taskQueue length exceeds limit"
    if name.startswith(task_queues.RESERVED_PREFIX):
        return task_queues.RESERVED
    if NUL in name:
        return "taskQueue must not contain U+0000"
    return task_queues.internal_fault(name)


def _url_issues(url: str, most: int) -> list[str]:
    if not url:
        return ["empty target URL"]
    if len(url.encode()) > most:
        return [f"target URL length exceeds limit of {most}"]
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        return [f"invalid target URL: {error}"]
    if not scheme and ":" in url.partition("/")[0]:
        # What stands before the colon is no scheme (RFC 3986, 4.2).
        fault = "missing protocol scheme" if url[0] == ":" else "first path segment in URL cannot contain colon"
        return [f'invalid target URL: parse "{url}": {fault}']
    if scheme not in ("http", "https"):
        return [f'invalid target URL scheme: "{scheme}", expected http or https']
    return []


def _id_issues(endpoint_id: str) -> list[str]:
    if not endpoint_id:
        return ["endpoint ID not set"]
    try:
        uuid.UUID(endpoint_id)
    except ValueError:
        return [f'malformed endpoint ID: "invalid UUID length: {len(endpoint_id)}"']
    return []


def _raise(issues: list[str]) -> None:
    if issues:
        raise invalid_argument(", ".join(issues))


def _exists(doing: str, name: str) -> ServiceError:
    return ServiceError(
        Code.ALREADY_EXISTS, f"error {doing} Nexus endpoint. Endpoint with name {name} already registered"
    )


def _read(record: NexusEndpointRecord) -> NexusEndpointData:
    try:
        return NexusEndpointData.FromString(record.data)
    except DecodeError as error:
        raise Unreadable(
            f"the row of the Nexus endpoint {record.name} ({record.endpoint_id}) can't be read: update or delete it"
        ) from error


async def _endpoint_of(frontend: FrontendPorts, record: NexusEndpointRecord, version: int = 0) -> nexus_pb.Endpoint:
    """Return the endpoint as callers see it, a worker target with its namespace's current name."""
    data = _read(record)
    endpoint = data.endpoint
    endpoint.id = record.endpoint_id
    endpoint.version = version or record.version
    endpoint.url_prefix = _URL_PREFIX.format(record.endpoint_id)
    if data.target_namespace_id:
        namespace = await frontend.namespaces.by_id(data.target_namespace_id)
        if namespace is not None:
            endpoint.spec.target.worker.namespace = namespace.name
    return endpoint
