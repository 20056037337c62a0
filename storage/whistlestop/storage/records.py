"""The records of the store, as plain frozen values.

Units: `*_ns` are integer nanoseconds since the Unix epoch, `*_us` microseconds. Blobs are serialised protobuf unless
`data_encoding` says otherwise. The limits of the narrowest database (Aurora DSQL) apply to all: no value over 1 MiB.
Adapters split larger states and history batches into chunks themselves.
"""

from __future__ import annotations

import zlib
from dataclasses import field
from typing import NamedTuple

from whistlestop.common.fairness import priority_of
from whistlestop.common.records import record

SLOTS = 16384
"""The number of hash slots of executions. It never changes: ranges of slots are leased and scanned."""


def slot_of(namespace_id: str, workflow_id: str) -> int:
    """Return the hash slot of an execution, 0 <= slot < SLOTS: the same for all runs of a workflow id."""
    return zlib.crc32(f"{namespace_id}/{workflow_id}".encode()) % SLOTS


class ExecutionKey(NamedTuple):
    """The key of one run. It is a tuple because each transition hashes and compares it a dozen times."""

    namespace_id: str
    workflow_id: str
    run_id: str


@record
class HistoryBatch:
    """A serialised `temporal.api.history.v1.History` of consecutive events that were written together."""

    first_event_id: int
    next_event_id: int
    data: bytes


@record
class BranchRange:
    """A range of events, `first_event_id <= id < next_event_id`, stored under `branch_id`; a reset shares its base."""

    branch_id: str
    first_event_id: int
    next_event_id: int


def own_branch(shared: list[BranchRange], branch_id: str) -> BranchRange:
    """Return the open-ended range that the run itself writes, after the ranges that it shares."""
    return BranchRange(branch_id, shared[-1].next_event_id if shared else 1, 2**62)


class TaskKey(NamedTuple):
    """The key of one matching task. Tasks of a queue are ordered by (priority, task_id)."""

    namespace_id: str
    task_queue: str
    task_type: int
    """Temporal's TaskQueueType: 1 workflow, 2 activity, 3 nexus."""
    priority: int
    """1 (first) to 5; 3 by default. For a task with a fairness key, a level: see whistlestop.common.fairness."""
    task_id: int


@record
class MatchingTask:
    """A task for a poller. History validates it when it is handed out, so a stale row is harmless."""

    key: TaskKey
    workflow_id: str
    run_id: str
    scheduled_event_id: int
    stamp: int
    """Attempt or version of what was scheduled; history drops the task when it does not match."""
    created_ns: int
    query_id: str = ""
    """Set for a direct query: the row of `queries` to answer."""
    data: bytes = b""
    """For a Nexus task, its request; for any other with a fairness key, key and weight as a `Priority`."""
    sticky: bool = field(default=False, compare=False)
    """Whether the queue is a worker's sticky queue. It is not stored: only the process that adds the task knows it."""


@record
class TimerTask:
    """A timer row: at or after `fire_at_ns`, its owner (an execution or another) checks which deadlines have passed."""

    kind: str
    """`execution`: the run's earliest deadline. `retention`: delete the closed run. Owners may define others."""
    slot: int
    key: ExecutionKey
    fire_at_ns: int
    data: bytes = b""


@record
class TransferTask:
    """An effect on another execution, delivered at least once after the commit that wrote it."""

    slot: int
    task_id: int
    key: ExecutionKey
    """The run that wrote it."""
    kind: str
    data: bytes
    visible_at_ns: int
    attempt: int = 0


@record
class VisibilityRow:
    """What lists and counts see of one run. `search_attributes` is a JSON object of those without a column here."""

    key: ExecutionKey
    workflow_type: str
    task_queue: str
    status: int
    start_time_us: int
    execution_time_us: int
    close_time_us: int | None
    execution_duration_ns: int | None
    history_length: int
    history_size_bytes: int
    state_transition_count: int
    parent_workflow_id: str | None
    parent_run_id: str | None
    root_workflow_id: str
    root_run_id: str
    search_attributes: str
    memo: bytes
    """Serialised `temporal.api.common.v1.Memo`."""


@record
class CurrentExecution:
    """Which run, open or closed, is the current one of a workflow id."""

    namespace_id: str
    workflow_id: str
    run_id: str
    create_request_id: str
    status: int
    start_time_ns: int
    close_time_ns: int = 0


@record
class CurrentWrite:
    """Make `current` the current run, if the stored row is as expected.

    `expected_run_id` None: there must be no row. Otherwise the row must hold that run id. The row's status is the one
    that the last commit of that run wrote, so a writer that believes the run closed is guarded by its execution's
    version or by `expected_status`.
    """

    current: CurrentExecution
    expected_run_id: str | None
    expected_status: int | None = None


@record
class StoredExecution:
    """One run's mutable state as it was last committed."""

    key: ExecutionKey
    slot: int
    db_record_version: int
    state: bytes
    data_encoding: str
    next_event_id: int
    status: int


