"""GetSystemInfo, GetClusterInfo, ListClusters: information about the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.messages.page_tokens import last_of, list_mark
from whistlestop.common.rpcs.operator_service import OperatorService
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend import client_versions
from whistlestop.frontend.api.capabilities import system_capabilities
from whistlestop.frontend.api.rules import handles
from whistlestop.frontend.config import SERVER_VERSION

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.frontend.ports import FrontendPorts


@handles(WorkflowService.GetSystemInfo)
async def get_system_info(
    frontend: FrontendPorts, request: service_pb.GetSystemInfoRequest, context: CallContext
) -> service_pb.GetSystemInfoResponse:
    """Return the server's version and capabilities, which SDKs read before anything else."""
    return service_pb.GetSystemInfoResponse(
        server_version=SERVER_VERSION,
        capabilities=system_capabilities(),
    )


@handles(WorkflowService.GetClusterInfo)
async def get_cluster_info(
    frontend: FrontendPorts, request: service_pb.GetClusterInfoRequest, context: CallContext
) -> service_pb.GetClusterInfoResponse:
    """Describe the only cluster, whatever the request names."""
    config = frontend.config
    return service_pb.GetClusterInfoResponse(
        supported_clients=client_versions.SUPPORTED,
        server_version=SERVER_VERSION,
        cluster_id=config.cluster_id,
        cluster_name=config.cluster_name,
        history_shard_count=1,
        persistence_store=config.persistence_store,
        visibility_store=config.persistence_store,
        initial_failover_version=1,
        failover_version_increment=10,
    )


@handles(OperatorService.ListClusters)
async def list_clusters(
    frontend: FrontendPorts, request: operator_pb.ListClustersRequest, context: CallContext
) -> operator_pb.ListClustersResponse:
    """Return the only cluster, on one page. Raise INVALID_ARGUMENT for a bad page token."""
    last_of(request.next_page_token, list_mark(""))
    config = frontend.config
    return operator_pb.ListClustersResponse(
        clusters=[
            operator_pb.ClusterMetadata(
                cluster_name=config.cluster_name,
                cluster_id=config.cluster_id,
                address=config.address,
                http_address=config.http_address,
                initial_failover_version=1,
                history_shard_count=1,
                is_connection_enabled=True,
            )
        ]
    )
