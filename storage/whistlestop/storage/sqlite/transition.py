"""Write one transition inside the transaction of a group.

All conditions are checked before the first write, against the rows as the transition finds them; then the writes are
applied in order. For a single write, the compare-and-set of its UPDATE is itself the check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.storage.errors import CurrentConflict, StorageError, VersionConflict
from whistlestop.storage.notifications import notification_queue_keys
from whistlestop.storage.records import CurrentExecution

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from whistlestop.storage.records import (
        CurrentWrite,
        ExecutionKey,
        ExecutionWrite,
        MatchingTask,
        TimerTask,
        Transition,
        VisibilityRow,
    )

SELECT_CURRENT = (
    "SELECT namespace_id, workflow_id, run_id, create_request_id, status, start_time_ns, close_time_ns"
    " FROM current_executions WHERE namespace_id = ? AND workflow_id = ?"
)
_SELECT_VERSION = "SELECT db_record_version FROM executions WHERE namespace_id = ? AND workflow_id = ? AND run_id = ?"
_INSERT_EXECUTION = (
    "INSERT INTO executions (namespace_id, workflow_id, run_id, shard_id, db_record_version, next_event_id, status,"
    " branch_id, data_encoding, data) VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_UPDATE_EXECUTION = (
    "UPDATE executions SET db_record_version = ?, next_event_id = ?, status = ?, data_encoding = ?, data = ?"
    " WHERE namespace_id = ? AND workflow_id = ? AND run_id = ? AND db_record_version = ?"
)
_PUT_CURRENT = (
    "INSERT OR REPLACE INTO current_executions (namespace_id, workflow_id, run_id, create_request_id, status,"
    " start_time_ns, close_time_ns) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_NODE = "INSERT INTO history_node (namespace_id, branch_id, node_id, next_event_id, data) VALUES (?, ?, ?, ?, ?)"
_INSERT_FORK = (
    "INSERT INTO forks (namespace_id, branch_id, run_id, first_event_id, next_event_id) VALUES (?, ?, ?, ?, ?)"
)
# Another process may have drawn the same id: its row must stay, and this commit must fail (and be decided again).
INSERT_TASK = (
    "INSERT INTO tasks (namespace_id, task_queue, task_type, priority, task_id, workflow_id, run_id,"
    " scheduled_event_id, stamp, created_ns, query_id, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
PUT_TASK = INSERT_TASK.replace("INSERT", "INSERT OR REPLACE", 1)
DELETE_TASK = (
    "DELETE FROM tasks WHERE namespace_id = ? AND task_queue = ? AND task_type = ? AND priority = ? AND task_id = ?"
)
PUT_TIMER = (
    "INSERT INTO timer_tasks (namespace_id, run_id, workflow_id, kind, fire_at_ns, shard_id, data)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (namespace_id, run_id, workflow_id, kind)"
    " DO UPDATE SET fire_at_ns = excluded.fire_at_ns, shard_id = excluded.shard_id, data = excluded.data"
)
_DELETE_TIMER = (
    "DELETE FROM timer_tasks WHERE namespace_id = ? AND run_id = ? AND workflow_id = ? AND kind = 'execution'"
)
_INSERT_TRANSFER_TASK = (
    "INSERT INTO transfer_tasks (shard_id, task_id, namespace_id, workflow_id, run_id, kind, visible_at_ns,"
    " attempt, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT_NOTIFICATION_QUEUES = (
    "SELECT identity FROM task_queue_pollers WHERE namespace_id = ? AND task_queue = ? AND task_type = ?"
    " AND expires_ns > ?"
)
ANSWER_QUERY = (
    "UPDATE queries SET answer = ? WHERE query_id = ? AND namespace_id = ? AND workflow_id = ? AND run_id = ?"
    " AND answer IS NULL"
)
DELETE_TRANSFER_TASK = "DELETE FROM transfer_tasks WHERE shard_id = ? AND task_id = ?"

VISIBILITY_COLUMNS = (
    "namespace_id", "workflow_id", "run_id", "workflow_type_name", "task_queue", "status", "start_time",
    "execution_time", "close_time", "execution_duration", "history_length", "history_size_bytes",
    "state_transition_count", "parent_workflow_id", "parent_run_id", "root_workflow_id", "root_run_id",
    "search_attributes", "memo",
)  # fmt: skip
_PUT_VISIBILITY = (
    f"INSERT INTO executions_visibility ({', '.join(VISIBILITY_COLUMNS)})"
    f" VALUES ({', '.join('?' * len(VISIBILITY_COLUMNS))}) ON CONFLICT (namespace_id, run_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in VISIBILITY_COLUMNS[3:])
)


def apply_transition(cursor: sqlite3.Cursor, transition: Transition) -> None:
    """Write the whole transition, or raise VersionConflict or CurrentConflict with nothing written.

    Raise StorageError for a transition that writes a run twice.
    """
    writes = transition.writes
    alone = len(writes) == 1
    if not alone and len({write.key for write in writes}) != len(writes):
        raise StorageError("a transition must not write the same run twice")
    for write in writes:
        if not alone:
            _check_version(cursor, write.key, write.expected_version)
        if write.current is not None:
            if alone and write.expected_version:
                # A newer version is the cause; a changed current row would only be its consequence.
                _check_version(cursor, write.key, write.expected_version)
            _check_current(cursor, write.current)
    for write in writes:
        _put(cursor, write)
    for transfer_task in transition.transfer_tasks_done:
        cursor.execute(DELETE_TRANSFER_TASK, (transfer_task.slot, transfer_task.task_id))
    for query_id, key, answer in transition.answers:
        cursor.execute(ANSWER_QUERY, (answer, query_id, key.namespace_id, key.workflow_id, key.run_id))


def notification_queues(cursor: sqlite3.Cursor, tasks: Sequence[MatchingTask]) -> list[str]:
    """Return the notification queues that wait for these tasks, as of the tasks' creation."""
    found: set[str] = set()
    for key in notification_queue_keys(tasks):
        rows = cursor.execute(_SELECT_NOTIFICATION_QUEUES, (*key, max(task.created_ns for task in tasks)))
        found.update(name for (name,) in rows)
    return sorted(found)


