"""RegisterNamespace, DescribeNamespace, ListNamespaces, UpdateNamespace, DeprecateNamespace, DeleteNamespace.

These read the store, not the cache, and write by compare-and-set on the namespace's version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import namespace_pb2 as enums_pb
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.namespace.v1 import message_pb2 as message_pb
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.replication.v1 import message_pb2 as replication_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clock import SECOND_NS, sleep_until
from whistlestop.common.errors import (
    Code,
    ServiceError,
    failed_precondition,
    invalid_argument,
    namespace_not_found,
    unavailable,
)
from whistlestop.common.proto.namespace_pb2 import NamespaceData
from whistlestop.common.proto.nexus_pb2 import NexusEndpointData
from whistlestop.common.rpcs.operator_service import OperatorService
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api.capabilities import namespace_capabilities, namespace_limits
from whistlestop.frontend.api.rules import handles
from whistlestop.net.tasks.loops import Loop
from whistlestop.storage.errors import NamespaceConflict, NamespaceExists, StorageError, is_transient
from whistlestop.storage.namespaces import read
from whistlestop.storage.records import NamespaceRecord, QueueMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from google.protobuf.duration_pb2 import Duration

    from whistlestop.common.context import CallContext
    from whistlestop.frontend.config import FrontendConfig
    from whistlestop.frontend.ports import FrontendPorts

SYSTEM_NAMESPACE = "temporal-system"
SYSTEM_NAMESPACE_ID = "32049b68-7872-4094-8e63-d0dd59896a83"
DELETION_QUEUE = "namespace-deletion"
_DEFAULT_PAGE = 100
_MAX_PER_PAGE = 1000
_RETRIES = 5
_BAD_RETENTION = "A valid retention period is not set on request."


@handles(WorkflowService.RegisterNamespace)
async def register_namespace(
    frontend: FrontendPorts, request: service_pb.RegisterNamespaceRequest, context: CallContext
) -> service_pb.RegisterNamespaceResponse:
    """Create a namespace. Raises ALREADY_EXISTS if the name is taken."""
    config = frontend.config
    if request.is_global_namespace:
        raise invalid_argument("Cannot register global namespace when not enabled")
    _check_retention(request.workflow_execution_retention_period, config)
    if await frontend.store.get_namespace(name=request.namespace) is not None:
        raise _exists(request.namespace)
    _check_clusters([request.active_cluster_name, *(each.cluster_name for each in request.clusters)], config)
    data = new_namespace(
        frontend.ids.uuid(),
        request.namespace,
        config,
        retention_s=request.workflow_execution_retention_period.seconds,
    )
    data.config.workflow_execution_retention_ttl.nanos = request.workflow_execution_retention_period.nanos
    data.info.description = request.description
    data.info.owner_email = request.owner_email
    data.info.data.update(request.data)
    data.replication_config.state = enums_pb.REPLICATION_STATE_NORMAL
    await create(frontend, data)
    return service_pb.RegisterNamespaceResponse()


def new_namespace(namespace_id: str, name: str, config: FrontendConfig, retention_s: int) -> NamespaceData:
    """Return the initial data of a namespace. `retention_s` is in seconds."""
    data = NamespaceData(
        info=message_pb.NamespaceInfo(id=namespace_id, name=name, state=enums_pb.NAMESPACE_STATE_REGISTERED),
        config=message_pb.NamespaceConfig(
            bad_binaries=message_pb.BadBinaries(),
            history_archival_state=enums_pb.ARCHIVAL_STATE_DISABLED,
            visibility_archival_state=enums_pb.ARCHIVAL_STATE_DISABLED,
        ),
        replication_config=replication_pb.NamespaceReplicationConfig(
            active_cluster_name=config.cluster_name,
            clusters=[replication_pb.ClusterReplicationConfig(cluster_name=config.cluster_name)],
        ),
    )
    data.config.workflow_execution_retention_ttl.seconds = retention_s
    return data


async def create(frontend: FrontendPorts, data: NamespaceData) -> None:
    """Store a new namespace. Raises ALREADY_EXISTS."""
    record = NamespaceRecord(data.info.id, data.info.name, data.SerializeToString(), version=0)
    try:
        await frontend.store.create_namespace(record)
    except NamespaceExists:
        raise _exists(data.info.name) from None


async def ensure_namespace(frontend: FrontendPorts, name: str, retention_s: int = 86_400) -> None:
    """Create the namespace if it does not exist. Several servers may do so at the same time when they start.

    Raise StorageError.
    """
    if await frontend.store.get_namespace(name=name) is not None:
        return
    namespace_id = SYSTEM_NAMESPACE_ID if name == SYSTEM_NAMESPACE else frontend.ids.uuid()
    data = new_namespace(namespace_id, name, frontend.config, retention_s)
    if name == SYSTEM_NAMESPACE:
        data.config.workflow_execution_retention_ttl.seconds = 7 * 86_400
        data.info.description = "Temporal internal system namespace"
        data.info.owner_email = "temporal-core@temporal.io"
    try:
        await create(frontend, data)
    except ServiceError as error:
        if error.code is not Code.ALREADY_EXISTS:
            raise


@handles(WorkflowService.DescribeNamespace)
async def describe_namespace(
    frontend: FrontendPorts, request: service_pb.DescribeNamespaceRequest, context: CallContext
) -> service_pb.DescribeNamespaceResponse:
    """Describe a namespace by name or id, read from the store. Raise INVALID_ARGUMENT or NOT_FOUND."""
    if request.id and request.namespace:
        raise invalid_argument("GetNamespace operation failed. Both ID and Name specified in request.")
    if request.id:
        import uuid  # SDKs ask by name, at the start of a server, and what `uuid` imports takes a millisecond

        try:
            uuid.UUID(request.id)
        except ValueError:
            raise namespace_not_found(request.id) from None
    record = await frontend.store.get_namespace(name=request.namespace, namespace_id=request.id)
    if record is None:
        raise namespace_not_found(request.id or request.namespace)
    return _described(read(record), record, frontend.config.of(record.name))


async def _named(frontend: FrontendPorts, names: Collection[str], after: str, limit: int) -> list[NamespaceRecord]:
    """Return the first `limit` of these namespaces whose name is greater than `after`, by name; some may not exist."""
    found: list[NamespaceRecord] = []
    for name in sorted(names):
        if name > after and len(found) < limit:
            record = await frontend.store.get_namespace(name=name)
            if record is not None:
                found.append(record)
    return found


@handles(WorkflowService.ListNamespaces)
async def list_namespaces(
    frontend: FrontendPorts, request: service_pb.ListNamespacesRequest, context: CallContext
) -> service_pb.ListNamespacesResponse:
    """Return a page of namespaces by name; the page token is the last name of the page. Raise INVALID_ARGUMENT."""
    size = min(request.page_size, _MAX_PER_PAGE) if request.page_size > 0 else _DEFAULT_PAGE
    try:
        after = request.next_page_token.decode()
    except UnicodeDecodeError:
        raise invalid_argument("Invalid NextPageToken.") from None
    if context.sees is None:
        records = await frontend.store.list_namespaces(after, size + 1)
    else:
        # Do not page through all: the page token might be the name of a namespace that the caller must not see.
        size = min(size, _DEFAULT_PAGE)
        records = await _named(frontend, context.sees, after, size + 1)
    response = service_pb.ListNamespacesResponse()
    for record in records[:size]:
        data = read(record)
        if data.info.state != enums_pb.NAMESPACE_STATE_DELETED or request.namespace_filter.include_deleted:
            response.namespaces.append(_described(data, record, frontend.config.of(record.name)))
    if len(records) > size:
        response.next_page_token = records[size - 1].name.encode()
    return response


@handles(WorkflowService.UpdateNamespace)
async def update_namespace(
    frontend: FrontendPorts, request: service_pb.UpdateNamespaceRequest, context: CallContext
) -> service_pb.UpdateNamespaceResponse:
    """Change the fields that the request sets. Raise INVALID_ARGUMENT, NOT_FOUND or UNAVAILABLE."""
    if request.promote_namespace:
        raise invalid_argument(
            "global namespace is not enabled on this cluster, cannot update global namespace or promote local "
            f"namespace: {request.namespace}"
        )

    def change(data: NamespaceData) -> None:
        _update_info(data, request)
        _update_config(data, request, frontend)
        if request.delete_bad_binary:
            if request.delete_bad_binary not in data.config.bad_binaries.binaries:
                raise invalid_argument(f"Bad binary checksum {request.delete_bad_binary} doesn't exists.")
            del data.config.bad_binaries.binaries[request.delete_bad_binary]
        wanted = request.replication_config
        _check_clusters([wanted.active_cluster_name, *(c.cluster_name for c in wanted.clusters)], frontend.config)

    record, data = await edit(frontend, request.namespace, change)
    described = _described(data, record, frontend.config.of(record.name))
    return service_pb.UpdateNamespaceResponse(
        namespace_info=described.namespace_info,
        config=described.config,
        replication_config=described.replication_config,
        failover_version=described.failover_version,
        is_global_namespace=described.is_global_namespace,
    )


@handles(WorkflowService.DeprecateNamespace)
async def deprecate_namespace(
    frontend: FrontendPorts, request: service_pb.DeprecateNamespaceRequest, context: CallContext
) -> service_pb.DeprecateNamespaceResponse:
    """Refuse new workflows in the namespace; running ones go on."""

    def change(data: NamespaceData) -> None:
        data.info.state = enums_pb.NAMESPACE_STATE_DEPRECATED

    await edit(frontend, request.namespace, change)
    return service_pb.DeprecateNamespaceResponse()


@handles(OperatorService.DeleteNamespace)
async def delete_namespace(
    frontend: FrontendPorts, request: operator_pb.DeleteNamespaceRequest, context: CallContext
) -> operator_pb.DeleteNamespaceResponse:
    """Delete a namespace: its name is free at once, executions are deleted in the background from a queue.

    Raise FAILED_PRECONDITION for the system's or a protected namespace, or NOT_FOUND.
    """
    name, namespace_id = context.namespace, context.namespace_id
    if name == SYSTEM_NAMESPACE:
        raise failed_precondition("unable to delete system namespace")
    if name in frontend.config.protected_namespaces:
        raise failed_precondition(f"namespace {name} is protected from deletion")
    if not frontend.config.delete_namespaces_of_endpoints:
        await _check_endpoints(frontend, namespace_id)
    record, data = await _read(frontend, name)
    data.info.name = f"{name}-deleted-{namespace_id[:5]}"
    for length in range(6, len(namespace_id) + 1):
        if await frontend.store.get_namespace(name=data.info.name) is None:
            break
        data.info.name = f"{name}-deleted-{namespace_id[:length]}"
    data.info.state = enums_pb.NAMESPACE_STATE_DELETED
    delay_ns = int(frontend.config.namespace_delete_delay_s * SECOND_NS)
    if request.HasField("namespace_delete_delay"):
        delay_ns = request.namespace_delete_delay.ToNanoseconds()
    data.kept_until_ns = frontend.clock.now_ns() + max(delay_ns, 0) + VISIBLE_AFTER_DELETION_NS
    await _write(frontend, record, data)
    await frontend.store.enqueue(
        QueueMessage(DELETION_QUEUE, frontend.ids.task_id(frontend.clock.now_ns()), namespace_id.encode())
    )
    if context.can_long_poll:
        resume_deletions(frontend)
    return operator_pb.DeleteNamespaceResponse(deleted_namespace=data.info.name)


async def _check_endpoints(frontend: FrontendPorts, namespace_id: str) -> None:
    """Refuse to delete a namespace that is the target of a Nexus endpoint."""
    first = ""
    while records := await frontend.store.list_nexus_endpoints(first, _ENDPOINTS_PAGE):
        for record in records:
            try:
                data = NexusEndpointData.FromString(record.data)
            except DecodeError:
                continue  # a damaged row has no target
            if data.target_namespace_id == namespace_id:
                name = data.endpoint.spec.name
                raise failed_precondition(f"cannot delete a namespace that is a target of a Nexus endpoint {name}")
        if len(records) < _ENDPOINTS_PAGE:
            return
        # Ids are UUIDs in lower case, so any following id is greater than this one.
        first = f"{records[-1].endpoint_id}-"


def resume_deletions(frontend: FrontendPorts) -> None:
    """Continue deletions that another process left unfinished. A server calls it when it starts."""
    frontend.background.spawn(_finish_all_deletions(frontend))


VISIBLE_AFTER_DELETION_NS = 5 * SECOND_NS
"""Minimum time for which a deleted namespace can be described; Temporal's deletion takes some seconds as well."""
_ENDPOINTS_PAGE = 1000
_MAX_DELETIONS = 1000
"""Namespaces under deletion that are processed in a round."""


