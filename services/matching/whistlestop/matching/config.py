"""The settings of the matching service, with Temporal's defaults where Temporal has one."""

from __future__ import annotations

from whistlestop.common.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MatchingConfig:
    """Limits and intervals; the unit of `*_s` is seconds."""

    host: str = "127.0.0.1:7233"
    """The host that is shown as the owner of a queue's partition."""
    remote_notifications: bool = True
    """Subscribe to notifications of other processes that write to the same store. False for a process that is alone
    with its file."""
    share_pollers: bool = True
    """Write poller rows, so that other processes see who polls. False for a process that is alone with its file."""

    long_poll_s: float = 60.0
    """The longest time that a poll waits."""
    shortest_poll_s: float = 2.0
    """A long poll with less time than this is refused."""
    poll_margin_s: float = 1.0
    """An empty answer is sent this long before the caller's deadline."""
    function_wait_s: float = 0.5
    """The longest time that a poll waits inside a function, where waiting is billed."""
    function_margin_s: float = 0.1

    page: int = 100
    """The number of tasks read at once."""
    buffer: int = 1000
    """Tasks kept in memory per queue; further ones stay in the store."""
    reread_s: float = 30.0
    """A poll reads the store when the last read is older than this, even without a notification."""
    notification_pause_s: float = 0.025
    """Notifications of other processes cause at most one read per queue in this time."""
    retry_first_s: float = 0.05
    retry_most_s: float = 10.0
    """The longest back-off of a task that history could not start."""
    queues: int = 10_000
    """Queues kept in memory; the least recently used ones make room."""
    idle_queue_s: float = 300.0
    """A queue that was not used for this long is removed from memory by the next sweep."""

    max_deployments: int = 100
    """The maximum in a namespace."""
    max_versions: int = 100
    """The maximum in a worker deployment."""
    max_queues_in_version: int = 100
    max_versions_of_queue: int = 200
    """The maximum that serve one task queue, over all worker deployments."""

    sticky_window_s: float = 10.0
    """A sticky queue without a poll for this long is considered to have lost its worker."""
    poller_ttl_s: float = 300.0
    """How long descriptions show a poller after its last poll."""
    poller_row_s: float = 300.0
    """How long a poller is remembered at least; this decides whether sticky queues and versions have live workers."""
    poller_write_s: float = 10.0
    """The least time between two writes of one poller's row."""
    pollers_per_queue: int = 1000
    shutdown_memory_s: float = 30.0
    """How long polls of a worker that has shut down are answered at once."""
    shutdown_workers: int = 10_000
    heartbeat_ttl_s: float = 300.0
    heartbeats: int = 100_000
    shared_heartbeats: int = 10_000
    """The maximum of heartbeats read for one list or count where they are stored in rows."""

    system_rps: float = 4000.0
    """Tasks per second that one queue dispatches at most, unless a lower limit is set."""
    burst_s: float = 1.0
    queue_config_s: float = 10.0
    """The greatest age of a queue's stored settings while it is polled."""
    fairness_overrides: int = 1000

    scale_down_wait_s: float = 1.0
    """A poll that waited this long for a fresh task means one poller too many."""
    scale_up_backlog_age_s: float = 0.2
    scale_decisions_per_s: float = 10.0
    """The maximum per poller."""
    scale_up_ratio: float = 1.2
    """More pollers are suggested when tasks are added more than this many times as fast as they are dispatched."""

    notification_queue_prefix: str = ""
    """In a function: only notification queues (of workers) whose names start with this get notifications; empty: none
    do."""

    push_window_s: float = 15.0
    """A versioned worker that polled within this time counts as alive: its row is written every ten seconds."""
    push_window_function_s: float = 45.0
    """The same in functions, where an idle bridge polls every 30 seconds."""
    push_require_role: bool = False
    """Workers in AWS Lambda may only be invoked through a role with an external id, never with the server's own
    role."""
    push_webhook_addresses: tuple[tuple[str, bool], ...] = (("*", False),)
    """Allowed targets of webhooks: patterns of host[:port], and whether without TLS."""

    max_id_length: int = 1000
    describe_limit: int = 100_000
    """The number at which counting a backlog stops."""