@record
class ExecutionWrite:
    """Everything that one commit writes for one run."""

    key: ExecutionKey
    slot: int
    expected_version: int
    """The `db_record_version` that was read; 0: the run must not exist. It is written as `expected_version + 1`."""
    state: bytes
    next_event_id: int
    status: int
    data_encoding: str = "proto3"
    branch_id: str = ""
    """The branch that `history` is appended to (the run's own)."""
    history: tuple[HistoryBatch, ...] = ()
    tasks_added: tuple[MatchingTask, ...] = ()
    tasks_removed: tuple[TaskKey, ...] = ()
    timer: TimerTask | None = None
    """Replaces the run's timer row of the same kind (there is at most one of each kind)."""
    timer_removed: bool = False
    """Delete the run's `execution` timer row."""
    retention_timer: TimerTask | None = None
    transfer_tasks_added: tuple[TransferTask, ...] = ()
    visibility: VisibilityRow | None = None
    current: CurrentWrite | None = None
    forked_from: tuple[BranchRange, ...] = ()
    """For a run created by reset: the ranges shared with other branches, so that deleting those keeps them."""


@record
class Transition:
    """One atomic commit: all of its writes are stored, or none."""

    writes: tuple[ExecutionWrite, ...]
    transfer_tasks_done: tuple[TransferTask, ...] = ()
    """Transfer tasks that this commit completes; their rows are deleted."""
    answers: tuple[tuple[str, ExecutionKey, bytes], ...] = ()
    """Query ids, the run that was asked, and the answer of its workflow task (a serialised `WorkflowQueryResult`). A
    query that is gone, already answered, or of another run is skipped."""


@record
class QueryRecord:
    """A query and, later, its answer; kept only as long as a caller may still ask for it."""

    query_id: str
    key: ExecutionKey
    request: bytes
    """Serialised `temporal.api.query.v1.WorkflowQuery`."""
    buffered: bool
    """True: it is attached to the run's next workflow task. False: it has a task of its own."""
    expires_ns: int
    answer: bytes | None = None
    """Serialised `temporal.api.query.v1.WorkflowQueryResult`."""


@record
class NamespaceRecord:
    """A namespace. `data` is a serialised `whistlestop.storage` NamespaceData message (see namespace.proto)."""

    namespace_id: str
    name: str
    data: bytes
    version: int
    """The version to compare when it is written; 0 for a record that is not stored yet."""
    is_global: bool = False


@record
class NexusEndpointRecord:
    """The target of a Nexus endpoint. `data` is a serialised `whistlestop.nexus.v1.NexusEndpointData`."""

    endpoint_id: str
    name: str
    data: bytes
    version: int
    """The version to compare when it is written; 0 for a record that is not stored yet."""


@record
class Member:
    """A live server process or function instance."""

    host_id: str
    role: str
    """One of frontend, history, matching, server."""
    rpc_address: str
    rpc_port: int
    session_start_ns: int
    last_heartbeat_ns: int
    expires_ns: int


@record
class ShardLease:
    """A lease of a range of slots to one scanner. A newer `range_id` fences off the previous holder."""

    shard_id: int
    first_slot: int
    next_slot: int
    range_id: int
    owner: str
    expires_ns: int


@record
class TaskQueueRecord:
    """The stored settings of one task queue (rate limits and the like), written by compare-and-set on `range_id`."""

    namespace_id: str
    task_queue: str
    task_type: int
    range_id: int
    data: bytes
    updated_ns: int


EXPIRED_POLLERS_KEPT_NS = 60_000_000_000
"""How long an expired poller row is kept. A shutdown writes a row that expires at once; while it is kept, a poll
that began earlier can't undo it."""


@record
class PollerRecord:
    """A poller of a queue, as last seen; each is written at most every few seconds."""

    namespace_id: str
    task_queue: str
    task_type: int
    identity: str
    last_access_ns: int
    data: bytes
    """Serialised `temporal.api.taskqueue.v1.PollerInfo`."""
    expires_ns: int


@record
class Backlog:
    """The size of a queue's backlog; `count` stops at the limit of the read."""

    count: int
    oldest_created_ns: int | None


def add_backlog(found: dict[int, Backlog], level: int, count: int, oldest_ns: int | None, limit: int) -> None:
    """Add the tasks of one level to `found`, under the level's priority and with the counts of its other levels.

    `oldest_ns` is the oldest task's time (since the Unix epoch; None: unknown), and `limit` bounds the count.
    """
    if not count:
        return
    priority = priority_of(level)
    other = found.get(priority, Backlog(0, None))
    oldest = [each for each in (oldest_ns, other.oldest_created_ns) if each is not None]
    found[priority] = Backlog(min(count + other.count, limit), min(oldest, default=None))


@record
class QueueMessage:
    """A message of the general queue: slow administrative work, done at least once and in order."""

    queue_name: str
    message_id: int
    data: bytes


@record
class Finding:
    """A violated invariant that `db check` found."""

    table: str
    key: str
    problem: str