async def _finish_all_deletions(frontend: FrontendPorts) -> None:
    more, next_ns = True, 0

    async def turn() -> None:
        nonlocal more, next_ns
        await sleep_until(frontend.clock, next_ns)
        done, next_ns = await _delete_page(frontend, 100)
        more = bool(done or next_ns)

    loop = Loop("deletions", frontend.clock)
    while more:
        await loop.attempt(turn)
    loop.ended()


async def finish_deletions(frontend: FrontendPorts, limit: int = 100) -> int:
    """Delete up to `limit` executions of deleted namespaces, and then the empty namespaces. Return their number.

    It is safe to run at any time, and concurrently: a queue message stays until its namespace has been deleted. Raise
    StorageError.
    """
    return (await _delete_page(frontend, limit))[0]


async def _delete_page(frontend: FrontendPorts, limit: int) -> tuple[int, int]:
    """Delete like `finish_deletions`; return also when the next kept namespace may be deleted, 0 for none."""
    done, next_times = 0, []
    for message in await frontend.store.read_queue(DELETION_QUEUE, 0, _MAX_DELETIONS):
        try:
            deleted, next_ns = await _delete_some(frontend, message, limit - done)
        except Exception as error:
            if isinstance(error, StorageError) and is_transient(error):
                raise
            # Go on with the others; the next round tries this one again.
            await frontend.aside.seen("queue", (message.queue_name, str(message.message_id)), error)
            continue
        done += deleted
        if next_ns:
            next_times.append(next_ns)
        if done >= limit:
            break
    return done, 0 if done else min(next_times, default=0)


