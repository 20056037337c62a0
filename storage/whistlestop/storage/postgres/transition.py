"""Write one transition as one statement.

Every write depends on the common table expression `ok`, which returns its one row only if all conditions hold. It has
three shapes:

step     one write, no current row: `ok` is the compare-and-set itself start    a new run that expects no current row:
`ok` is the insert of the current row general  anything else: rows are locked and read, and `ok` compares them

Where a row must not exist, the general shape relies on the primary key: if another writer was faster, the whole
statement fails with a unique violation, and `conflict_of` tells which condition that was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.storage.errors import CurrentConflict, StorageError, VersionConflict
from whistlestop.storage.notifications import notification_queue_keys, tasks_of, topics_of
from whistlestop.storage.postgres.base import memo_in_chunks, split
from whistlestop.storage.postgres.connection import CHUNK_BYTES
from whistlestop.storage.postgres.notify import CHANNEL, digest, payloads
from whistlestop.storage.postgres.statement import Statement
from whistlestop.storage.records import CurrentExecution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.storage.notifications import Notifications
    from whistlestop.storage.records import (
        CurrentWrite,
        ExecutionKey,
        ExecutionWrite,
        MatchingTask,
        TimerTask,
        TransferTask,
        Transition,
        VisibilityRow,
    )

_OK = "EXISTS (SELECT 1 FROM ok)"
# Functions have no port. The row of a server that died counts until it expires, which costs a needless notification.
_SERVERS = (
    "EXISTS (SELECT 1 FROM cluster_membership WHERE rpc_port > 0"
    " AND expires_ns > CAST(extract(epoch FROM clock_timestamp()) * 1000000000 AS BIGINT))"
)
_EXECUTION_COLUMNS = (
    "namespace_id, workflow_id, run_id, shard_id, db_record_version, next_event_id, status, branch_id, data_encoding,"
    " parts, data"
)
_CURRENT_COLUMNS = "namespace_id, workflow_id, run_id, create_request_id, status, start_time_ns, close_time_ns"
_CURRENT_TYPES = ("text", "text", "text", "text", "bigint", "bigint", "bigint")
_SET_CURRENT = (
    "ON CONFLICT (namespace_id, workflow_id) DO UPDATE SET run_id = excluded.run_id,"
    " create_request_id = excluded.create_request_id, status = excluded.status,"
    " start_time_ns = excluded.start_time_ns, close_time_ns = excluded.close_time_ns"
)
_NODE = "history_node (namespace_id, branch_id, node_id, next_event_id, parts, data)"
_NODE_TYPES = ("text", "text", "bigint", "bigint", "bigint", "bytea")
_FORK = "forks (namespace_id, branch_id, run_id, first_event_id, next_event_id)"
_FORK_TYPES = ("text", "text", "text", "bigint", "bigint")
TASK = (
    "tasks (namespace_id, task_queue, task_type, priority, task_id, workflow_id, run_id, scheduled_event_id, stamp,"
    " created_ns, query_id, data)"
)
TASK_TYPES = ("text", "text", *["bigint"] * 3, "text", "text", *["bigint"] * 3, "text", "bytea")
SET_TASK = (
    "ON CONFLICT (namespace_id, task_queue, task_type, priority, task_id) DO UPDATE SET"
    " workflow_id = excluded.workflow_id, run_id = excluded.run_id, scheduled_event_id = excluded.scheduled_event_id,"
    " stamp = excluded.stamp, created_ns = excluded.created_ns, query_id = excluded.query_id, data = excluded.data"
)
TIMER = "timer_tasks (namespace_id, run_id, workflow_id, kind, fire_at_ns, shard_id, data)"
TIMER_TYPES = ("text", "text", "text", "text", "bigint", "bigint", "bytea")
SET_TIMER = (
    "ON CONFLICT (namespace_id, run_id, workflow_id, kind) DO UPDATE SET fire_at_ns = excluded.fire_at_ns,"
    " shard_id = excluded.shard_id, data = excluded.data"
)
_TRANSFER_TASK = (
    "transfer_tasks (shard_id, task_id, namespace_id, workflow_id, run_id, kind, visible_at_ns, attempt, parts, data)"
)
_TRANSFER_TASK_TYPES = ("bigint", "bigint", "text", "text", "text", "text", "bigint", "bigint", "bigint", "bytea")
CHUNK = "chunks (kind, owner, part, data)"
CHUNK_TYPES = ("text", "text", "bigint", "bytea")
SET_CHUNK = "ON CONFLICT (kind, owner, part) DO UPDATE SET data = excluded.data"

VISIBILITY_COLUMNS = (
    "namespace_id", "workflow_id", "run_id", "workflow_type_name", "task_queue", "status", "start_time",
    "execution_time", "close_time", "execution_duration", "history_length", "history_size_bytes",
    "state_transition_count", "parent_workflow_id", "parent_run_id", "root_workflow_id", "root_run_id",
    "search_attributes", "memo",
)  # fmt: skip
_VISIBILITY = f"executions_visibility ({', '.join(VISIBILITY_COLUMNS)})"
_VISIBILITY_TYPES = (*["text"] * 5, *["bigint"] * 8, *["text"] * 5, "bytea")
_SET_VISIBILITY = "ON CONFLICT (namespace_id, run_id) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in VISIBILITY_COLUMNS[3:]
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that is ready to be sent, and how to read the one row that it returns."""

    sql: bytes
    parameters: list[Any]
    transition: Transition
    locked: bool
    """Whether the row holds, after the verdict, what was found of each execution and current row."""
    notifies_workers: bool = False
    """Whether the row ends with the names of notification queues."""

    def verdict(self, row: Sequence[Any]) -> VersionConflict | CurrentConflict | None:
        """Return None when everything was written; otherwise the conflict of the condition that failed.

        Raise StorageError when nothing was written although all conditions held, which would be a bug.
        """
        if row[0]:
            return None
        writes = self.transition.writes
        if not self.locked:
            # A start failed: the caller reads which run is current.
            return CurrentConflict(None) if writes[0].current else VersionConflict(writes[0].key)
        found = iter(row[1:])
        for write in writes:
            if next(found) != write.expected_version:
                return VersionConflict(write.key)
            if write.current is not None:
                current = _found_current(write.current, next(found))
                if not _as_expected(write.current, current):
                    return CurrentConflict(current)
        raise StorageError("a transition was refused though its conditions held")


