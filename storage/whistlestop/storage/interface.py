"""The protocols of the store: what every adapter provides.

Each method is one transaction. Adapters raise only the errors of `storage.errors`. The store decides nothing: the
conditions of a write are passed with it. No read is unbounded: a method that can return many rows takes a `limit` and a
position to continue from. Any number of coroutines may call a store at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.storage.migrations import SchemaStatus
    from whistlestop.storage.notifications import Notifications
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


MAX_READ_S = 60.0
"""The time limit of a list or a count, in seconds, where the caller gives none."""


class ExecutionStore(Protocol):
    """Store runs, their history, and which run of a workflow id is current."""

    defers_cancellation: bool
    """Whether `commit` always runs to its end: a task that is cancelled in it is told at its next wait after it."""

    async def commit(self, transition: Transition) -> None:
        """Write the whole transition or nothing.

        Raise VersionConflict or CurrentConflict when a condition does not hold, TooLarge when a value exceeds the
        store's limits, and Unavailable when the database does not answer.
        """
        ...

    async def get_execution(self, key: ExecutionKey) -> StoredExecution | None:
        """Return the run as last committed, or None if it does not exist. Raise StorageError."""
        ...

    async def get_current(self, namespace_id: str, workflow_id: str) -> CurrentExecution | None:
        """Return the current run of the workflow id, open or closed; None when there is none. Raise StorageError."""
        ...

    async def read_history(
        self,
        namespace_id: str,
        branches: Sequence[BranchRange],
        first_event_id: int,
        next_event_id: int,
        limit: int,
        *,
        reverse: bool = False,
    ) -> list[HistoryBatch]:
        """Return up to `limit` batches that hold events `first_event_id <= id < next_event_id`, in order.

        With `reverse` the order is descending, starting at the end of the range. A batch at either edge may hold events
        outside the range: it is returned whole. The list is empty when no such event is stored. Raise StorageError.
        """
        ...

    async def branches_of(self, key: ExecutionKey) -> list[BranchRange]:
        """Return the ranges of the run's history: those shared with other branches, then its own open-ended one.

        Raise StorageError.
        """
        ...

    async def list_executions(
        self, after: ExecutionKey | None, limit: int, namespace_id: str = ""
    ) -> list[StoredExecution]:
        """Return up to `limit` runs after `after` in key order, of one namespace if given.

        Used by checks and administration. Raise StorageError.
        """
        ...

    async def delete_execution(self, key: ExecutionKey) -> None:
        """Delete the run with its visibility, timers, tasks, current row and the history that no other run shares.

        Nothing happens if it is gone. Raise StorageError.
        """
        ...


class TaskStore(Protocol):
    """Store the tasks of task queues, their settings and their pollers."""

    async def list_tasks(
        self, namespace_id: str, task_queue: str, task_type: int, after: tuple[int, int] | None, limit: int
    ) -> list[MatchingTask]:
        """Return up to `limit` tasks after `after` (None: from the first), ordered by (priority, task_id).

        Raise StorageError.
        """
        ...

    async def list_tasks_by_level(
        self, namespace_id: str, task_queue: str, task_type: int, after: int, per_level: int, levels: int
    ) -> list[MatchingTask]:
        """Return the first `per_level` tasks of each of the first `levels` levels (values of `priority`) above `after`.

        They are ordered by (priority, task_id). Raise StorageError.
        """
        ...

    async def count_tasks(self, queues: Sequence[tuple[str, str, int]], limit: int) -> list[int]:
        """Return the number of tasks in each queue (namespace_id, task_queue, task_type), counted up to `limit`.

        Raise StorageError.
        """
        ...

    async def put_tasks(self, tasks: Sequence[MatchingTask]) -> None:
        """Write the tasks, replacing those of equal keys. Raise TooLarge."""
        ...

    async def delete_tasks(self, keys: Sequence[TaskKey]) -> None:
        """Delete the tasks; keys without a task are ignored. Raise StorageError."""
        ...

    async def backlog(self, namespace_id: str, task_queue: str, task_type: int, limit: int) -> dict[int, Backlog]:
        """Return the backlog by priority, over all fairness keys; each count stops at `limit`.

        Priorities without tasks are left out. Raise StorageError.
        """
        ...

    async def list_backlogged_queues(
        self, after: tuple[str, str, int] | None, limit: int
    ) -> list[tuple[str, str, int]]:
        """Return up to `limit` queues (namespace_id, task_queue, task_type) that hold a task.

        They are in key order, after the key `after`. Raise StorageError.
        """
        ...

    async def get_task_queue(self, namespace_id: str, task_queue: str, task_type: int) -> TaskQueueRecord | None:
        """Return the settings of the queue, or None if none were written. Raise StorageError."""
        ...

    async def put_task_queue(self, record: TaskQueueRecord, expected_range_id: int) -> None:
        """Write the settings. Raise LeaseLost when the row's range id is not `expected_range_id` (0: no row)."""
        ...

    async def put_pollers(self, pollers: Sequence[PollerRecord]) -> None:
        """Write each poller, unless its stored row has a later `last_access_ns`.

        So a poll that was in flight does not undo the poller's shutdown. Raise StorageError.
        """
        ...

    async def get_poller(
        self, namespace_id: str, task_queue: str, task_type: int, identity: str
    ) -> PollerRecord | None:
        """Return the poller's row, even an expired one, or None. Raise StorageError."""
        ...

    async def list_pollers(
        self, namespace_id: str, task_queue: str, task_type: int, now_ns: int, limit: int, after: str = ""
    ) -> list[PollerRecord]:
        """Return up to `limit` pollers that have not expired, ordered by identity, after the identity `after`.

        Raise StorageError.
        """
        ...


