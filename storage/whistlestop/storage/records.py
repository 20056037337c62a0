"""What the store keeps, as plain frozen records.

Units: `*_ns` are integer nanoseconds since the Unix epoch, `*_us` microseconds. Blobs are serialised protobuf
unless `data_encoding` says otherwise. Limits of the narrowest store (Aurora DSQL) hold for all: no value over 1 MiB;
adapters chunk larger states and history batches themselves.
"""

from __future__ import annotations

from dataclasses import field
from typing import NamedTuple

from whistlestop.common.fairness import priority_of
from whistlestop.common.records import record

SLOTS = 16384
"""Hash slots of executions. Fixed for ever: ranges of slots are what is leased and scanned, not shards."""


class ExecutionKey(NamedTuple):
    """One run. A tuple, for it is hashed and compared a dozen times in each transition."""

    namespace_id: str
    workflow_id: str
    run_id: str


@record
class HistoryBatch:
    """A serialised `temporal.api.history.v1.History` of consecutive events, written together."""

    first_event_id: int
    next_event_id: int
    data: bytes


@record
class BranchRange:
    """Events `first_event_id <= id < next_event_id` of a history stand under `branch_id` (a reset shares its base)."""

    branch_id: str
    first_event_id: int
    next_event_id: int


def own_branch(shared: list[BranchRange], branch_id: str) -> BranchRange:
    """The branch that a run writes, behind those that it shares."""
    return BranchRange(branch_id, shared[-1].next_event_id if shared else 1, 2**62)


class TaskKey(NamedTuple):
    """Where one matching task stands. Order within a queue is (priority, task_id)."""

    namespace_id: str
    task_queue: str
    task_type: int
    """Temporal's TaskQueueType: 1 workflow, 2 activity, 3 nexus."""
    priority: int
    """1 (first) to 5; 3 where nobody said. Of a task with a fairness key, a level: see whistlestop.common.fairness."""
    task_id: int


@record
class MatchingTask:
    """Something that a poller is to get. Validated by history when it is handed out, so stale rows are harmless."""

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
    """Of a Nexus task, what it asks; of any other with a fairness key, key and weight as a `Priority`."""
    sticky: bool = field(default=False, compare=False)
    """The queue is a worker's own. Only those know who are offered the fresh row: it is not stored."""


@record
class TimerTask:
    """The alarm of one execution (or of another owner): at or after `fire_at_ns`, let its owner look what is due."""

    kind: str
    """`execution`: the run's earliest timer. `retention`: delete the closed run. Others as owners define them."""
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
    """What lists and counts see of one run. `search_attributes` is a JSON object of all but the columns here."""

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
    """Which run holds a workflow id, open or closed."""

    namespace_id: str
    workflow_id: str
    run_id: str
    create_request_id: str
    status: int
    start_time_ns: int
    close_time_ns: int = 0


@record
class CurrentWrite:
    """Set the current run to `current`, if the row is as expected.

    `expected_run_id` None: there must be no row. Otherwise the row must hold that run id (the status of the row is the
    one the last commit of that run wrote, so a run that is believed closed is guarded by its execution's version or by
    `expected_status`).
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
    """All that one commit writes of one run."""

    key: ExecutionKey
    slot: int
    expected_version: int
    """The `db_record_version` that was read; 0: the run must not exist. It is written as `expected_version + 1`."""
    state: bytes
    next_event_id: int
    status: int
    data_encoding: str = "proto3"
    branch_id: str = ""
    """Where `history` goes (the run's own branch)."""
    history: tuple[HistoryBatch, ...] = ()
    tasks_added: tuple[MatchingTask, ...] = ()
    tasks_removed: tuple[TaskKey, ...] = ()
    timer: TimerTask | None = None
    """Replaces the run's timer row of that kind (there is at most one of each kind)."""
    timer_removed: bool = False
    """Delete the run's `execution` timer row."""
    retention_timer: TimerTask | None = None
    transfers_added: tuple[TransferTask, ...] = ()
    visibility: VisibilityRow | None = None
    current: CurrentWrite | None = None
    forked_from: tuple[BranchRange, ...] = ()
    """On creation by reset: the ranges shared with other branches, so that deleting those keeps what is shared."""


@record
class Transition:
    """One atomic commit: every write lands, or none."""

    writes: tuple[ExecutionWrite, ...]
    transfers_done: tuple[TransferTask, ...] = ()
    """Outbox rows that this very commit makes done."""
    answers: tuple[tuple[str, ExecutionKey, bytes], ...] = ()
    """Query ids, the run that was asked, and what its workflow task answered (serialised `WorkflowQueryResult`s). An id
    that is gone, answered already, or of another run is passed over."""


@record
class QueryRecord:
    """A query and, later, its answer; kept only as long as somebody may ask for it."""

    query_id: str
    key: ExecutionKey
    request: bytes
    """Serialised `temporal.api.query.v1.WorkflowQuery`."""
    buffered: bool
    """True: to be attached to the run's next workflow task; False: a task of its own."""
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
    """Compare-and-set guard; 0 for one that is not stored yet."""
    is_global: bool = False


@record
class NexusEndpointRecord:
    """Where Nexus operations of an endpoint go. `data` is a serialised `whistlestop.nexus.v1.NexusEndpointData`."""

    endpoint_id: str
    name: str
    data: bytes
    version: int
    """Compare-and-set guard; 0 for one that is not stored yet."""


@record
class Member:
    """A live server process or function instance."""

    host_id: str
    role: str
    """frontend, history, matching, server."""
    rpc_address: str
    rpc_port: int
    session_start_ns: int
    last_heartbeat_ns: int
    expires_ns: int


@record
class ShardLease:
    """A range of slots leased to one scanner. A newer `range_id` fences off the older holder."""

    shard_id: int
    first_slot: int
    next_slot: int
    range_id: int
    owner: str
    expires_ns: int


@record
class TaskQueueRecord:
    """Stored settings of one task queue (rate limits and the like), by compare-and-set on `range_id`."""

    namespace_id: str
    task_queue: str
    task_type: int
    range_id: int
    data: bytes
    updated_ns: int


EXPIRED_POLLERS_KEPT_NS = 60_000_000_000
"""A poller's goodbye is a row that expires at once. It stays so long after that, so that no older poll undoes it."""


@record
class PollerRecord:
    """Somebody who polls a queue, as last seen; written at most every few seconds per poller."""

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
    """How many tasks stand in a queue; `count` stops at the limit that was asked for."""

    count: int
    oldest_created_ns: int | None


def add_backlog(found: dict[int, Backlog], level: int, count: int, oldest_ns: int | None, limit: int) -> None:
    """Count what stands at a level, and at those of other keys, with the rest of its priority."""
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
    """Something `db check` holds to be wrong."""

    table: str
    key: str
    problem: str