def prepare(transition: Transition, notifications: Notifications | None = None) -> Prepared:
    """Return the statement of a transition. Raise StorageError when it writes a run twice."""
    writes = transition.writes
    statement = Statement()
    chunks: list[tuple[str, str, int, bytes]] = []
    select = f"SELECT {_OK}"
    locked = False
    if not writes:
        statement.expression("ok", "SELECT 1")
    elif len(writes) == 1 and writes[0].current is None:
        _execution(statement, "ok", writes[0], chunks, guarded=False)
    elif len(writes) == 1 and writes[0].expected_version == 0 and _expects_none(writes[0].current):
        _start(statement, writes[0], chunks)
    else:
        if len({write.key for write in writes}) != len(writes):
            raise StorageError("a transition must not write the same run twice")
        select += _general(statement, writes, chunks)
        locked = True
    for n, write in enumerate(writes):
        _belongings(statement, n, write, chunks)
    _delete_transfer_tasks(statement, transition.transfer_tasks_done)
    _answers(statement, transition.answers)
    if chunks:
        statement.insert("chunk", CHUNK, CHUNK_TYPES, chunks, SET_CHUNK)
    if notifications is None:
        return Prepared(statement.text(select), statement.parameters, transition, locked)
    tasks = tasks_of(transition)
    select += notify(statement, notifications, tasks, topics_of(transition))
    notifies_workers = notifications.notify_workers is not None and bool(tasks)
    return Prepared(statement.text(select), statement.parameters, transition, locked, notifies_workers)


def notify(
    statement: Statement, notifications: Notifications, tasks: Sequence[MatchingTask], topics: Sequence[str]
) -> str:
    """Return what else to select from `ok`: a notification of servers, and last the tasks' notification queues."""
    select = ""
    if notifications.sender and topics:
        # What does not fit into one payload is found by the servers' periodic checks.
        payload = payloads(notifications.sender, dict.fromkeys(map(digest, topics)))[0]
        channel, text = statement.add(CHANNEL, payload).split(", ")
        select += f", (SELECT pg_notify({channel}, {text}) FROM ok WHERE {_SERVERS})"
    if tasks and notifications.notify_workers is not None:
        places = ", ".join(f"({statement.add(*key)})" for key in notification_queue_keys(tasks))
        now = statement.add(max(task.created_ns for task in tasks))
        select += (
            ", (SELECT array_agg(DISTINCT identity) FROM task_queue_pollers"
            f" WHERE (namespace_id, task_queue, task_type) IN ({places}) AND expires_ns > {now})"
        )
    return select


def conflict_of(constraint: str, transition: Transition) -> VersionConflict | CurrentConflict | None:
    """Return the conflict that a unique violation of this constraint stands for; None for any other constraint."""
    if constraint == "executions_pkey":
        return VersionConflict(next(write.key for write in transition.writes if not write.expected_version))
    if constraint == "current_executions_pkey":
        return CurrentConflict(None)
    return None


