"""Requests by workflow id alone, while the id passes from one run to the next: they mean the run that holds it.

The id is resolved first and the run is read second. A run that was replaced in between is closed, but the id never was
without an open run, so nobody may be told so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.enums.v1 import workflow_pb2 as wf

from tests.history.test_executions import Bench
from tests.support.history_ports import replace_ports
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TERMINATE = wf.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING
WF = {"workflow_id": "wf"}
FRESH = 2
"""Events of a run that nothing has happened to."""


class Overtaken:
    """A store, behind whose back the workflow is replaced as soon as somebody has looked up its current run."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.replace: Callable[[], Awaitable[Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get_current(self, namespace_id: str, workflow_id: str) -> Any:
        found = await self._store.get_current(namespace_id, workflow_id)
        if self.replace is not None:
            replace, self.replace = self.replace, None
            await replace()
        return found


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Bench, Bench, Overtaken]]:
    """One process, whose lookups are overtaken by the other."""
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    overtaken: Any = Overtaken(store)
    mine, other = Bench(overtaken, exclusive=False), Bench(store, exclusive=False)
    mine.ids = mine.history.engine.ids = other.ids
    replace_ports(mine.history, ids=other.ids)
    yield mine, other, overtaken
    for bench in (mine, other):
        await bench.history.close()
    await store.close()


async def arrange(pair: tuple[Bench, Bench, Overtaken], runs: list[str]) -> Bench:
    """A workflow that was replaced since its process saw it, and is replaced again while that looks for it."""
    mine, other, overtaken = pair
    runs.append((await mine.start()).run_id)

    async def replace() -> None:
        runs.append((await other.start(workflow_id_conflict_policy=TERMINATE)).run_id)

    await replace()
    overtaken.replace = replace
    return mine


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("SignalWorkflowExecution", {"signal_name": "s", "request_id": "r"}),
        ("RequestCancelWorkflowExecution", {"request_id": "r"}),
        ("TerminateWorkflowExecution", {}),
    ],
)
async def test_a_request_reaches_the_run_that_took_the_id_over(
    pair: tuple[Bench, Bench, Overtaken], method: str, fields: dict[str, Any]
) -> None:
    runs: list[str] = []
    mine = await arrange(pair, runs)
    await mine.call(method, workflow_execution=WF, **fields)
    assert len(runs) == 3
    info = (await mine.call("DescribeWorkflowExecution", execution={**WF, "run_id": runs[2]})).workflow_execution_info
    changed = info.history_length > FRESH or info.status != wf.WORKFLOW_EXECUTION_STATUS_RUNNING
    assert changed, "the newest run has not heard of it"


async def test_a_description_is_of_the_run_that_holds_the_id(pair: tuple[Bench, Bench, Overtaken]) -> None:
    runs: list[str] = []
    mine = await arrange(pair, runs)
    info = (await mine.call("DescribeWorkflowExecution", execution=WF)).workflow_execution_info
    assert (info.execution.run_id, info.status) == (runs[2], wf.WORKFLOW_EXECUTION_STATUS_RUNNING)
