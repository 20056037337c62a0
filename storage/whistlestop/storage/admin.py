"""Check a store's invariants page by page (`db check`) and count its rows (`db status`), in SQL of every adapter.

What is checked: - a run's history is contiguous from event 1 to its next_event_id, over the shared branches and its own
- every run has a visibility row of equal status - an open run is the current run of its workflow id, and the current
row has the run's status - a current row, a visibility row, a task, an execution or retention timer belongs to a run
that exists - no row was set aside because it could not be processed - a shared branch is shared by a run that exists,
and every stored branch is read by some run

A transfer task may outlive the run that wrote it: its effects are delivered even after the run's deletion.
"""

# ruff: noqa: S608 - SQL is put together from constants of this module alone
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.storage import set_aside
from whistlestop.storage.records import Finding, QueueMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    Read = Callable[[str, Sequence[Any]], Awaitable[list[Any]]]
    """Run a SELECT with `?` as placeholders."""

PAGE = 500
OPEN = {1, 8}
"""WORKFLOW_EXECUTION_STATUS_RUNNING and WORKFLOW_EXECUTION_STATUS_PAUSED."""

_RUN = "{t}.namespace_id = e.namespace_id AND {t}.workflow_id = e.workflow_id AND {t}.run_id = e.run_id"

_RUNS = (
    "SELECT e.namespace_id, e.workflow_id, e.run_id, e.branch_id, e.next_event_id, e.status, v.status, c.run_id,"
    " c.status FROM executions e"
    " LEFT JOIN executions_visibility v ON v.namespace_id = e.namespace_id AND v.run_id = e.run_id"
    " LEFT JOIN current_executions c ON c.namespace_id = e.namespace_id AND c.workflow_id = e.workflow_id"
    " WHERE (e.namespace_id, e.workflow_id, e.run_id) > (?, ?, ?)"
    " ORDER BY e.namespace_id, e.workflow_id, e.run_id LIMIT ?"
)
SHARED_BRANCHES = (
    "SELECT branch_id, first_event_id, next_event_id FROM forks WHERE namespace_id = ? AND run_id = ?"
    " AND first_event_id > 0 ORDER BY first_event_id"
)
_NODES = (
    "SELECT node_id, next_event_id FROM history_node WHERE namespace_id = ? AND branch_id = ?"
    " AND node_id > ? AND node_id < ? ORDER BY node_id LIMIT ?"
)
_CURRENT = (
    "SELECT t.namespace_id, t.workflow_id, t.run_id, e.run_id FROM current_executions t"
    f" LEFT JOIN executions e ON {_RUN.format(t='t')} WHERE (t.namespace_id, t.workflow_id) > (?, ?)"
    " ORDER BY t.namespace_id, t.workflow_id LIMIT ?"
)
_VISIBILITY = (
    "SELECT t.namespace_id, t.run_id, t.workflow_id, e.run_id FROM executions_visibility t"
    f" LEFT JOIN executions e ON {_RUN.format(t='t')} WHERE (t.namespace_id, t.run_id) > (?, ?)"
    " ORDER BY t.namespace_id, t.run_id LIMIT ?"
)
# A Nexus task (type 3) may be in a queue of another namespace than its run's, or have no run (standalone requests).
_TASKS = (
    "SELECT t.namespace_id, t.task_queue, t.task_type, t.priority, t.task_id, t.workflow_id, t.run_id, e.run_id"
    " FROM tasks t LEFT JOIN executions e"
    " ON (e.namespace_id = t.namespace_id OR t.task_type = 3) AND e.workflow_id = t.workflow_id AND e.run_id = t.run_id"
    " WHERE (t.namespace_id, t.task_queue, t.task_type, t.priority, t.task_id) > (?, ?, ?, ?, ?)"
    " ORDER BY t.namespace_id, t.task_queue, t.task_type, t.priority, t.task_id LIMIT ?"
)
_TIMERS = (
    "SELECT t.namespace_id, t.run_id, t.workflow_id, t.kind, e.run_id FROM timer_tasks t"
    f" LEFT JOIN executions e ON {_RUN.format(t='t')}"
    " WHERE (t.namespace_id, t.run_id, t.workflow_id, t.kind) > (?, ?, ?, ?)"
    " ORDER BY t.namespace_id, t.run_id, t.workflow_id, t.kind LIMIT ?"
)
_FORKS = (
    "SELECT t.namespace_id, t.branch_id, t.run_id, t.first_event_id, v.run_id FROM forks t"
    " LEFT JOIN executions_visibility v ON v.namespace_id = t.namespace_id AND v.run_id = t.run_id"
    " WHERE (t.namespace_id, t.branch_id, t.run_id, t.first_event_id) > (?, ?, ?, ?)"
    " ORDER BY t.namespace_id, t.branch_id, t.run_id, t.first_event_id LIMIT ?"
)
_BRANCHES = (
    "SELECT b.namespace_id, b.branch_id, v.run_id, (SELECT min(f.run_id) FROM forks f"
    " WHERE f.namespace_id = b.namespace_id AND f.branch_id = b.branch_id)"
    " FROM (SELECT DISTINCT namespace_id, branch_id FROM history_node WHERE (namespace_id, branch_id) > (?, ?)"
    " ORDER BY namespace_id, branch_id LIMIT ?) AS b"
    " LEFT JOIN executions_visibility v ON v.namespace_id = b.namespace_id AND v.run_id = b.branch_id"
    " ORDER BY b.namespace_id, b.branch_id"
)
# This scans the table, so it is only run for suspicious branches.
_OWNER = "SELECT 1 FROM executions WHERE namespace_id = ? AND (run_id = ? OR branch_id = ?) LIMIT 1"