def current_of(transition: Transition) -> tuple[str, str]:
    """Return namespace id and workflow id of the current row that the transition expects."""
    current = next(write.current.current for write in transition.writes if write.current is not None)
    return current.namespace_id, current.workflow_id


def _expects_none(write: CurrentWrite | None) -> bool:
    return write is not None and write.expected_run_id is None


def _as_expected(write: CurrentWrite, found: CurrentExecution | None) -> bool:
    if found is None:
        return write.expected_run_id is None
    return found.run_id == write.expected_run_id and write.expected_status in (None, found.status)


def _found_current(write: CurrentWrite, fields: list[str] | None) -> CurrentExecution | None:
    if fields is None:
        return None
    run_id, request_id, status, start_ns, close_ns = fields
    key = write.current
    return CurrentExecution(
        key.namespace_id, key.workflow_id, run_id, request_id, int(status), int(start_ns), int(close_ns)
    )


def _start(statement: Statement, write: ExecutionWrite, chunks: list[tuple[str, str, int, bytes]]) -> None:
    assert write.current is not None
    values = statement.add(*_current_row(write.current.current))
    statement.expression(
        "ok",
        f"INSERT INTO current_executions ({_CURRENT_COLUMNS}) VALUES ({values}) ON CONFLICT DO NOTHING RETURNING 1",
    )
    _execution(statement, "x0", write, chunks, guarded=True)


def _general(statement: Statement, writes: Sequence[ExecutionWrite], chunks: list[tuple[str, str, int, bytes]]) -> str:
    """Lock, compare and write executions and current rows; return what to select of the rows found."""
    conditions, found = [], ""
    last: dict[tuple[str, str], CurrentExecution] = {}
    free: set[tuple[str, str]] = set()
    for n, write in enumerate(writes):
        statement.expression(
            f"l{n}", f"SELECT db_record_version FROM executions WHERE {_key(statement, write.key)} FOR UPDATE"
        )
        version = f"COALESCE((SELECT db_record_version FROM l{n}), 0)"
        conditions.append(f"{version} = {statement.add(write.expected_version)}")
        found += f", {version}"
        if write.current is None:
            continue
        row = (write.current.current.namespace_id, write.current.current.workflow_id)
        last[row] = write.current.current
        conditions.append(_current_condition(statement, f"c{n}", write.current))
        found += (
            ", (SELECT ARRAY[run_id, create_request_id, status::text, start_time_ns::text, close_time_ns::text]"
            f" FROM c{n})"
        )
        if write.current.expected_run_id is None:
            free.add(row)
    statement.expression("ok", f"SELECT 1 WHERE {' AND '.join(conditions)}")
    for n, write in enumerate(writes):
        _execution(statement, f"x{n}", write, chunks, guarded=True)
    for n, (row, current) in enumerate(last.items()):
        after = "" if row in free else _SET_CURRENT
        into = f"current_executions ({_CURRENT_COLUMNS})"
        statement.insert(f"u{n}", into, _CURRENT_TYPES, [_current_row(current)], after)
    return found


def _current_condition(statement: Statement, name: str, write: CurrentWrite) -> str:
    places = statement.add(write.current.namespace_id, write.current.workflow_id).split(", ")
    statement.expression(
        name,
        "SELECT run_id, create_request_id, status, start_time_ns, close_time_ns FROM current_executions"
        f" WHERE namespace_id = {places[0]} AND workflow_id = {places[1]} FOR UPDATE",
    )
    if write.expected_run_id is None:
        return f"NOT EXISTS (SELECT 1 FROM {name})"
    condition = f"(SELECT run_id FROM {name}) = {statement.add(write.expected_run_id)}"
    if write.expected_status is not None:
        condition += f" AND (SELECT status FROM {name}) = {statement.add(write.expected_status)}"
    return condition


def _key(statement: Statement, key: ExecutionKey) -> str:
    places = statement.add(key.namespace_id, key.workflow_id, key.run_id).split(", ")
    return f"namespace_id = {places[0]} AND workflow_id = {places[1]} AND run_id = {places[2]}"


