"""Queries and their answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.storage.factories import (
    NAMESPACE,
    QUEUE,
    START_NS,
    WORKFLOW_QUEUE,
    commit,
    query,
    run_key,
    start,
    step,
    task,
)
from whistlestop.storage.errors import VersionConflict
from whistlestop.storage.records import ExecutionKey, Transition

if TYPE_CHECKING:
    from whistlestop.storage.interface import Store


async def test_a_query_comes_back_whole(store: Store) -> None:
    await store.put_query(query(), None)
    assert await store.get_query("query-1") == query()
    assert await store.get_query("query-2") is None


async def test_a_direct_query_comes_with_its_task(store: Store) -> None:
    direct = query(buffered=False)
    carrier = task(1, query_id="query-1")
    await store.put_query(direct, carrier)
    assert await store.get_query("query-1") == direct
    assert await store.list_tasks(NAMESPACE, QUEUE, WORKFLOW_QUEUE, None, 10) == [carrier]


async def test_a_query_is_answered_once(store: Store) -> None:
    await store.put_query(query(), None)
    assert await store.answer_query("query-1", run_key(), b"first") is True
    assert await store.answer_query("query-1", run_key(), b"second") is False
    assert await store.get_query("query-1") == replace(query(), answer=b"first")


async def test_an_empty_answer_is_an_answer(store: Store) -> None:
    await store.put_query(query(), None)
    assert await store.answer_query("query-1", run_key(), b"") is True
    assert await store.answer_query("query-1", run_key(), b"second") is False
    assert await store.get_query("query-1") == replace(query(), answer=b"")


async def test_exactly_one_of_racing_answers_is_stored(store: Store) -> None:
    await store.put_query(query(), None)
    taken = await asyncio.gather(*(store.answer_query("query-1", run_key(), str(n).encode()) for n in range(5)))
    assert sorted(taken) == [False] * 4 + [True]
    assert await store.get_query("query-1") == replace(query(), answer=str(taken.index(True)).encode())


async def test_a_query_that_is_gone_is_not_answered(store: Store) -> None:
    await store.put_query(query(), None)
    await store.delete_query("query-1")
    assert await store.answer_query("query-1", run_key(), b"late") is False
    assert await store.get_query("query-1") is None


async def test_buffered_queries_of_a_run_come_oldest_first(store: Store) -> None:
    other = run_key("run-2")
    waiting = [query(f"query-{n}", expires_ns=START_NS + 10 + n) for n in range(3)]
    for row in (*waiting[::-1], query("direct", buffered=False), query("other", other)):
        await store.put_query(row, None)
    assert await store.list_buffered_queries(run_key(), START_NS, 10) == waiting
    assert await store.list_buffered_queries(run_key(), START_NS, 2) == waiting[:2]


async def test_answered_and_expired_queries_are_not_listed(store: Store) -> None:
    late = query("query-3", expires_ns=START_NS + 20)
    for row in (query("query-1"), query("query-2", expires_ns=START_NS + 20), late):
        await store.put_query(row, None)
    await store.answer_query("query-2", run_key(), b"answer")
    assert await store.list_buffered_queries(run_key(), START_NS + 10, 10) == [late]


async def test_purging_drops_expired_queries_up_to_the_limit(store: Store) -> None:
    for n in range(4):
        await store.put_query(query(f"query-{n}", expires_ns=START_NS + n), None)
    assert await store.purge_queries(START_NS + 2, 2) == 2
    assert await store.purge_queries(START_NS + 2, 2) == 1
    assert await store.purge_queries(START_NS + 2, 2) == 0
    assert await store.get_query("query-2") is None
    assert await store.get_query("query-3") is not None


async def test_a_transition_brings_answers(store: Store) -> None:
    await store.put_query(query(), None)
    await store.put_query(query("query-2"), None)
    await store.answer_query("query-2", run_key(), b"earlier")
    answers = (
        ("query-1", run_key(), b"one"), ("query-2", run_key(), b"too late"), ("gone", run_key(), b"nobody asks"),
    )  # fmt: skip
    await store.commit(Transition((start(),), answers=answers))
    assert await store.get_query("query-1") == replace(query(), answer=b"one")
    assert await store.get_query("query-2") == replace(query("query-2"), answer=b"earlier")


async def test_a_refused_transition_answers_nothing(store: Store) -> None:
    await store.put_query(query(), None)
    await commit(store, start())
    with pytest.raises(VersionConflict):
        await store.commit(Transition((step(version=7),), answers=(("query-1", run_key(), b"one"),)))
    assert await store.get_query("query-1") == query()


OTHERS = [
    ExecutionKey("other", run_key().workflow_id, run_key().run_id),
    ExecutionKey(run_key().namespace_id, "other", run_key().run_id),
    ExecutionKey(run_key().namespace_id, run_key().workflow_id, "other"),
    ExecutionKey(run_key().namespace_id, "", ""),
]


@pytest.mark.parametrize("other", OTHERS)
async def test_a_query_is_not_answered_for_another_run(store: Store, other: ExecutionKey) -> None:
    await store.put_query(query(), None)
    assert await store.answer_query("query-1", other, b"forged") is False
    await store.commit(Transition((start(),), answers=(("query-1", other, b"forged"),)))
    assert (await store.get_query("query-1")).answer is None  # type: ignore[union-attr]


async def test_a_long_answer_for_another_run_changes_nothing_of_the_answer(store: Store) -> None:
    await store.put_query(query(), None)
    long = b"a" * 1_500_000
    assert await store.answer_query("query-1", run_key(), long) is True
    await store.commit(Transition((start(),), answers=(("query-1", OTHERS[0], b"b" * 1_500_000),)))
    assert (await store.get_query("query-1")).answer == long  # type: ignore[union-attr]