class TimerStore(Protocol):
    """Store timer rows and transfer tasks, which are read by ranges of slots."""

    async def scan_timers(self, first_slot: int, next_slot: int, now_ns: int, limit: int) -> list[TimerTask]:
        """Return up to `limit` timer rows with `fire_at_ns <= now_ns`, earliest first. Raise StorageError."""
        ...

    async def has_expired_rows(self, timers_ns: int, transfer_tasks_ns: int) -> bool:
        """Return whether any slot has a timer due by `timers_ns` or a transfer task visible by `transfer_tasks_ns`.

        Raise StorageError.
        """
        ...

    async def next_timers(self, first_slot: int, next_slot: int, after_ns: int, limit: int) -> list[TimerTask]:
        """Return up to `limit` timer rows with `fire_at_ns > after_ns`, earliest first. Raise StorageError."""
        ...

    async def put_timer(self, timer: TimerTask) -> None:
        """Write the row, replacing the one of the same run and kind. Raise StorageError."""
        ...

    async def delete_timer(self, timer: TimerTask) -> None:
        """Delete this row, unless it was re-armed (has another `fire_at_ns`) or deleted since. Raise StorageError."""
        ...

    async def postpone_timer(self, timer: TimerTask, fire_at_ns: int) -> bool:
        """Move this row to another time. Return False when it was re-armed or deleted since. Raise StorageError."""
        ...

    async def scan_transfer_tasks(self, first_slot: int, next_slot: int, now_ns: int, limit: int) -> list[TransferTask]:
        """Return up to `limit` transfer tasks with `visible_at_ns <= now_ns`, oldest first. Raise StorageError."""
        ...

    async def delete_transfer_task(self, task: TransferTask) -> None:
        """Delete the transfer task; nothing happens if it is gone. Raise StorageError."""
        ...

    async def postpone_transfer_task(self, task: TransferTask, visible_at_ns: int, attempt: int) -> None:
        """Set when the transfer task is due next, and its attempt; nothing happens if it is gone.

        Raise StorageError.
        """
        ...


