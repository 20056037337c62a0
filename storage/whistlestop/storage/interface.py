"""The store, in two minutes. Each method is one whole transaction; adapters raise only `storage.errors`.

Nothing here decides anything: conditions come with the writes. No read is unbounded: whatever can be long takes a
`limit` and a place to go on from. Readers may call from any number of coroutines at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.storage.migrations import SchemaStatus
    from whistlestop.storage.outreach import Outreach
    from whistlestop.storage.records import (
        Backlog,
        BranchRange,
        CurrentExecution,
        ExecutionKey,
        Finding,
        HistoryBatch,
        MatchingTask,
        Member,
        NamespaceRecord,
        NexusEndpointRecord,
        PollerRecord,
        QueryRecord,
        QueueMessage,
        ShardLease,
        StoredExecution,
        TaskKey,
        TaskQueueRecord,
        TimerTask,
        TransferTask,
        Transition,
        VisibilityRow,
    )
    from whistlestop.storage.visibility import Query


LONGEST_READ_S = 60.0
"""How long a list or a count may take where nobody says."""


class ExecutionStore(Protocol):
    """Runs, which run is current, and their history."""

    async def commit(self, transition: Transition) -> None:
        """Write all of it or nothing. Raises VersionConflict, CurrentConflict, TooLarge, Unavailable."""
        ...

    async def get_execution(self, key: ExecutionKey) -> StoredExecution | None: ...

    async def get_current(self, namespace_id: str, workflow_id: str) -> CurrentExecution | None: ...

    async def read_history(
        self, namespace_id: str, branches: Sequence[BranchRange], first_event_id: int, next_event_id: int, limit: int,
        *, reverse: bool = False,
    ) -> list[HistoryBatch]:
        """Up to `limit` batches that hold events `first_event_id <= id < next_event_id`, in order (or from the end).

        A batch at either edge may hold events outside the range: it is returned whole.
        """
        ...

    async def branches_of(self, key: ExecutionKey) -> list[BranchRange]:
        """Where the run's history stands: the ranges shared with other branches, then its own, which is open."""
        ...

    async def list_executions(
        self, after: ExecutionKey | None, limit: int, namespace_id: str = ""
    ) -> list[StoredExecution]:
        """Runs in key order, for checks and administration."""
        ...

    async def delete_execution(self, key: ExecutionKey) -> None:
        """Remove the run, its history (but what a reset shares), visibility, timers, tasks, and its being current."""
        ...


class TaskStore(Protocol):
    """Task queues: what waits for a poller."""

    async def list_tasks(
        self, namespace_id: str, task_queue: str, task_type: int, after: tuple[int, int] | None, limit: int
    ) -> list[MatchingTask]:
        """Tasks in order of (priority, task_id), from behind `after`."""
        ...

    async def list_tasks_by_level(
        self, namespace_id: str, task_queue: str, task_type: int, after: int, per_level: int, levels: int
    ) -> list[MatchingTask]:
        """The first tasks of each of the first levels (values of `priority`) above `after`, in order."""
        ...

    async def count_tasks(self, queues: Sequence[tuple[str, str, int]], limit: int) -> list[int]:
        """How many tasks stand in each queue (namespace_id, task_queue, task_type), counted up to `limit`."""
        ...

    async def put_tasks(self, tasks: Sequence[MatchingTask]) -> None: ...

    async def delete_tasks(self, keys: Sequence[TaskKey]) -> None: ...

    async def backlog(self, namespace_id: str, task_queue: str, task_type: int, limit: int) -> dict[int, Backlog]:
        """By priority, with fairness keys or without; each counted up to `limit`."""
        ...

    async def list_backlogged_queues(
        self, after: tuple[str, str, int] | None, limit: int
    ) -> list[tuple[str, str, int]]:
        """Queues (namespace_id, task_queue, task_type) that have a task, in that order."""
        ...

    async def get_task_queue(self, namespace_id: str, task_queue: str, task_type: int) -> TaskQueueRecord | None: ...

    async def put_task_queue(self, record: TaskQueueRecord, expected_range_id: int) -> None:
        """Raises LeaseLost when `expected_range_id` (0: no row) does not match."""
        ...

    async def put_pollers(self, pollers: Sequence[PollerRecord]) -> None:
        """Write each unless its row was seen later (`last_access_ns`): a poll that was under way undoes no goodbye."""
        ...

    async def get_poller(
        self, namespace_id: str, task_queue: str, task_type: int, identity: str
    ) -> PollerRecord | None: ...

    async def list_pollers(
        self, namespace_id: str, task_queue: str, task_type: int, now_ns: int, limit: int, after: str = ""
    ) -> list[PollerRecord]:
        """Those that have not expired, by identity, from behind `after`."""
        ...


