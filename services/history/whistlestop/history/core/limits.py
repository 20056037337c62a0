"""Limits and defaults of the engine, with Temporal's default values; the process fills them from its configuration."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.messages.nexus_headers import DISALLOWED_HEADERS
from whistlestop.common.retry_defaults import RetryDefaults, RetryIntervals
from whistlestop.history.core.times import MILLISECOND_NS, SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Mapping

KIB = 1024
MIB = 1024 * KIB
DAY_NS = 24 * 3600 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are in bytes, spans in nanoseconds; the rest are counts."""

    blob_size_warn: int = 512 * KIB
    blob_size_error: int = 2 * MIB
    memo_size_warn: int = 2 * KIB
    memo_size_error: int = 2 * MIB
    history_size_warn: int = 10 * MIB
    history_size_error: int = 50 * MIB
    history_size_suggest_continue_as_new: int = 4 * MIB
    history_count_warn: int = 10 * KIB
    history_count_error: int = 50 * KIB
    history_count_suggest_continue_as_new: int = 4 * KIB
    mutable_state_size_warn: int = 1 * MIB
    mutable_state_size_error: int = 8 * MIB
    activity_failure_size_error: int = 4 * KIB
    """How much of the last attempt's failure a pending activity keeps."""
    activity_failure_size_warn: int = 2 * KIB
    pending_activities: int = 2000
    pending_children: int = 2000
    pending_signals: int = 2000
    pending_cancels: int = 2000
    signals_per_execution: int = 10000
    buffered_events: int = 100
    buffered_bytes: int = 2 * MIB
    in_flight_updates: int = 10
    in_flight_updates_bytes: int = 20 * MIB
    total_updates: int = 2000
    total_updates_suggest_continue_as_new_percent: int = 90
    buffered_queries: int = 1
    query_poller_window_ns: int = 20 * SECOND_NS
    """A queue that was not polled for this long is considered to have no workers that could answer a query."""
    id_length: int = 1000
    search_attribute_count: int = 100
    search_attribute_value_size: int = 2 * KIB
    search_attributes_total_size: int = 40 * KIB
    auto_reset_points: int = 20
    task_history_page: int = 256
    """Batches of events that come with a workflow task; the others are fetched page by page."""
    query_history_page: int = 256
    """Likewise with the task of a query."""
    send_raw_history: bool = False
    """Return histories in batches as they are stored, for clients that decode them themselves."""
    signal_backlinks: bool = False
    """Include in a run's description the requests by which it was signalled."""
    cross_namespace_commands: bool = False
    """Whether a workflow may start, signal and cancel workflows of other namespaces."""

    long_poll_ns: int = 20 * SECOND_NS
    """How long a long poll waits whose caller sets no shorter deadline."""
    activity_long_poll_ns: int = 60 * SECOND_NS
    activity_long_poll_buffer_ns: int = SECOND_NS
    """Likewise for standalone activities, and how long before the caller's deadline the answer is sent."""
    nexus_long_poll_ns: int = 60 * SECOND_NS
    nexus_long_poll_buffer_ns: int = SECOND_NS
    """Likewise for standalone Nexus operations."""
    workflow_task_timeout_ns: int = 10 * SECOND_NS
    workflow_task_timeout_max_ns: int = 120 * SECOND_NS
    workflow_task_heartbeat_timeout_ns: int = 30 * 60 * SECOND_NS
    workflow_task_retry_initial_ns: int = 5 * SECOND_NS
    workflow_task_retry_max_ns: int = 10 * 60 * SECOND_NS
    workflow_task_backoff_from_attempt: int = 3
    workflow_task_problems: int = 5
    """Consecutive failures after which lists can find the run by them; 0: never."""
    activity_retry: RetryDefaults = RetryDefaults()
    workflow_retry: RetryDefaults = RetryDefaults()
    continue_as_new_min_interval_ns: int = SECOND_NS
    reuse_start_time_validation: bool = False
    """Whether starts with the id of a run that is younger than `continue_as_new_min_interval_ns` are refused."""
    reset_with_pending_children: bool = True
    """Whether a run may be reset to a point at which it had open children."""
    speculative_events_discarded: int = 10
    """Events that a speculative task may have brought and still leave no trace, if its worker supports that."""
    drop_repeated_task_failures: bool = False
    """Whether failures of later attempts of a workflow task are ignored; the task then times out."""
    sticky_timeout_default_ns: int = 5 * SECOND_NS
    completion_pages: bool = False
    """Whether the completion of a workflow task may come in pages (completion_pages.py)."""
    completion_pages_size: int = 40 * MIB
    """The maximum of one completion; 0: limited only by the total."""
    completion_pages_total_size: int = 1024 * MIB
    """The maximum of all completions in progress in this process; 0: no limit."""
    completion_pages_namespace_ratio: float = 0.5
    """One namespace's maximum share of it."""
    reapply_events: int = 10000
    eager_activities: bool = True
    eager_workflow_start: bool = True
    cancel_activity_worker_command: bool = False
    """Whether workers are notified on their control queues of activities to cancel."""
    links_per_execution: int = 2000
    """The maximum on a standalone activity, from its start and from requests that found it running."""
    callbacks_per_execution: int = 2000
    callbacks_per_update: int = 32
    nexus_pending_operations: int = 30
    nexus_service_length: int = 1000
    nexus_operation_length: int = 1000
    nexus_header_size: int = 8 * KIB
    nexus_operation_token_length: int = 4096
    nexus_disallowed_headers: tuple[str, ...] = DISALLOWED_HEADERS
    """Headers, in lower case, that a workflow may not give to an operation."""
    nexus_schedule_to_close_max_ns: int = 0
    """To which an operation's schedule-to-close timeout is shortened; 0: not at all."""
    nexus_request_timeout_ns: int = 10 * SECOND_NS
    nexus_answer_margin_ns: int = SECOND_NS
    """The part of a request's time that is reserved for the way back of the handler's answer."""
    nexus_min_request_timeout_ns: int = 1500 * MILLISECOND_NS
    nexus_retry_initial_ns: int = SECOND_NS
    nexus_retry_max_ns: int = 3600 * SECOND_NS
    """This and the interval before are those of workflows' operations."""
    nexus_execution_retry: RetryIntervals = RetryIntervals()
    """The pauses between the requests of a standalone operation."""
    nexus_system_callback_url: bool = True
    """Whether workers of this server get the URL of its system callback instead of `nexus_callback_url`."""
    nexus_callback_url: str = ""
    """Where external handlers send completions of operations; `{{.NamespaceName}}` and `{{.NamespaceID}}` are
    replaced."""
    callback_request_timeout_ns: int = 10 * SECOND_NS
    callback_retry_initial_ns: int = SECOND_NS
    callback_retry_max_ns: int = 3600 * SECOND_NS
    send_target_version_changed: bool = True
    """Whether a pinned run is notified when new work goes to another version."""
    version_reactivation: bool = True
    """Whether a drained version drains again when a client pins a run to it."""
    version_drainage_grace_ns: int = 180 * SECOND_NS
    """How long a version drains before it is checked for open workflows that are pinned to it."""
    version_drainage_refresh_ns: int = 180 * SECOND_NS
    """The time between two such checks."""
    external_retry_initial_ns: int = 100 * MILLISECOND_NS
    by_namespace: Mapping[str, Limits] = field(default_factory=dict)
    """The limits of namespaces that have their own, by name."""

    def of(self, namespace: str) -> Limits:
        """Return the limits of a namespace (by name); these limits if it has none of its own."""
        return self.by_namespace.get(namespace, self) if self.by_namespace else self