class QueryStore(Protocol):
    """Store queries and their answers: the asking and the answering call may run on different instances."""

    async def put_query(self, query: QueryRecord, task: MatchingTask | None) -> None:
        """Store the query and, for a direct one, the task that carries it to a worker (None: a buffered query).

        Raise StorageError.
        """
        ...

    async def get_query(self, query_id: str) -> QueryRecord | None:
        """Return the query, with its answer if there is one; None when it is gone. Raise StorageError."""
        ...

    async def list_buffered_queries(self, key: ExecutionKey, now_ns: int, limit: int) -> list[QueryRecord]:
        """Return up to `limit` of the run's buffered queries that are neither answered nor expired, oldest first.

        Raise StorageError.
        """
        ...

    async def answer_query(self, query_id: str, key: ExecutionKey, answer: bytes) -> bool:
        """Store the answer. Return False when the query is gone, already answered, or was asked of another run.

        Raise StorageError.
        """
        ...

    async def delete_query(self, query_id: str) -> None:
        """Delete the query and its answer; nothing happens if it is gone. Raise StorageError."""
        ...

    async def purge_queries(self, now_ns: int, limit: int) -> int:
        """Delete up to `limit` expired queries; return how many were deleted. Raise StorageError."""
        ...


class VisibilityStore(Protocol):
    """List and count runs. `commit` writes the rows, so the results are exact as of the last commit.

    A read that takes longer than `within_s` seconds is stopped and raises TimedOut; it is also stopped when its caller
    is cancelled.
    """

    async def list_visibility(
        self, namespace_id: str, query: Query, limit: int, after: bytes, within_s: float = MAX_READ_S
    ) -> tuple[list[VisibilityRow], bytes]:
        """Return a page of up to `limit` rows and the token of the next page.

        A full page always has a token, as with Temporal, though the next page may be empty. A page with a token may be
        shorter than `limit` when its memos are large. An empty token marks the last page. Raise
        whistlestop.storage.visibility.InvalidQuery.
        """
        ...

    async def count_visibility(self, namespace_id: str, query: Query, within_s: float = MAX_READ_S) -> int:
        """Return the number of runs that the query matches. Raise InvalidQuery or TimedOut."""
        ...

    async def count_visibility_groups(
        self, namespace_id: str, query: Query, limit: int, within_s: float = MAX_READ_S
    ) -> list[tuple[tuple[object, ...], int]]:
        """Return the group values and counts of a query with GROUP BY, at most `limit` groups. Raise StorageError."""
        ...


class NamespaceStore(Protocol):
    """Store namespaces."""

    async def create_namespace(self, record: NamespaceRecord) -> None:
        """Store a new namespace with version 1. Raise NamespaceExists."""
        ...

    async def get_namespace(self, *, name: str = "", namespace_id: str = "") -> NamespaceRecord | None:
        """Return the namespace of that name, or of that id if one is given; None when there is none.

        Raise StorageError.
        """
        ...

    async def update_namespace(self, record: NamespaceRecord) -> None:
        """Replace the record if `record.version` is still stored, as version + 1; the name may change.

        Raise NamespaceConflict when the version differs, the namespace is gone, or the name is taken.
        """
        ...

    async def list_namespaces(self, after_name: str, limit: int) -> list[NamespaceRecord]:
        """Return up to `limit` namespaces ordered by name, after `after_name`. Raise StorageError."""
        ...

    async def delete_namespace(self, namespace_id: str) -> None:
        """Delete the namespace's record, not its runs; nothing happens if it is gone. Raise StorageError."""
        ...


