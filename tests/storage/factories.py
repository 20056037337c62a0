"""Whole values for storage tests: each function gives a valid record, whatever the test does not name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from whistlestop.storage.records import (
    BranchRange,
    CurrentExecution,
    CurrentWrite,
    ExecutionKey,
    ExecutionWrite,
    HistoryBatch,
    MatchingTask,
    Member,
    NamespaceRecord,
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

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store

NAMESPACE = "11111111-1111-7111-8111-111111111111"
QUEUE = "orders"
WORKFLOW_QUEUE = 1
RUNNING, COMPLETED, TERMINATED, CONTINUED = 1, 2, 5, 6
SLOTS_ALL = (0, 16384)
START_NS = 1_700_000_000_000_000_000
FOREVER_NS = 2**62


def run_key(run: str = "run-1", workflow: str = "order-7", namespace: str = NAMESPACE) -> ExecutionKey:
    return ExecutionKey(namespace, workflow, run)


def current(key: ExecutionKey, status: int = RUNNING, **changes: Any) -> CurrentExecution:
    row = CurrentExecution(key.namespace_id, key.workflow_id, key.run_id, "request-1", status, START_NS)
    return replace(row, **changes)


def task(task_id: int, key: ExecutionKey | None = None, *, priority: int = 3, **changes: Any) -> MatchingTask:
    key = key or run_key()
    row = MatchingTask(
        TaskKey(key.namespace_id, QUEUE, WORKFLOW_QUEUE, priority, task_id), key.workflow_id, key.run_id, 2, 1, START_NS
    )
    return replace(row, **changes)


def timer(fire_at_ns: int, key: ExecutionKey | None = None, *, kind: str = "execution", slot: int = 5) -> TimerTask:
    return TimerTask(kind, slot, key or run_key(), fire_at_ns)


def transfer(task_id: int, key: ExecutionKey | None = None, **changes: Any) -> TransferTask:
    row = TransferTask(5, task_id, key or run_key(), "signal_external", b"to somebody", START_NS)
    return replace(row, **changes)


def visibility(key: ExecutionKey | None = None, **changes: Any) -> VisibilityRow:
    key = key or run_key()
    row = VisibilityRow(
        key=key, workflow_type="Order", task_queue=QUEUE, status=RUNNING, start_time_us=START_NS // 1000,
        execution_time_us=START_NS // 1000, close_time_us=None, execution_duration_ns=None, history_length=2,
        history_size_bytes=300, state_transition_count=1, parent_workflow_id=None, parent_run_id=None,
        root_workflow_id=key.workflow_id, root_run_id=key.run_id, search_attributes="{}", memo=b"",
    )  # fmt: skip
    return replace(row, **changes)


def batch(first: int, end: int) -> HistoryBatch:
    return HistoryBatch(first, end, f"events {first}..{end - 1}".encode())


def start(key: ExecutionKey | None = None, **changes: Any) -> ExecutionWrite:
    """The first commit of a run: two events, current, visible, no tasks."""
    key = key or run_key()
    write = ExecutionWrite(
        key=key, slot=5, expected_version=0, state=b"state 1", next_event_id=3, status=RUNNING, branch_id=key.run_id,
        history=(batch(1, 3),), visibility=visibility(key), current=CurrentWrite(current(key), None),
    )  # fmt: skip
    return replace(write, **changes)


def step(key: ExecutionKey | None = None, version: int = 1, **changes: Any) -> ExecutionWrite:
    """A later commit of a run: two more events, nothing else."""
    key = key or run_key()
    first = 2 * version + 1
    write = ExecutionWrite(
        key=key, slot=5, expected_version=version, state=f"state {version + 1}".encode(), next_event_id=first + 2,
        status=RUNNING, branch_id=key.run_id, history=(batch(first, first + 2),),
    )  # fmt: skip
    return replace(write, **changes)


def close(key: ExecutionKey | None = None, version: int = 1, status: int = COMPLETED, **changes: Any) -> ExecutionWrite:
    """The last commit of a run."""
    key = key or run_key()
    closed_us = START_NS // 1000 + 60_000_000
    write = step(
        key, version, status=status,
        visibility=visibility(key, status=status, close_time_us=closed_us, execution_duration_ns=60_000_000_000),
        current=CurrentWrite(current(key, status, close_time_ns=closed_us * 1000), key.run_id),
    )  # fmt: skip
    return replace(write, **changes)


def stored(write: ExecutionWrite) -> StoredExecution:
    """What `get_execution` is to give after `write`."""
    return StoredExecution(
        write.key, write.slot, write.expected_version + 1, write.state, write.data_encoding, write.next_event_id,
        write.status,
    )  # fmt: skip


def query(query_id: str = "query-1", key: ExecutionKey | None = None, **changes: Any) -> QueryRecord:
    return replace(QueryRecord(query_id, key or run_key(), b"state?", True, START_NS + 10), **changes)


def namespace(name: str = "default", **changes: Any) -> NamespaceRecord:
    return replace(NamespaceRecord(f"id of {name}", name, b"data", 0), **changes)


def member(host_id: str = "host-1", **changes: Any) -> Member:
    row = Member(host_id, "server", "127.0.0.1", 7233, START_NS, START_NS, START_NS + 30_000_000_000)
    return replace(row, **changes)


def lease(shard_id: int = 0, range_id: int = 1, **changes: Any) -> ShardLease:
    return replace(ShardLease(shard_id, 0, 4096, range_id, "host-1", START_NS + 10), **changes)


def queue_record(**changes: Any) -> TaskQueueRecord:
    return replace(TaskQueueRecord(NAMESPACE, QUEUE, WORKFLOW_QUEUE, 1, b"config", START_NS), **changes)


def poller(identity: str = "worker-1", **changes: Any) -> PollerRecord:
    row = PollerRecord(NAMESPACE, QUEUE, WORKFLOW_QUEUE, identity, START_NS, b"info", START_NS + 10)
    return replace(row, **changes)


def message(message_id: int, name: str = "deletions") -> QueueMessage:
    return QueueMessage(name, message_id, f"message {message_id}".encode())


def one_branch(key: ExecutionKey | None = None, end: int = 1_000_000) -> tuple[BranchRange, ...]:
    return (BranchRange((key or run_key()).run_id, 1, end),)


async def commit(store: Store, *writes: ExecutionWrite, done: tuple[TransferTask, ...] = ()) -> None:
    # By position: the upgrade tests run this with the sources of an older release as well.
    await store.commit(Transition(writes, done))


async def history(store: Store, key: ExecutionKey | None = None) -> list[HistoryBatch]:
    """The batches of a run that was never reset."""
    return await store.read_history(NAMESPACE, one_branch(key), 1, 1_000_000, 1000)


async def everything(store: Store) -> dict[str, object]:
    """All rows that a transition may touch, as far as the interface shows them."""
    executions = await store.list_executions(None, 1000)
    return {
        "executions": executions,
        "current": {
            workflow_id: await store.get_current(NAMESPACE, workflow_id)
            for workflow_id in sorted({execution.key.workflow_id for execution in executions})
        },
        "history": {run.key.run_id: await history(store, run.key) for run in executions},
        "tasks": await store.list_tasks(NAMESPACE, QUEUE, WORKFLOW_QUEUE, None, 1000),
        "timers": await store.scan_timers(*SLOTS_ALL, FOREVER_NS, 1000),
        "transfers": await store.scan_transfer_tasks(*SLOTS_ALL, FOREVER_NS, 1000),
    }
