"""A page of a history costs what it shows, however much comes behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.history.test_executions import Bench
from whistlestop.history.core.limits import Limits
from whistlestop.history.engine.histories import MAX_PAGE_BYTES
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.storage.records import BranchRange, HistoryBatch

MANY = 60


class Counting(SqliteStore):
    """Knows how many bytes of history were read."""

    read = 0

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
        found = await super().read_history(
            namespace_id, branches, first_event_id, next_event_id, limit, reverse=reverse
        )
        self.read += sum(len(batch.data) for batch in found)
        return found


@pytest.mark.parametrize("rpc", ["GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse"])
async def test_a_page_of_a_large_history_reads_little_beyond_itself(rpc: str) -> None:
    store = Counting(":memory:")
    await store.open()
    await store.migrate()
    bench = Bench(store, Limits())
    await bench.start()
    for number in range(MANY):
        await bench.call(
            "SignalWorkflowExecution", workflow_execution={"workflow_id": "wf"}, signal_name=str(number),
            input={"payloads": [{"data": b"x" * 400_000}]},
        )  # fmt: skip
    token, events, pages = b"", 0, 0
    while token or not pages:
        store.read = 0
        answer = await bench.call(rpc, execution={"workflow_id": "wf"}, next_page_token=token)
        assert 0 <= store.read <= 3 * MAX_PAGE_BYTES
        token, pages, events = answer.next_page_token, pages + 1, events + len(answer.history.events)
    assert (events, pages > 10) == (MANY + 2, True)
    await store.close()