class TimerStore(Protocol):
    """Timer rows and the outbox of transfer tasks, by ranges of slots."""

    async def due_timers(self, first_slot: int, next_slot: int, now_ns: int, limit: int) -> list[TimerTask]:
        """Rows with `fire_at_ns <= now_ns`, earliest first."""
        ...

    async def anything_due(self, timers_ns: int, transfers_ns: int) -> bool:
        """Whether a timer is due by `timers_ns`, or a transfer visible by `transfers_ns`, in whatever slot."""
        ...

    async def next_timers(self, first_slot: int, next_slot: int, after_ns: int, limit: int) -> list[TimerTask]:
        """Rows with `fire_at_ns > after_ns`, earliest first."""
        ...

    async def put_timer(self, timer: TimerTask) -> None: ...

    async def delete_timer(self, timer: TimerTask) -> None:
        """Delete that very row; one that was re-armed since (another `fire_at_ns`) stays."""
        ...

    async def postpone_timer(self, timer: TimerTask, fire_at_ns: int) -> bool:
        """Move that very row to another time; False when it was re-armed or deleted since."""
        ...

    async def due_transfers(self, first_slot: int, next_slot: int, now_ns: int, limit: int) -> list[TransferTask]:
        """Rows with `visible_at_ns <= now_ns`, oldest first."""
        ...

    async def delete_transfer(self, task: TransferTask) -> None: ...

    async def postpone_transfer(self, task: TransferTask, visible_at_ns: int, attempt: int) -> None: ...


class QueryStore(Protocol):
    """Queries and their answers: asking and answering calls may land on different instances."""

    async def put_query(self, query: QueryRecord, task: MatchingTask | None) -> None:
        """Store the query and, for a direct one, the task that carries it to a worker."""
        ...

    async def get_query(self, query_id: str) -> QueryRecord | None: ...

    async def list_buffered_queries(self, key: ExecutionKey, now_ns: int, limit: int) -> list[QueryRecord]:
        """Unanswered, unexpired, buffered ones of the run, oldest first."""
        ...

    async def answer_query(self, query_id: str, key: ExecutionKey, answer: bytes) -> bool:
        """False when it is gone, answered, or not asked of that run."""
        ...

    async def delete_query(self, query_id: str) -> None: ...

    async def purge_queries(self, now_ns: int, limit: int) -> int:
        """Drop expired ones; returns how many."""
        ...


class VisibilityStore(Protocol):
    """Lists and counts. Rows are written by `commit`, so they are exact at commit.

    What takes longer than `within_s` is stopped and raises TimedOut; when its caller is cancelled it is stopped, too.
    """

    async def list_visibility(
        self, namespace_id: str, query: Query, limit: int, after: bytes, within_s: float = LONGEST_READ_S
    ) -> tuple[list[VisibilityRow], bytes]:
        """A page and the token of the next. Raises whistlestop.storage.visibility.InvalidQuery.

        A full page always has a token, as with Temporal, though the next page may turn out to be empty. A page that
        has one may be shorter than asked for, where its memos are long.
        """
        ...

    async def count_visibility(self, namespace_id: str, query: Query, within_s: float = LONGEST_READ_S) -> int: ...

    async def count_visibility_groups(
        self, namespace_id: str, query: Query, limit: int, within_s: float = LONGEST_READ_S
    ) -> list[tuple[tuple[object, ...], int]]:
        """For a query with GROUP BY: group values and counts."""
        ...


