"""Changes of several runs in one transaction: what is committed, under which locks, and how often it is tried."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.history.test_executions import NAMESPACE_ID, Bench
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.namespace_pb2 import NamespaceData
from whistlestop.history.api.start import Start
from whistlestop.history.core.chain.start import first_workflow_task
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.transition.namespace_policy import NamespacePolicy
from whistlestop.history.engine import changes
from whistlestop.history.engine.changes import Changes, Next, Overtaken
from whistlestop.history.engine.conflicts import MAX_CONFLICTS
from whistlestop.history.engine.namespace_policies import NamespacePolicies
from whistlestop.storage.deployments import Deployments
from whistlestop.storage.errors import VersionConflict
from whistlestop.storage.namespaces import NamespaceCache
from whistlestop.storage.records import ExecutionKey, NamespaceRecord, TransferTask
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whistlestop.history.core.transition.run import Run


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    yield Bench(store)
    await store.close()


async def started(bench: Bench, workflow_id: str) -> ExecutionKey:
    return ExecutionKey(NAMESPACE_ID, workflow_id, (await bench.start(workflow_id)).run_id)


async def signals(bench: Bench, key: ExecutionKey) -> int:
    return (await bench.history.engine.read(key)).state.signal_count


def receive(run: Run, request_id: str = "r") -> None:
    signal.receive(run, name="s", input=None, header=None, identity="", request_id=request_id, links=())


async def change(bench: Bench, attempt: Any, done: TransferTask | None = None) -> Any:
    return await changes.change_together(bench.history.engine, attempt, workflow_id="wf", done=done)


def transfer(key: ExecutionKey) -> TransferTask:
    return TransferTask(1, 7, key, "signal_external", b"", 0)


async def test_what_the_attempt_changed_is_one_commit_and_nothing_else_is_written(bench: Bench) -> None:
    one, two, three = [await started(bench, name) for name in ("a", "b", "c")]
    committed = []
    commit = bench.store.commit

    async def noted(transition: Any) -> None:
        committed.append([write.key for write in transition.writes])
        await commit(transition)

    bench.store.commit = noted  # type: ignore[method-assign]

    async def attempt(change: Changes) -> str:
        receive(await change.run(one))
        await change.run(two)
        receive(await change.run(three))
        return "answer"

    assert await change(bench, attempt) == "answer"
    assert committed == [[one, three]]
    assert [await signals(bench, key) for key in (one, two, three)] == [1, 0, 1]


async def test_runs_asked_for_in_any_order_are_locked_in_one(bench: Bench) -> None:
    """Otherwise two attempts that take them in opposite orders would wait for each other for ever."""
    one, two = [await started(bench, name) for name in ("a", "b")]
    attempts = []

    def wants(*keys: ExecutionKey) -> Any:
        async def attempt(change: Changes) -> None:
            attempts.append(keys)
            for key in keys:
                run = await change.run(key)
                await asyncio.sleep(0)
                receive(run, f"{keys}")

        return attempt

    await asyncio.gather(change(bench, wants(one, two)), change(bench, wants(two, one)))
    assert [await signals(bench, key) for key in (one, two)] == [2, 2]
    assert attempts.count((two, one)) == 2, "the second time with both locks from the beginning"


async def test_an_attempt_that_lost_against_another_process_is_made_again_on_what_is_stored(bench: Bench) -> None:
    key = await started(bench, "a")
    other = Bench(bench.store, exclusive=False)
    bench.history.engine.exclusive = False
    seen = []

    async def attempt(change: Changes) -> None:
        run = await change.run(key)
        seen.append(run.state.signal_count)
        if len(seen) == 1:
            await other.history.engine.change(*key, lambda run: receive(run, "another"))
        receive(run)

    await change(bench, attempt)
    assert seen == [0, 1]
    assert await signals(bench, key) == 2


@pytest.mark.parametrize("error", [Overtaken, lambda: VersionConflict(ExecutionKey("n", "w", "r"))])
async def test_who_always_loses_is_told_that_the_workflow_is_too_busy(bench: Bench, error: Any) -> None:
    key = await started(bench, "a")
    attempts = 0

    async def attempt(change: Changes) -> None:
        nonlocal attempts
        attempts += 1
        receive(await change.run(key))
        raise error()

    with pytest.raises(ServiceError, match=r"^workflow wf is too busy; try again$") as refused:
        await change(bench, attempt)
    assert (refused.value.code, attempts, await signals(bench, key)) == (Code.UNAVAILABLE, MAX_CONFLICTS, 0)


async def test_an_error_commits_nothing_and_releases_the_locks(bench: Bench) -> None:
    key = await started(bench, "a")

    async def attempt(change: Changes) -> None:
        receive(await change.run(key))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await change(bench, attempt)
    assert await signals(bench, key) == 0
    assert not bench.history.engine.lock(key).locked()


@pytest.mark.parametrize("ending", ["changed", "unchanged", "discarded", "kept"])
async def test_the_transfer_task_ends_with_the_attempt(bench: Bench, ending: str) -> None:
    key = await started(bench, "a")
    deleted = []
    commit, delete = bench.store.commit, bench.store.delete_transfer_task

    async def noted(transition: Any) -> None:
        deleted.extend(transition.transfer_tasks_done)
        await commit(transition)

    async def noted_alone(task: TransferTask) -> None:
        deleted.append(task)
        await delete(task)

    bench.store.commit, bench.store.delete_transfer_task = noted, noted_alone  # type: ignore[method-assign]
    task = transfer(key)

    async def attempt(change: Changes) -> None:
        run = await change.run(key)
        if ending != "unchanged":
            receive(run)
        if ending == "discarded":
            change.discard(run)
        if ending == "kept":
            change.keep_transfer_task()

    await change(bench, attempt, task)
    assert deleted == ([] if ending == "kept" else [task])
    assert await signals(bench, key) == (ending in ("changed", "kept"))


async def test_the_current_run_is_looked_up_and_one_that_is_gone_is_none(bench: Bench) -> None:
    key = await started(bench, "a")

    async def attempt(change: Changes) -> list[ExecutionKey | None]:
        found = [await change.current(NAMESPACE_ID, name) for name in ("a", "none")]
        found.append(await change.get(ExecutionKey(NAMESPACE_ID, "a", "no such run")))
        return [None if run is None else run.key for run in found]

    assert await change(bench, attempt) == [key, None, None]
    assert await bench.history.engine.read_from(NAMESPACE_ID, "a", "", bench.history.engine.read) is not None


async def test_a_start_that_always_finds_another_run_is_refused(bench: Bench) -> None:
    await started(bench, "a")
    request = rr.StartWorkflowExecutionRequest(workflow_id="a", request_id="another")
    request.workflow_type.name = request.task_queue.name = "t"
    starting = Start(bench.history.ports, request, bench.context, first_workflow_task)
    looks = 0

    async def resolve(entry: Any) -> Next:
        nonlocal looks
        looks += 1
        return Next.READ_AGAIN

    with pytest.raises(ServiceError, match=r"^workflow a is too busy; try again$"):
        await changes.create(bench.history.engine, starting.new_run, resolve)
    assert looks == MAX_CONFLICTS


async def test_the_policy_of_a_namespace_is_one_value_until_something_of_it_is_read_anew(bench: Bench) -> None:
    namespaces = NamespaceCache(bench.store, bench.clock)
    policies = NamespacePolicies(namespaces, Deployments(bench.store, bench.clock))
    unknown = await policies.of(NAMESPACE_ID)
    assert unknown == NamespacePolicy()
    await bench.store.create_namespace(NamespaceRecord(NAMESPACE_ID, "default", a_day().SerializeToString(), 0))
    known = await policies.of(NAMESPACE_ID)
    assert known.retention_ns == 86_400 * SECOND_NS
    assert await policies.of(NAMESPACE_ID) is known
    namespaces.forget(NAMESPACE_ID)
    again = await policies.of(NAMESPACE_ID)
    assert again is not known
    assert again == known
    retained = NamespacePolicies(namespaces, policies.deployments, retains_closed_runs=True)
    assert (await retained.of(NAMESPACE_ID)).retention_ns == 0


def a_day() -> NamespaceData:
    data = NamespaceData()
    data.config.workflow_execution_retention_ttl.seconds = 86_400
    return data


async def test_nobody_can_assign_to_the_ports_of_handlers(bench: Bench) -> None:
    with pytest.raises(FrozenInstanceError):
        bench.history.ports.clock = bench.clock  # type: ignore[misc]