_NOTES = (
    "SELECT queue_name, message_id, data FROM queue WHERE queue_name = 'set-aside' AND message_id > ?"
    " ORDER BY message_id LIMIT ?"
)
# For each table: a query that tells whether the row of a note still exists, and which parts of its key are numbers.
_NOTED: dict[str, tuple[str, frozenset[int]]] = {
    "executions": (
        "SELECT 1 FROM executions WHERE namespace_id = ? AND workflow_id = ? AND run_id = ?", frozenset()
    ),
    "executions_visibility": (
        "SELECT 1 FROM executions_visibility WHERE namespace_id = ? AND run_id = ?", frozenset()
    ),
    "timer_tasks": (
        "SELECT 1 FROM timer_tasks WHERE namespace_id = ? AND workflow_id = ? AND run_id = ? AND kind = ?", frozenset()
    ),
    "transfer_tasks": ("SELECT 1 FROM transfer_tasks WHERE shard_id = ? AND task_id = ?", frozenset({0, 1})),
    # Setting a task aside removes it from its queue, so the note is kept for as long as the task's run is open.
    "tasks": (
        "SELECT 1 FROM executions WHERE namespace_id = ? AND workflow_id = ? AND run_id = ? AND status = 1", frozenset()
    ),
    "namespaces": ("SELECT 1 FROM namespaces WHERE id = ?", frozenset()),
    "nexus_endpoints": ("SELECT 1 FROM nexus_endpoints WHERE id = ?", frozenset()),
    "queue": ("SELECT 1 FROM queue WHERE queue_name = ? AND message_id = ?", frozenset({1})),
}  # fmt: skip


TABLES = (
    "namespaces", "shards", "executions", "current_executions", "history_node", "forks", "task_queues",
    "task_queue_pollers", "tasks", "timer_tasks", "transfer_tasks", "queries", "executions_visibility",
    "cluster_membership", "queue", "nexus_endpoints",
)  # fmt: skip


async def table_counts(read: Read, limit: int) -> dict[str, int]:
    """Return the number of rows of each table, each counted up to `limit`."""
    counts = {}
    for table in TABLES:
        rows = await read(f"SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT ?) AS first_ones", (limit,))
        counts[table] = int(rows[0][0])
    return counts


async def check(read: Read, limit: int) -> list[Finding]:
    """Return at most `limit` findings; an empty list means that no invariant is violated."""
    findings: list[Finding] = []
    for walk in (
        _walk_set_aside, _walk_runs, _walk_current, _walk_visibility, _walk_tasks, _walk_timers, _walk_forks,
        _walk_branches,
    ):  # fmt: skip
        async for finding in walk(read):
            if len(findings) >= limit:
                return findings
            findings.append(finding)
    return findings


async def notes_set_aside(read: Read, limit: int) -> list[tuple[QueueMessage, bool]]:
    """Return at most `limit` notes of rows that were set aside, and whether each row is still there."""
    found = []
    for row in await read(_NOTES, (-1, limit)):
        message = QueueMessage(*row)
        aside = set_aside.decoded(message.data)
        found.append((message, aside is not None and await _is_there(read, aside)))
    return found


async def _is_there(read: Read, aside: set_aside.Aside) -> bool:
    sql, numbers = _NOTED.get(aside.table, ("", frozenset[int]()))
    if not sql:
        return True
    try:
        key = [int(part) if index in numbers else part for index, part in enumerate(aside.key)]
    except ValueError:
        return False
    return sql.count("?") == len(key) and bool(await read(sql, key))