class NamespaceStore(Protocol):
    """Namespaces."""

    async def create_namespace(self, record: NamespaceRecord) -> None:
        """Raises NamespaceExists."""
        ...

    async def get_namespace(self, *, name: str = "", namespace_id: str = "") -> NamespaceRecord | None: ...

    async def update_namespace(self, record: NamespaceRecord) -> None:
        """Compare-and-set on `record.version` (stored as version + 1); may rename. Raises NamespaceConflict."""
        ...

    async def list_namespaces(self, after_name: str, limit: int) -> list[NamespaceRecord]: ...

    async def delete_namespace(self, namespace_id: str) -> None: ...


class NexusEndpointStore(Protocol):
    """Nexus endpoints, which belong to the cluster."""

    async def create_nexus_endpoint(self, record: NexusEndpointRecord) -> None:
        """Stored with version 1. Raises EndpointExists."""
        ...

    async def get_nexus_endpoint(self, *, endpoint_id: str = "", name: str = "") -> NexusEndpointRecord | None: ...

    async def update_nexus_endpoint(self, record: NexusEndpointRecord) -> None:
        """Compare-and-set on `record.version` (stored as version + 1); may rename. Raises Endpoint{Conflict,Exists}."""
        ...

    async def list_nexus_endpoints(self, first_id: str, limit: int) -> list[NexusEndpointRecord]:
        """In the order of ids, from `first_id` on."""
        ...

    async def delete_nexus_endpoint(self, endpoint_id: str) -> bool:
        """False when there is none."""
        ...


class ClusterStore(Protocol):
    """Membership, range leases and the administrative queue."""

    async def heartbeat(self, *members: Member, limit: int = 0, since_ns: int = 0) -> list[Member]:
        """Write these rows, drop those that expired long ago; up to `limit` of the other live ones, by host id.

        Live are those that expire after `since_ns`, or after the newest heartbeat of those given where that is 0.
        """
        ...

    async def remove_member(self, host_id: str) -> None: ...

    async def list_members(self, now_ns: int, limit: int) -> list[Member]:
        """The live ones."""
        ...

    async def list_leases(self) -> list[ShardLease]:
        """All range leases; their number is bounded by configuration."""
        ...

    async def take_lease(self, lease: ShardLease, expected_range_id: int) -> None:
        """Write `lease` if the row's range_id is the expected one (0: no row). Raises LeaseLost."""
        ...

    async def enqueue(self, message: QueueMessage) -> None: ...

    async def read_queue(self, queue_name: str, after_id: int, limit: int) -> list[QueueMessage]: ...

    async def delete_message(self, message: QueueMessage) -> None: ...


class Store(
    ExecutionStore, TaskStore, TimerStore, QueryStore, VisibilityStore, NamespaceStore, NexusEndpointStore,
    ClusterStore, Protocol
):
    """Everything, as the shells hand it out."""

    outreach: Outreach | None
    """None, unless a function's shell sets it."""

    async def open(self) -> None:
        """Connect; raises SchemaMismatch, CannotOpen."""
        ...

    async def close(self) -> None:
        """Finish what was taken on, then let go."""
        ...

    async def migrate(self, *, contract: bool = False) -> list[str]:
        """Apply the migrations that are missing; return their names. Contract migrations only when asked for."""
        ...

    async def schema_status(self) -> SchemaStatus:
        """Compare the database with this release."""
        ...

    async def backup(self, target: str) -> None:
        """A consistent copy, while serving."""
        ...

    async def check(self, limit: int) -> list[Finding]:
        """Walk the invariants page by page; at most `limit` findings."""
        ...

    async def notes_set_aside(self, limit: int) -> list[tuple[QueueMessage, bool]]:
        """Notes of rows that were set aside (see whistlestop.storage.set_aside), and whether the row is still there."""
        ...

    async def ping(self) -> None:
        """One round trip."""
        ...
