"""Migration, backup and check."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.storage.factories import (
    COMPLETED,
    CONTINUED,
    NAMESPACE,
    START_NS,
    batch,
    close,
    commit,
    current,
    run_key,
    start,
    step,
    task,
    timer,
    visibility,
)
from whistlestop.storage.errors import CannotOpen
from whistlestop.storage.records import BranchRange, CurrentWrite, Finding

if TYPE_CHECKING:
    from pathlib import Path

    from whistlestop.storage.interface import Store

KEY = f"{NAMESPACE}/order-7/run-1"


async def test_migrating_again_does_nothing(store: Store) -> None:
    assert await store.migrate() == []
    schema = await store.schema_status()
    assert schema.version == schema.release_version > 0
    assert schema.pending == schema.contracts == ()


async def test_rows_are_counted_by_table_up_to_the_limit(store: Store) -> None:
    for n in range(3):
        await commit(store, start(run_key(f"run-{n}", f"order-{n}")))
    counts = await store.table_counts(2)  # type: ignore[attr-defined]  # of the adapters, not of the interface
    assert counts["executions"] == counts["history_node"] == 2
    assert counts["tasks"] == 0


async def test_ping_answers(store: Store) -> None:
    await store.ping()


async def test_nothing_is_found_in_an_empty_store(store: Store) -> None:
    assert await store.check(10) == []


async def test_nothing_is_found_after_ordinary_work(store: Store) -> None:
    await commit(store, start(tasks_added=(task(1),), timer=timer(START_NS + 5)))
    await commit(store, step(tasks_removed=(task(1).key,)))
    second, third = run_key("run-2"), run_key("run-3")
    await commit(
        store, close(version=2, status=CONTINUED), start(second, current=CurrentWrite(current(second), "run-1"))
    )
    await commit(store, close(second))
    reset = start(
        third, history=(batch(3, 5),), next_event_id=5, forked_from=(BranchRange("run-2", 1, 3),),
        current=CurrentWrite(current(third), "run-2", COMPLETED),
    )  # fmt: skip
    await commit(store, reset)
    await store.put_timer(timer(START_NS, run_key("", "schedule-1"), kind="schedule"))
    assert await store.check(10) == []
    await store.delete_execution(second)
    assert await store.check(10) == []
    await store.delete_execution(third)
    await store.delete_execution(run_key())
    assert await store.check(10) == []


@pytest.mark.parametrize(
    ("write", "finding"),
    [
        (start(visibility=None), Finding("executions_visibility", KEY, "the run has no visibility row")),
        (
            start(visibility=visibility(status=COMPLETED)),
            Finding("executions_visibility", KEY, "shows status 2, the run has 1"),
        ),
        (
            start(current=None),
            Finding("current_executions", KEY, "the run is open, but the current run is None"),
        ),
        (
            start(current=CurrentWrite(current(run_key(), COMPLETED), None)),
            Finding("current_executions", KEY, "holds status 2, the run has 1"),
        ),
        (
            start(next_event_id=4),
            Finding("history_node", KEY, "history ends before event 3, the run before 4"),
        ),
        (
            start(history=(batch(1, 2), batch(3, 4)), next_event_id=4),
            Finding("history_node", KEY, "branch run-1: after event 1 comes a batch of event 3"),
        ),
        (
            start(forked_from=(BranchRange("run-0", 1, 3),), history=(batch(3, 5),), next_event_id=5),
            Finding("history_node", KEY, "branch run-1 is used from event 3, but event 1 is next"),
        ),
    ],
)
async def test_inconsistencies_of_a_run_are_found(store: Store, write: object, finding: Finding) -> None:
    await commit(store, write)  # type: ignore[arg-type]  # parameters are written as objects
    assert await store.check(10) == [finding]


async def test_rows_of_runs_that_do_not_exist_are_found(store: Store) -> None:
    ghost = run_key("ghost", "order-0")
    await commit(
        store,
        start(
            tasks_added=(task(1, ghost),), timer=timer(START_NS, ghost), visibility=visibility(ghost),
            current=CurrentWrite(current(ghost), None), status=COMPLETED,
        ),
    )  # fmt: skip
    assert [(finding.table, finding.problem) for finding in await store.check(10)] == [
        ("executions_visibility", "the run has no visibility row"),
        ("current_executions", "names a run that does not exist"),
        ("executions_visibility", "shows a run that does not exist"),
        ("tasks", "is of a run that does not exist: order-0/ghost"),
        ("timer_tasks", "is of a run that does not exist"),
    ]


async def test_findings_stop_at_the_limit(store: Store) -> None:
    for n in range(5):
        await commit(store, start(run_key(f"run-{n}", f"order-{n}"), visibility=None))
    assert len(await store.check(3)) == 3


async def test_a_backup_is_not_written_over_a_file(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    target.write_text("precious")
    with pytest.raises(CannotOpen):
        await store.backup(str(target))
    assert target.read_text() == "precious"


async def test_a_backup_into_a_missing_folder_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CannotOpen):
        await store.backup(str(tmp_path / "nowhere" / "backup"))


async def test_a_backup_is_a_file(store: Store, tmp_path: Path) -> None:
    await commit(store, replace(start(), state=b"\x00\\." * 10))
    await store.backup(str(tmp_path / "backup"))
    assert (tmp_path / "backup").stat().st_size > 0
    assert not (tmp_path / "backup.partial").exists()