async def _walk_set_aside(read: Read) -> AsyncIterator[Finding]:
    for message, is_there in await notes_set_aside(read, PAGE):
        aside = set_aside.decoded(message.data)
        if aside is not None and is_there:
            problem = f"was set aside after {aside.times} attempts: {aside.problem}"
            yield Finding(aside.table, "/".join(aside.key), problem)


async def _pages(read: Read, sql: str, start: tuple[Any, ...]) -> AsyncIterator[Any]:
    """Yield all rows of a paged SELECT whose first columns are its key."""
    after = start
    while True:
        rows = await read(sql, (*after, PAGE))
        for row in rows:
            yield row
        if len(rows) < PAGE:
            return
        after = tuple(rows[-1][: len(start)])


async def _walk_runs(read: Read) -> AsyncIterator[Finding]:
    async for row in _pages(read, _RUNS, ("", "", "")):
        (
            namespace_id,
            workflow_id,
            run_id,
            branch_id,
            next_event_id,
            status,
            listed_status,
            current_run,
            current_status,
        ) = row
        key = f"{namespace_id}/{workflow_id}/{run_id}"
        if listed_status is None:
            yield Finding("executions_visibility", key, "the run has no visibility row")
        elif listed_status != status:
            yield Finding("executions_visibility", key, f"shows status {listed_status}, the run has {status}")
        if status in OPEN and current_run != run_id:
            yield Finding("current_executions", key, f"the run is open, but the current run is {current_run}")
        # A paused run counts as open, and its current row may keep the status running.
        if current_run == run_id and current_status != status and not {current_status, status} <= OPEN:
            yield Finding("current_executions", key, f"holds status {current_status}, the run has {status}")
        problem = await _history_problem(read, (namespace_id, run_id, branch_id), next_event_id)
        if problem:
            yield Finding("history_node", key, problem)


async def _history_problem(read: Read, run: tuple[str, str, str], next_event_id: int) -> str:
    namespace_id, run_id, branch_id = run
    ranges = [tuple(row) for row in await read(SHARED_BRANCHES, (namespace_id, run_id))]
    own_first = ranges[-1][2] if ranges else 1
    expected = 1
    for branch, first, end in (*ranges, (branch_id, own_first, 2**62)):
        if first != expected:
            return f"branch {branch} is used from event {first}, but event {expected} is next"
        after = first - 1
        while True:
            nodes = await read(_NODES, (namespace_id, branch, after, end, PAGE))
            for node_id, next_id in nodes:
                if node_id != expected:
                    return f"branch {branch}: after event {expected - 1} comes a batch of event {node_id}"
                expected = min(next_id, end)
            if len(nodes) < PAGE:
                break
            after = nodes[-1][0]
    return "" if expected == next_event_id else f"history ends before event {expected}, the run before {next_event_id}"


async def _walk_current(read: Read) -> AsyncIterator[Finding]:
    async for row in _pages(read, _CURRENT, ("", "")):
        if row[-1] is None:
            yield Finding("current_executions", "/".join(row[:3]), "names a run that does not exist")


async def _walk_visibility(read: Read) -> AsyncIterator[Finding]:
    async for row in _pages(read, _VISIBILITY, ("", "")):
        if row[-1] is None:
            yield Finding("executions_visibility", f"{row[0]}/{row[2]}/{row[1]}", "shows a run that does not exist")


async def _walk_tasks(read: Read) -> AsyncIterator[Finding]:
    async for row in _pages(read, _TASKS, ("", "", -1, -1, -1)):
        if row[-1] is None and row[5]:
            place = f"{row[0]}/{row[1]}/{row[2]}/{row[3]}/{row[4]}"
            yield Finding("tasks", place, f"is of a run that does not exist: {row[5]}/{row[6]}")


async def _walk_timers(read: Read) -> AsyncIterator[Finding]:
    async for row in _pages(read, _TIMERS, ("", "", "", "")):
        if row[-1] is None and row[3] in ("execution", "retention"):
            yield Finding("timer_tasks", f"{row[0]}/{row[2]}/{row[1]}/{row[3]}", "is of a run that does not exist")


async def _walk_forks(read: Read) -> AsyncIterator[Finding]:
    async for row in _pages(read, _FORKS, ("", "", "", -1)):
        if row[-1] is None:
            yield Finding("forks", f"{row[0]}/{row[1]}/{row[2]}", "keeps history for a run that does not exist")


async def _walk_branches(read: Read) -> AsyncIterator[Finding]:
    async for namespace_id, branch_id, named, forked in _pages(read, _BRANCHES, ("", "")):
        if named is None and forked is None and not await read(_OWNER, (namespace_id, branch_id, branch_id)):
            yield Finding("history_node", f"{namespace_id}/{branch_id}", "is history that no run reads")