class NexusEndpointStore(Protocol):
    """Store Nexus endpoints, which belong to the whole cluster."""

    async def create_nexus_endpoint(self, record: NexusEndpointRecord) -> None:
        """Store a new endpoint with version 1. Raise EndpointExists."""
        ...

    async def get_nexus_endpoint(self, *, endpoint_id: str = "", name: str = "") -> NexusEndpointRecord | None:
        """Return the endpoint of that name, or of that id if one is given; None when there is none.

        Raise StorageError.
        """
        ...

    async def update_nexus_endpoint(self, record: NexusEndpointRecord) -> None:
        """Replace the record if `record.version` is still stored, as version + 1; the name may change.

        Raise EndpointConflict when the version differs or the endpoint is gone, EndpointExists when the name is taken.
        """
        ...

    async def list_nexus_endpoints(self, first_id: str, limit: int) -> list[NexusEndpointRecord]:
        """Return up to `limit` endpoints ordered by id, starting at `first_id`. Raise StorageError."""
        ...

    async def delete_nexus_endpoint(self, endpoint_id: str) -> bool:
        """Delete the endpoint. Return False when there is none. Raise StorageError."""
        ...


class ClusterStore(Protocol):
    """Store cluster membership, leases of slot ranges and the administrative queue."""

    async def heartbeat(self, *members: Member, limit: int = 0, since_ns: int = 0) -> list[Member]:
        """Write these rows, delete rows that expired long ago, and return up to `limit` other live members by host id.

        A member is live when it expires after `since_ns`, or, where that is 0, after the newest heartbeat of `members`.
        Raise StorageError.
        """
        ...

    async def remove_member(self, host_id: str) -> None:
        """Delete the member's row; nothing happens if it is gone. Raise StorageError."""
        ...

    async def list_members(self, now_ns: int, limit: int) -> list[Member]:
        """Return up to `limit` live members, ordered by host id. Raise StorageError."""
        ...

    async def list_leases(self) -> list[ShardLease]:
        """Return all leases; the configuration bounds their number. Raise StorageError."""
        ...

    async def take_lease(self, lease: ShardLease, expected_range_id: int) -> None:
        """Write `lease` if the row's range_id is `expected_range_id` (0: no row). Raise LeaseLost otherwise."""
        ...

    async def enqueue(self, message: QueueMessage) -> None:
        """Write the message, replacing one of the same id. Raise StorageError."""
        ...

    async def read_queue(self, queue_name: str, after_id: int, limit: int) -> list[QueueMessage]:
        """Return up to `limit` messages of the queue ordered by id, after `after_id`. Raise StorageError."""
        ...

    async def delete_message(self, message: QueueMessage) -> None:
        """Delete the message; nothing happens if it is gone. Raise StorageError."""
        ...


class Store(
    ExecutionStore,
    TaskStore,
    TimerStore,
    QueryStore,
    VisibilityStore,
    NamespaceStore,
    NexusEndpointStore,
    ClusterStore,
    Protocol,
):
    """The whole store, as the processes and functions use it."""

    notifications: Notifications | None
    """None, unless the function's entry point sets it."""

    async def open(self) -> None:
        """Connect. Raise SchemaMismatch or CannotOpen."""
        ...

    async def close(self) -> None:
        """Finish the writes that were accepted, then disconnect."""
        ...

    async def migrate(self, *, contract: bool = False) -> list[str]:
        """Apply the migrations that are missing and return their names; contract migrations only when asked for.

        Raise StorageError.
        """
        ...

    async def schema_status(self) -> SchemaStatus:
        """Compare the database's schema with this release. Raise StorageError."""
        ...

    async def backup(self, target: str) -> None:
        """Write a consistent copy to `target` while serving. Raise CannotOpen."""
        ...

    async def check(self, limit: int) -> list[Finding]:
        """Check the invariants page by page; return at most `limit` findings. Raise StorageError."""
        ...

    async def notes_set_aside(self, limit: int) -> list[tuple[QueueMessage, bool]]:
        """Return the notes of rows that were set aside, and whether each row is still there.

        See whistlestop.storage.set_aside. At most `limit` notes are returned.
        """
        ...

    async def ping(self) -> None:
        """Make one round trip to the database. Raise Unavailable when it does not answer."""
        ...
