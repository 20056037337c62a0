"""Configuration of the frontend: settings and limits, with Temporal's defaults."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages.nexus_headers import DISALLOWED_HEADERS, DROPPED_HEADERS
from whistlestop.common.retry_defaults import RetryDefaults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.frontend.auth.config import AuthConfig

SERVER_VERSION = "1.32.0"
"""The Temporal server version whose API and behaviour this server implements; clients compare against it."""

KIB = 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """Settings and limits of the frontend. Sizes are bytes, lengths are bytes of UTF-8, durations are seconds."""

    cluster_name: str = "active"
    cluster_id: str = "5f2c5b0e-8a0c-4d0d-9c63-2f3a3c0c6d11"
    persistence_store: str = "sqlite"
    address: str = ""
    http_address: str = ""
    max_id_length: int = 1000
    max_message_size: int = 4 * MIB
    blob_size_limit_warn: int = 512 * KIB
    blob_size_limit_error: int = 2 * MIB
    memo_size_limit_warn: int = 2 * KIB
    memo_size_limit_error: int = 2 * MIB
    workflow_task_completion_size_limit_error: int = 40 * MIB
    activity_retry: RetryDefaults = RetryDefaults()
    workflow_retry: RetryDefaults = RetryDefaults()
    search_attributes_number_of_keys_limit: int = 100
    search_attributes_size_of_value_limit: int = 2 * KIB
    search_attributes_total_size_limit: int = 40 * KIB
    visibility_max_page_size: int = 1000
    visibility_read_s: float = 30.0
    """Maximum time that the store may spend on a list or count, whatever the caller's deadline."""
    history_max_page_size: int = 256
    max_links_per_request: int = 10
    link_max_size: int = 4000
    max_callbacks_per_execution: int = 2000
    callback_url_max_length: int = 1000
    callback_header_max_size: int = 8 * KIB
    callback_allowed_addresses: tuple[tuple[str, bool], ...] = ()
    """Patterns of `host:port` to which callbacks may go, and whether plain HTTP is allowed."""
    endpoint_name_max_length: int = 200
    endpoint_url_max_length: int = 4 * KIB
    endpoint_description_max_size: int = 20_000
    nexus_operation_token_max_length: int = 4096
    nexus_service_max_length: int = 1000
    """This and the following limits apply to standalone operations."""
    nexus_operation_max_length: int = 1000
    nexus_header_max_size: int = 8 * KIB
    nexus_reason_max_length: int = 1000
    nexus_schedule_to_close_max_s: float = 0.0
    nexus_disallowed_headers: tuple[str, ...] = DISALLOWED_HEADERS
    nexus_dropped_headers: tuple[str, ...] = DROPPED_HEADERS
    """Headers of Nexus requests over HTTP that handlers do not get."""
    worker_build_id_size_limit: int = 255
    worker_versioning_data_apis: bool = False
    """Enables the RPCs that read and change compatible sets of build ids."""
    worker_versioning_rule_apis: bool = False
    """Enables the RPCs that read and change assignment and redirect rules."""
    worker_versioning_workflow_apis: bool = True
    """Enables polls and workflows that are versioned by build ids alone."""
    version_sets_per_queue: int = 10
    build_ids_per_queue: int = 100
    task_queues_per_build_id: int = 20
    assignment_rules_per_queue: int = 100
    redirect_rules_per_queue: int = 500
    redirect_upstream_build_ids: int = 50
    """Build ids, over all rules, that may lead to one build id."""
    deleted_rule_retention_s: float = 14 * 24 * 3600.0
    reachability_build_ids: int = 5
    """Build ids in one request."""
    reachability_task_queues: int = 20
    """Task queues that are examined for one build id."""
    reachability_since_default_s: float = 300.0
    """How long a set that is no longer the default may still get new workflows."""
    reachability_rule_grace_s: float = 180.0
    """How long a deleted rule may still be used by processes that have not seen the deletion."""
    max_deployments: int = 100
    """Per namespace."""
    max_versions_in_deployment: int = 100
    version_drainage_grace_s: float = 180.0
    """How long after a version began to drain it is first checked for open pinned workflows."""
    version_drainage_refresh_s: float = 180.0
    """Interval of the further checks."""
    min_retention_s: int = 3600
    max_bad_binaries: int = 10
    workflow_rules_enabled: bool = True
    max_workflow_rules: int = 10
    """Per namespace."""
    max_concurrent_batch_operations: int = 1
    """Batch operations that may run at the same time in a namespace."""
    batch_operations_per_s: int = 50
    """Maximum rate of one batch job."""
    batch_concurrency: int = 5
    protected_namespaces: tuple[str, ...] = ()
    """Namespaces that cannot be deleted."""
    delete_namespaces_of_endpoints: bool = False
    """Allows deleting a namespace that is the target of a Nexus endpoint."""
    namespace_delete_delay_s: float = 0.0
    """How long a deleted namespace is kept after its data has been deleted."""
    max_fairness_weight_overrides: int = 1000
    """Per task queue, and per request."""
    user_metadata_summary_size: int = 400
    user_metadata_details_size: int = 20_000
    disabled_schedule_validations: tuple[str, ...] = ()
    """Checks of schedules, in lower case, whose failures are logged and change nothing (`api.schedules`)."""
    schedules_enabled: bool = True
    """This and the following settings switch off parts of the API (`api.switches`)."""
    batch_enabled: bool = True
    batch_of_activities_enabled: bool = True
    updates_enabled: bool = True
    async_updates_enabled: bool = True
    update_callbacks_enabled: bool = True
    worker_heartbeats_enabled: bool = True
    cancel_polls_on_shutdown: bool = True
    workflow_pause_enabled: bool = True
    standalone_activities_enabled: bool = True
    activity_start_delay_enabled: bool = True
    activity_operator_commands_enabled: bool = True
    activity_callbacks_enabled: bool = True
    standalone_nexus_enabled: bool = True
    deployments_enabled: bool = True
    queries_disallowed: bool = False
    list_by_filter_disabled: bool = False
    eager_workflow_start: bool = True
    """Only reported as a capability; history has the same setting and acts on it."""
    workflow_task_problems: int = 5
    """Workflow task failures in a row after which lists can find the run by them. Reported only, like the above."""
    poller_autoscaling_auto_enroll: bool = False
    """Asks workers that do not configure it to let the server advise them on their number of polls."""
    completion_pages: bool = False
    """Workflow task completions may come in pages. Reported only."""
    worker_commands_enabled: bool = False
    """Asks workers to poll a control queue."""
    time_skipping_enabled: bool = False
    time_skipping_max_session_skips: int = 200
    http_allowed_hosts: tuple[str, ...] | None = None
    """Allowed `Host` headers of HTTP requests, in which `*` matches anything; None: see `endpoints.browsers`."""
    auth: AuthConfig | None = None
    """How callers are authenticated; None: every request is allowed."""
    by_namespace: Mapping[str, FrontendConfig] = field(default_factory=dict)
    """Namespaces with a configuration of their own, by name."""

    def of(self, namespace: str) -> FrontendConfig:
        """Return the configuration that applies to a namespace."""
        return self.by_namespace.get(namespace, self) if self.by_namespace else self