def _check_version(cursor: sqlite3.Cursor, key: ExecutionKey, expected: int) -> None:
    row = cursor.execute(_SELECT_VERSION, (key.namespace_id, key.workflow_id, key.run_id)).fetchone()
    if (row[0] if row else 0) != expected:
        raise VersionConflict(key)


def _check_current(cursor: sqlite3.Cursor, write: CurrentWrite) -> None:
    current = write.current
    row = cursor.execute(SELECT_CURRENT, (current.namespace_id, current.workflow_id)).fetchone()
    if row is None:
        if write.expected_run_id is not None:
            raise CurrentConflict(None)
        return
    moved = row[2] != write.expected_run_id
    if moved or (write.expected_status is not None and row[4] != write.expected_status):
        raise CurrentConflict(CurrentExecution(*row))


def _put(cursor: sqlite3.Cursor, write: ExecutionWrite) -> None:
    key = write.key
    namespace_id, run_id = key.namespace_id, key.run_id
    branch_id = write.branch_id or run_id
    if write.expected_version:
        cursor.execute(
            _UPDATE_EXECUTION,
            (
                write.expected_version + 1, write.next_event_id, write.status, write.data_encoding, write.state,
                namespace_id, key.workflow_id, run_id, write.expected_version,
            ),
        )  # fmt: skip
    else:
        cursor.execute(
            _INSERT_EXECUTION,
            (
                namespace_id, key.workflow_id, run_id, write.slot, write.next_event_id, write.status, branch_id,
                write.data_encoding, write.state,
            ),
        )  # fmt: skip
    if cursor.rowcount != 1:
        raise VersionConflict(key)
    for batch in write.history:
        cursor.execute(_INSERT_NODE, (namespace_id, branch_id, batch.first_event_id, batch.next_event_id, batch.data))
    for task_key in write.tasks_removed:
        cursor.execute(
            DELETE_TASK,
            (task_key.namespace_id, task_key.task_queue, task_key.task_type, task_key.priority, task_key.task_id),
        )
    if write.tasks_added:
        cursor.executemany(INSERT_TASK, map(task_row, write.tasks_added))
    if write.timer is not None:
        cursor.execute(PUT_TIMER, timer_row(write.timer))
    elif write.timer_removed:
        cursor.execute(_DELETE_TIMER, (namespace_id, run_id, key.workflow_id))
    if write.current is not None:
        _put_current(cursor, write.current.current)
    if write.visibility is not None:
        cursor.execute(_PUT_VISIBILITY, visibility_row(write.visibility))
    if write.retention_timer is not None or write.transfer_tasks_added or write.forked_from:
        _put_rare(cursor, write)


def _put_current(cursor: sqlite3.Cursor, row: CurrentExecution) -> None:
    cursor.execute(
        _PUT_CURRENT,
        (
            row.namespace_id, row.workflow_id, row.run_id, row.create_request_id, row.status, row.start_time_ns,
            row.close_time_ns,
        ),
    )  # fmt: skip


def _put_rare(cursor: sqlite3.Cursor, write: ExecutionWrite) -> None:
    if write.retention_timer is not None:
        cursor.execute(PUT_TIMER, timer_row(write.retention_timer))
    for transfer_task in write.transfer_tasks_added:
        source = transfer_task.key
        cursor.execute(
            _INSERT_TRANSFER_TASK,
            (
                transfer_task.slot, transfer_task.task_id, source.namespace_id, source.workflow_id, source.run_id,
                transfer_task.kind, transfer_task.visible_at_ns, transfer_task.attempt, transfer_task.data,
            ),
        )  # fmt: skip
    for fork in write.forked_from:
        cursor.execute(
            _INSERT_FORK,
            (write.key.namespace_id, fork.branch_id, write.key.run_id, fork.first_event_id, fork.next_event_id),
        )


def task_row(task: MatchingTask) -> tuple[object, ...]:
    """Return the values for INSERT_TASK."""
    key = task.key
    return (
        key.namespace_id, key.task_queue, key.task_type, key.priority, key.task_id, task.workflow_id, task.run_id,
        task.scheduled_event_id, task.stamp, task.created_ns, task.query_id, task.data,
    )  # fmt: skip


def timer_row(timer: TimerTask) -> tuple[object, ...]:
    """Return the values for PUT_TIMER."""
    key = timer.key
    return (
        key.namespace_id, key.run_id, key.workflow_id, timer.kind, timer.fire_at_ns, timer.slot, timer.data,
    )  # fmt: skip


def visibility_row(row: VisibilityRow) -> tuple[object, ...]:
    """Return the values in the order of VISIBILITY_COLUMNS."""
    key = row.key
    return (
        key.namespace_id, key.workflow_id, key.run_id, row.workflow_type, row.task_queue, row.status,
        row.start_time_us, row.execution_time_us, row.close_time_us, row.execution_duration_ns, row.history_length,
        row.history_size_bytes, row.state_transition_count, row.parent_workflow_id, row.parent_run_id,
        row.root_workflow_id, row.root_run_id, row.search_attributes, row.memo,
    )  # fmt: skip
