"""The capabilities of the server and of a namespace, which SDKs and tools read before they rely on them.

Every capability that is true has a test that uses it, and every one that is false a test that shows its absence:
tests/server/test_capabilities.py goes through all fields of the three messages and fails on an unknown one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.namespace.v1 import message_pb2 as namespace_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

if TYPE_CHECKING:
    from whistlestop.frontend.config import FrontendConfig


def system_capabilities() -> service_pb.GetSystemInfoResponse.Capabilities:
    """Return the capabilities that SDKs read once per connection."""
    return service_pb.GetSystemInfoResponse.Capabilities(
        signal_and_query_header=True,
        internal_error_differentiation=True,
        activity_failure_include_heartbeat=True,
        supports_schedules=True,
        encoded_failure_attributes=True,
        build_id_based_versioning=True,
        upsert_memo=True,
        eager_workflow_start=True,
        sdk_metadata=True,
        count_group_by_execution_status=True,
        nexus=True,
        server_scaled_deployments=True,
    )


def namespace_capabilities(config: FrontendConfig) -> namespace_pb.NamespaceInfo.Capabilities:
    """Return the capabilities that SDKs read before they start a worker."""
    standalone = config.standalone_activities_enabled
    return namespace_pb.NamespaceInfo.Capabilities(
        eager_workflow_start=config.eager_workflow_start,
        sync_update=config.updates_enabled,
        async_update=config.async_updates_enabled,
        worker_heartbeats=config.worker_heartbeats_enabled,
        reported_problems_search_attribute=config.workflow_task_problems > 0,
        worker_poll_complete_on_shutdown=config.cancel_polls_on_shutdown,
        poller_autoscaling=True,
        poller_autoscaling_auto_enroll=config.poller_autoscaling_auto_enroll,
        standalone_activities=standalone,
        standalone_activity_start_delay=standalone and config.activity_start_delay_enabled,
        standalone_activity_operator_commands=standalone and config.activity_operator_commands_enabled,
        standalone_activity_batch_operations=standalone and config.batch_of_activities_enabled,
        standalone_nexus_operation=config.standalone_nexus_enabled,
        workflow_pause=config.workflow_pause_enabled,
        workflow_update_callbacks=config.update_callbacks_enabled,
        worker_commands=config.worker_commands_enabled,
        workflow_task_completion_pagination=config.completion_pages,
    )


def namespace_limits(config: FrontendConfig) -> namespace_pb.NamespaceInfo.Limits:
    """Return the sizes in bytes above which a request is refused."""
    return namespace_pb.NamespaceInfo.Limits(
        blob_size_limit_error=config.blob_size_limit_error,
        memo_size_limit_error=config.memo_size_limit_error,
        workflow_task_completion_size_limit_error=config.workflow_task_completion_size_limit_error,
    )