def _execution(
    statement: Statement, name: str, write: ExecutionWrite, chunks: list[tuple[str, str, int, bytes]], *, guarded: bool
) -> None:
    """Add the write of the execution's row: if `guarded` it depends on `ok`, otherwise it is `ok`."""
    key = write.key
    state, more = split(write.state)
    chunks += [("execution", execution_owner(key), part, data) for part, data in enumerate(more, 1)]
    if write.expected_version:
        version, next_id, status, encoding, parts, data = statement.add(
            write.expected_version + 1, write.next_event_id, write.status, write.data_encoding, len(more), state
        ).split(", ")
        condition = f"{_key(statement, key)} AND db_record_version = {statement.add(write.expected_version)}"
        statement.expression(
            name,
            f"UPDATE executions SET db_record_version = {version}, next_event_id = {next_id}, status = {status},"
            f" data_encoding = {encoding}, parts = {parts}, data = {data} WHERE {condition}"
            + (f" AND {_OK}" if guarded else " RETURNING 1"),
        )
        return
    values = statement.add(
        key.namespace_id, key.workflow_id, key.run_id, write.slot, 1, write.next_event_id, write.status,
        write.branch_id or key.run_id, write.data_encoding, len(more), state,
    )  # fmt: skip
    insert = f"INSERT INTO executions ({_EXECUTION_COLUMNS})"
    if guarded:
        statement.expression(name, f"{insert} SELECT {values} WHERE {_OK}")
    else:
        statement.expression(name, f"{insert} VALUES ({values}) ON CONFLICT DO NOTHING RETURNING 1")


def _belongings(statement: Statement, n: int, write: ExecutionWrite, chunks: list[tuple[str, str, int, bytes]]) -> None:
    """Add the writes of what belongs to one run: history, tasks, timers, visibility, transfer tasks, forks."""
    namespace_id, run_id = write.key.namespace_id, write.key.run_id
    branch_id = write.branch_id or run_id
    if write.history:
        nodes = []
        for batch in write.history:
            data, more = split(batch.data)
            owner = node_owner(namespace_id, branch_id, batch.first_event_id)
            chunks += [("history", owner, part, piece) for part, piece in enumerate(more, 1)]
            nodes.append((namespace_id, branch_id, batch.first_event_id, batch.next_event_id, len(more), data))
        statement.insert(f"h{n}", _NODE, _NODE_TYPES, nodes)
    for m, key in enumerate(write.tasks_removed):
        where = statement.add(key.namespace_id, key.task_queue, key.task_type, key.priority, key.task_id).split(", ")
        statement.expression(
            f"d{n}_{m}",
            f"DELETE FROM tasks WHERE namespace_id = {where[0]} AND task_queue = {where[1]} AND task_type = {where[2]}"
            f" AND priority = {where[3]} AND task_id = {where[4]} AND {_OK}",
        )
    if write.tasks_added:
        # Another process may have drawn the same id: its row must stay, and this commit must fail (and be decided
        # again).
        statement.insert(f"t{n}", TASK, TASK_TYPES, [task_row(task) for task in write.tasks_added])
    timers = [timer_row(timer) for timer in (write.timer, write.retention_timer) if timer is not None]
    if timers:
        statement.insert(f"a{n}", TIMER, TIMER_TYPES, timers, SET_TIMER)
    if write.timer_removed and write.timer is None:
        statement.expression(
            f"r{n}", f"DELETE FROM timer_tasks WHERE {_key(statement, write.key)} AND kind = 'execution' AND {_OK}"
        )
    if write.visibility is not None:
        row = visibility_row(write.visibility, chunks)
        statement.insert(f"v{n}", _VISIBILITY, _VISIBILITY_TYPES, [row], _SET_VISIBILITY)
    if write.transfer_tasks_added:
        _add_transfer_tasks(statement, n, write.transfer_tasks_added, chunks)
    forks = [(namespace_id, f.branch_id, run_id, f.first_event_id, f.next_event_id) for f in write.forked_from]
    if branch_id != run_id and not write.expected_version:
        forks.append((namespace_id, branch_id, run_id, 0, 0))
    if forks:
        statement.insert(f"f{n}", _FORK, _FORK_TYPES, forks)


def _add_transfer_tasks(
    statement: Statement, n: int, tasks: Sequence[TransferTask], chunks: list[tuple[str, str, int, bytes]]
) -> None:
    rows = []
    for task in tasks:
        data, more = split(task.data)
        owner = transfer_task_owner(task)
        chunks += [("transfer", owner, part, piece) for part, piece in enumerate(more, 1)]
        key = task.key
        rows.append(
            (
                task.slot, task.task_id, key.namespace_id, key.workflow_id, key.run_id, task.kind,
                task.visible_at_ns, task.attempt, len(more), data,
            )
        )  # fmt: skip
    statement.insert(f"o{n}", _TRANSFER_TASK, _TRANSFER_TASK_TYPES, rows)


