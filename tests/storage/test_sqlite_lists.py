"""Lists and counts that an index serves cost the same however many runs there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.storage.factories import NAMESPACE
from whistlestop.storage.sqlite import SqliteStore
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from pathlib import Path

FILL = """
INSERT INTO executions_visibility (
    namespace_id, run_id, workflow_id, workflow_type_name, task_queue, status, start_time, execution_time, close_time,
    history_length, history_size_bytes, state_transition_count, root_workflow_id, root_run_id, search_attributes, memo
)
WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :end)
SELECT :namespace, printf('%08x-%d', n * 7919 % 1000003, n), printf('w-%d', n / 3), printf('T%d', n % 20), 'q',
    iif(n % 10, 2, 1), n, n, iif(n % 10, n + 5, NULL), 3, 300, 4, 'w', 'r', '{}', x''
FROM numbers
"""
FEW, MANY = 1_000, 20_000
FILTERS = (
    "",
    "WorkflowId = 'w-7'",
    "WorkflowId IN ('w-7', 'w-9')",
    "WorkflowId = 'w-7' AND ExecutionStatus = 'Completed'",
    "WorkflowId = 'w-7' AND WorkflowType = 'T1'",
    "RunId = '00005cd5-3'",
    "ExecutionStatus = 'Running'",
    "ExecutionStatus = 'Completed'",
)
COUNTED = FILTERS[1:6]
"""The filters whose counts are served as well; to count half of the runs means to read them."""


class Counter:
    """The steps of SQLite's virtual machine, in tens."""

    def __init__(self, db: Any) -> None:
        self.steps = 0
        db.set_progress_handler(self._count, 10)

    def _count(self) -> int:
        self.steps += 1
        return 0

    def take(self) -> int:
        self.steps, before = 0, self.steps
        return before


async def _costs(store: SqliteStore, counter: Counter) -> dict[tuple[str, str], int]:
    found = {}
    for text in FILTERS:
        query = parse(text, {})
        counter.take()
        await store.list_visibility(NAMESPACE, query, 20, b"")
        found["list", text] = counter.take()
        if text in COUNTED:
            await store.count_visibility(NAMESPACE, query)
            found["count", text] = counter.take()
    return found


@pytest.mark.parametrize("is_reopened", [False, True])
async def test_cost_does_not_grow_with_the_number_of_runs(tmp_path: Path, is_reopened: bool) -> None:
    path = str(tmp_path / "store.db")
    store = SqliteStore(path)
    await store.open()
    await store.migrate()
    costs = []
    for first, end in ((0, FEW), (FEW, MANY)):
        store._main.execute(FILL, {"namespace": NAMESPACE, "first": first, "end": end})  # type: ignore[union-attr]
        if is_reopened:
            await store.close()
            store = SqliteStore(path)
            await store.open()
        costs.append(await _costs(store, Counter(store._lister)))
    await store.close()
    few, many = costs
    assert {what: (few[what], cost) for what, cost in many.items() if cost > 1.5 * few[what] + 20} == {}


async def test_statistics_of_the_user_stay(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "store.db"))
    await store.open()
    await store.migrate()
    db: Any = store._main
    db.execute(FILL, {"namespace": NAMESPACE, "first": 0, "end": 10})
    db.execute("ANALYZE")
    wanted = "SELECT idx, stat FROM sqlite_stat1 WHERE tbl = 'executions_visibility' ORDER BY idx"
    before = db.execute(wanted).fetchall()
    await store.migrate()
    assert db.execute(wanted).fetchall() == before
    await store.close()
