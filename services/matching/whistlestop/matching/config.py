"""What can be set in the matching service, with Temporal's defaults where Temporal has one."""

from __future__ import annotations

from whistlestop.common.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MatchingConfig:
    """Limits and intervals. Spans are seconds (`*_s`)."""

    host: str = "127.0.0.1:7233"
    """Who is named as the owner of a queue's partition."""
    hear_others: bool = True
    """Other processes write to the same store: hear their hints. Off for a process that is alone with its file."""
    share_pollers: bool = True
    """Write poller rows, so that other processes see who polls. Off for a process that is alone with its file."""

    long_poll_s: float = 60.0
    """The longest that one poll waits."""
    shortest_poll_s: float = 2.0
    """A held poll with less time than this is refused."""
    poll_margin_s: float = 1.0
    """An empty answer leaves this long before the caller's deadline."""
    function_wait_s: float = 0.5
    """The longest that a poll waits inside a function, where waiting is billed."""
    function_margin_s: float = 0.1

    page: int = 100
    """Candidates read at once."""
    buffer: int = 1000
    """Candidates kept per queue; what is beyond stays in the store."""
    reread_s: float = 30.0
    """A poll looks at the store when the last look is older than this, whatever the hints said."""
    hint_pause_s: float = 0.025
    """Hints of other processes cause at most one look per queue in this time."""
    retry_first_s: float = 0.05
    retry_most_s: float = 10.0
    """Back-off of a candidate that history could not start just now."""
    queues: int = 10_000
    """Queues known in memory; the longest unused ones make room."""
    idle_queue_s: float = 300.0
    """A queue that was not used for this long is forgotten when a sweep comes by."""

    max_deployments: int = 100
    """In a namespace."""
    max_versions: int = 100
    """In a worker deployment."""
    max_queues_in_version: int = 100
    max_versions_of_queue: int = 200
    """That serve one task queue, of all worker deployments."""

    sticky_window_s: float = 10.0
    """A sticky queue without a poll for this long has lost its worker."""
    poller_ttl_s: float = 300.0
    """How long descriptions show a poller after its last poll."""
    poller_row_s: float = 300.0
    """How long it is known at least, which decides whether sticky queues and versions have live workers."""
    poller_write_s: float = 10.0
    """How often one poller's row is refreshed at most."""
    pollers_per_queue: int = 1000
    shutdown_memory_s: float = 30.0
    """How long polls of a worker that has shut down are answered at once."""
    shutdown_workers: int = 10_000
    heartbeat_ttl_s: float = 300.0
    heartbeats: int = 100_000
    shared_heartbeats: int = 10_000
    """As many are looked at for one list or count where they stand in rows."""

    system_rps: float = 4000.0
    """Tasks per second that one queue hands out at most, where nobody set less."""
    burst_s: float = 1.0
    queue_config_s: float = 10.0
    """How old a queue's stored settings may be while it is polled."""
    fairness_overrides: int = 1000

    scale_down_wait_s: float = 1.0
    """A poller that waited this long for a fresh task is one too many."""
    scale_up_backlog_age_s: float = 0.2
    scale_decisions_per_s: float = 10.0
    """Per poller."""
    scale_up_ratio: float = 1.2
    """Tasks added per task handed out above which more pollers are wanted."""

    wake_queue_prefix: str = ""
    """In a function: workers' wake queues whose names begin like this are told of tasks; empty: none are."""

    push_window_s: float = 15.0
    """A worker of a version that polled within this time is alive: its row is written every ten seconds."""
    push_window_function_s: float = 45.0
    """The same in functions, where an idle bridge asks every 30 seconds."""
    push_require_role: bool = False
    """Workers in AWS Lambda are invoked by a role with an external id only, never by the server's own."""
    push_webhook_addresses: tuple[tuple[str, bool], ...] = (("*", False),)
    """Where webhooks may go: patterns of host[:port], and whether without TLS."""

    max_id_length: int = 1000
    describe_limit: int = 100_000
    """Where the count of a backlog stops."""