def _delete_transfer_tasks(statement: Statement, tasks: Sequence[TransferTask]) -> None:
    for n, task in enumerate(tasks):
        slot, task_id = statement.add(task.slot, task.task_id).split(", ")
        statement.expression(
            f"e{n}", f"DELETE FROM transfer_tasks WHERE shard_id = {slot} AND task_id = {task_id} AND {_OK}"
        )
        if len(task.data) > CHUNK_BYTES:
            owner = statement.add(transfer_task_owner(task))
            statement.expression(f"k{n}", f"DELETE FROM chunks WHERE kind = 'transfer' AND owner = {owner} AND {_OK}")


def _answers(statement: Statement, answers: Sequence[tuple[str, ExecutionKey, bytes]]) -> None:
    for n, (query_id, key, answer) in enumerate(answers):
        data, more = split(answer)
        statement.expression(f"q{n}", set_answer(statement, query_id, key, data, len(more), _OK))
        if more:
            # Chunks of an answer that is rejected must not replace those of one that was stored.
            parts = [("answer", query_id, part, piece) for part, piece in enumerate(more, 1)]
            rows = statement.rows(CHUNK_TYPES, parts)
            statement.expression(
                f"qc{n}", f"INSERT INTO {CHUNK} SELECT * FROM {rows} WHERE EXISTS (SELECT 1 FROM q{n}) {SET_CHUNK}"
            )


def set_answer(
    statement: Statement, query_id: str, key: ExecutionKey, first_part: bytes, more: int, condition: str = "true"
) -> str:
    """Return the update that answers a query of that run; it returns a row if the answer was stored."""
    places = statement.add(first_part, more, query_id, key.namespace_id, key.workflow_id, key.run_id).split(", ")
    place, parts, name, namespace_id, workflow_id, run_id = places
    return (
        f"UPDATE queries SET answer = {place}, answer_parts = {parts} WHERE query_id = {name} AND answer IS NULL"
        f" AND namespace_id = {namespace_id} AND workflow_id = {workflow_id} AND run_id = {run_id} AND {condition}"
        " RETURNING 1"
    )


def execution_owner(key: ExecutionKey) -> str:
    """Return the key under which the chunks of a run's state are stored."""
    return f"{key.namespace_id}/{key.run_id}/{key.workflow_id}"


def node_owner(namespace_id: str, branch_id: str, node_id: int) -> str:
    """Return the owner of a history batch's chunks."""
    return f"{namespace_id}/{branch_id}/{node_id}"


def transfer_task_owner(task: TransferTask) -> str:
    """Return the owner of a transfer task's chunks.

    That is the text by which rows of `chunks` name what they belong to.
    """
    return f"{task.slot}/{task.task_id}"


def _current_row(row: CurrentExecution) -> tuple[Any, ...]:
    return (
        row.namespace_id, row.workflow_id, row.run_id, row.create_request_id, row.status, row.start_time_ns,
        row.close_time_ns,
    )  # fmt: skip


def task_row(task: MatchingTask) -> tuple[Any, ...]:
    """Return the values of the columns in TASK."""
    key = task.key
    return (
        key.namespace_id, key.task_queue, key.task_type, key.priority, key.task_id, task.workflow_id, task.run_id,
        task.scheduled_event_id, task.stamp, task.created_ns, task.query_id, task.data,
    )  # fmt: skip


def timer_row(timer: TimerTask) -> tuple[Any, ...]:
    """Return the values of the columns in TIMER."""
    key = timer.key
    return (key.namespace_id, key.run_id, key.workflow_id, timer.kind, timer.fire_at_ns, timer.slot, timer.data)


def visibility_row(row: VisibilityRow, chunks: list[tuple[str, str, int, bytes]]) -> tuple[Any, ...]:
    """Return the values in the order of VISIBILITY_COLUMNS; the parts of a long memo are added to `chunks`."""
    key = row.key
    memo = row.memo
    if len(memo) > CHUNK_BYTES:
        first, more = split(memo)
        owner = execution_owner(key)
        chunks += [("memo", owner, part, data) for part, data in enumerate((first, *more), 1)]
        memo = memo_in_chunks(len(more) + 1)
    return (
        key.namespace_id, key.workflow_id, key.run_id, row.workflow_type, row.task_queue, row.status,
        row.start_time_us, row.execution_time_us, row.close_time_us, row.execution_duration_ns, row.history_length,
        row.history_size_bytes, row.state_transition_count, row.parent_workflow_id, row.parent_run_id,
        row.root_workflow_id, row.root_run_id, row.search_attributes, memo,
    )  # fmt: skip
