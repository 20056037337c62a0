"""Lists and counts: exact at commit, in order, page by page. What filters mean is tested with the compiler."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.storage.factories import (
    COMPLETED,
    NAMESPACE,
    RUNNING,
    START_NS,
    close,
    commit,
    run_key,
    start,
    visibility,
)
from whistlestop.storage.errors import VersionConflict
from whistlestop.storage.visibility import AttributeType, InvalidPageToken, parse

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import VisibilityRow

START_US = START_NS // 1000
CUSTOM = {"Customer": AttributeType.Keyword, "Total": AttributeType.Int}


async def _put(store: Store, *rows: VisibilityRow) -> None:
    for row in rows:
        await commit(store, start(row.key, current=None, visibility=row))


async def _list(store: Store, filter_text: str = "", limit: int = 100) -> list[VisibilityRow]:
    rows, _ = await store.list_visibility(NAMESPACE, parse(filter_text, CUSTOM), limit, b"")
    return rows


def _row(run: str, **changes: object) -> VisibilityRow:
    return visibility(run_key(run, f"order of {run}"), **changes)


async def test_a_start_is_listed_at_once(store: Store) -> None:
    await commit(store, start())
    assert await _list(store) == [visibility()]
    assert await store.count_visibility(NAMESPACE, parse("", {})) == 1


async def test_every_field_of_a_row_comes_back(store: Store) -> None:
    row = visibility(
        close_time_us=START_US + 5, execution_duration_ns=5000, status=COMPLETED, parent_workflow_id="parent",
        parent_run_id="parent-run", root_workflow_id="root", root_run_id="root-run", memo=b"\x00memo",
        search_attributes=json.dumps({"Customer": "c1"}), execution_time_us=START_US + 1, history_length=9,
        history_size_bytes=700, state_transition_count=4,
    )  # fmt: skip
    await _put(store, row)
    assert await _list(store) == [row]


async def test_a_close_is_listed_at_once(store: Store) -> None:
    await commit(store, start())
    write = close()
    await commit(store, write)
    assert await _list(store) == [write.visibility]


async def test_a_conflict_changes_no_row(store: Store) -> None:
    await commit(store, start())
    with pytest.raises(VersionConflict):
        await commit(store, close(version=7))
    assert await _list(store) == [visibility()]


async def test_a_deleted_run_is_not_listed(store: Store) -> None:
    await commit(store, start())
    await store.delete_execution(run_key())
    assert await _list(store) == []


async def test_open_runs_come_first_then_the_latest_closed_then_the_latest_started(store: Store) -> None:
    rows = [
        _row("open-late", start_time_us=START_US + 9),
        _row("open-early-a", start_time_us=START_US),
        _row("open-early-b", start_time_us=START_US),
        _row("closed-late", start_time_us=START_US, close_time_us=START_US + 50, status=COMPLETED),
        _row("closed-early-2", start_time_us=START_US + 2, close_time_us=START_US + 40, status=COMPLETED),
        _row("closed-early-1", start_time_us=START_US + 1, close_time_us=START_US + 40, status=COMPLETED),
    ]
    await _put(store, *rows[::2], *rows[1::2])
    assert await _list(store) == rows


async def test_pages_join_to_the_whole_list(store: Store) -> None:
    rows = [_row(f"run-{n:02}", start_time_us=START_US) for n in range(4)]
    rows += [_row(f"run-{n:02}", close_time_us=START_US + 99, status=COMPLETED) for n in range(4, 8)]
    await _put(store, *rows)
    found: list[VisibilityRow] = []
    token = b""
    sizes = []
    while True:
        page, token = await store.list_visibility(NAMESPACE, parse("", {}), 3, token)
        found += page
        sizes.append(len(page))
        if not token:
            break
    assert found == rows
    assert sizes == [3, 3, 2]


async def test_a_full_page_has_a_token_and_the_next_may_be_empty(store: Store) -> None:
    await _put(store, _row("a"), _row("b"))
    _, token = await store.list_visibility(NAMESPACE, parse("", {}), 2, b"")
    assert token
    assert await store.list_visibility(NAMESPACE, parse("", {}), 2, token) == ([], b"")


async def test_an_invalid_token_is_refused(store: Store) -> None:
    with pytest.raises(InvalidPageToken):
        await store.list_visibility(NAMESPACE, parse("", {}), 2, b"nonsense")


async def test_filters_on_columns_and_on_search_attributes(store: Store) -> None:
    await _put(
        store,
        _row("a", workflow_type="Refund", search_attributes=json.dumps({"Customer": "c1", "Total": 10})),
        _row("b", search_attributes=json.dumps({"Customer": "c1", "Total": 20})),
        _row("c", search_attributes=json.dumps({"Customer": "c2"})),
    )

    async def found(text: str) -> list[str]:
        return [row.key.run_id for row in await _list(store, text)]

    assert await found("WorkflowType = 'Refund'") == ["a"]
    assert await found("WorkflowId = 'order of b'") == ["b"]
    assert await found("Customer = 'c1' AND Total > 10") == ["b"]
    assert await found("Total IS NULL OR WorkflowType = 'Refund'") == ["a", "c"]
    assert await found("WorkflowId STARTS_WITH 'order' AND ExecutionStatus = 'Running'") == ["a", "b", "c"]
    assert await store.count_visibility(NAMESPACE, parse("Customer = 'c1'", CUSTOM)) == 2


async def test_namespaces_are_apart(store: Store) -> None:
    await _put(store, visibility(run_key("a", namespace="another")), _row("b"))
    assert [row.key.run_id for row in await _list(store)] == ["b"]
    assert await store.count_visibility("another", parse("", {})) == 1


async def test_runs_are_counted_by_group(store: Store) -> None:
    closed = {"status": COMPLETED, "close_time_us": START_US + 1}
    await _put(store, _row("a"), _row("b", **closed), _row("c", **closed))
    grouped = parse("GROUP BY ExecutionStatus", {})
    assert await store.count_visibility_groups(NAMESPACE, grouped, 10) == [((RUNNING,), 1), ((COMPLETED,), 2)]
    assert await store.count_visibility_groups(NAMESPACE, grouped, 1) == [((RUNNING,), 1)]


async def test_nothing_is_counted_in_an_empty_store(store: Store) -> None:
    assert await store.count_visibility(NAMESPACE, parse("", {})) == 0
    assert await store.count_visibility_groups(NAMESPACE, parse("GROUP BY ExecutionStatus", {}), 10) == []
    assert await _list(store) == []