async def _delete_some(frontend: FrontendPorts, message: QueueMessage, limit: int) -> tuple[int, int]:
    """Delete up to `limit` executions of a deleted namespace, or the namespace itself if it is empty and not kept.

    Return the number deleted, and until when the namespace is kept if there is nothing else left to do.
    """
    namespace_id = message.data.decode()
    page = await frontend.store.list_executions(None, limit, namespace_id)
    for stored in page:
        await frontend.store.delete_execution(stored.key)
    if page:
        return len(page), 0
    record = await frontend.store.get_namespace(namespace_id=namespace_id)
    kept_until_ns = 0 if record is None else NamespaceData.FromString(record.data).kept_until_ns
    if frontend.clock.now_ns() < kept_until_ns:
        return 0, kept_until_ns
    await frontend.store.delete_namespace(namespace_id)
    await frontend.store.delete_message(message)
    frontend.namespaces.forget(namespace_id)
    return 1, 0


async def edit(
    frontend: FrontendPorts, name: str, change: Callable[[NamespaceData], None]
) -> tuple[NamespaceRecord, NamespaceData]:
    """Read a namespace, `change(data)` in place, and write it by compare-and-set; retry on a conflict.

    Raise NOT_FOUND, or UNAVAILABLE after too many conflicts.
    """
    for _ in range(_RETRIES):
        record, data = await _read(frontend, name)
        change(data)
        try:
            await _write(frontend, record, data)
        except NamespaceConflict:
            continue
        return record, data
    raise unavailable(f"Namespace {name} is being changed by others. Try again.")


async def _read(frontend: FrontendPorts, name: str) -> tuple[NamespaceRecord, NamespaceData]:
    record = await frontend.store.get_namespace(name=name)
    if record is None:
        raise namespace_not_found(name)
    return record, read(record)


async def _write(frontend: FrontendPorts, record: NamespaceRecord, data: NamespaceData) -> None:
    changed = NamespaceRecord(
        record.namespace_id, data.info.name, data.SerializeToString(), record.version, record.is_global
    )
    await frontend.store.update_namespace(changed)
    frontend.namespaces.forget(record.namespace_id)


def _update_info(data: NamespaceData, request: service_pb.UpdateNamespaceRequest) -> None:
    wanted = request.update_info
    if wanted.description:
        data.info.description = wanted.description
    if wanted.owner_email:
        data.info.owner_email = wanted.owner_email
    data.info.data.update(wanted.data)
    if wanted.state not in (enums_pb.NAMESPACE_STATE_UNSPECIFIED, data.info.state):
        # The state only moves forward: registered, deprecated, deleted.
        forward = data.info.state < wanted.state <= enums_pb.NAMESPACE_STATE_DELETED
        if not forward:
            raise invalid_argument("Invalid namespace state update.")
        data.info.state = wanted.state


def _update_config(data: NamespaceData, request: service_pb.UpdateNamespaceRequest, frontend: FrontendPorts) -> None:
    wanted = request.config
    if wanted.HasField("workflow_execution_retention_ttl"):
        _check_retention(wanted.workflow_execution_retention_ttl, frontend.config)
        data.config.workflow_execution_retention_ttl.CopyFrom(wanted.workflow_execution_retention_ttl)
    for checksum, binary in wanted.bad_binaries.binaries.items():
        added = data.config.bad_binaries.binaries[checksum]
        added.CopyFrom(binary)
        added.create_time.FromNanoseconds(frontend.clock.now_ns())
    if len(data.config.bad_binaries.binaries) > frontend.config.max_bad_binaries:
        raise invalid_argument(f"Total resetBinaries cannot exceed the max limit: {frontend.config.max_bad_binaries}")


def _check_retention(retention: Duration, config: FrontendConfig) -> None:
    if retention.seconds < config.min_retention_s or retention.nanos < 0:
        raise invalid_argument(_BAD_RETENTION)


def _check_clusters(names: list[str], config: FrontendConfig) -> None:
    for name in names:
        if name and name != config.cluster_name:
            raise invalid_argument(f"Invalid cluster name: {name}")


def _exists(name: str) -> ServiceError:
    return ServiceError(
        Code.ALREADY_EXISTS, f'Namespace "{name}" already exists', details_pb.NamespaceAlreadyExistsFailure()
    )


def _described(
    data: NamespaceData, record: NamespaceRecord, config: FrontendConfig
) -> service_pb.DescribeNamespaceResponse:
    response = service_pb.DescribeNamespaceResponse(
        namespace_info=data.info,
        config=data.config,
        replication_config=data.replication_config,
        failover_version=data.failover_version,
        is_global_namespace=record.is_global,
    )
    info = response.namespace_info
    info.capabilities.CopyFrom(namespace_capabilities(config))
    info.limits.CopyFrom(namespace_limits(config))
    info.supports_schedules = config.schedules_enabled
    return response
