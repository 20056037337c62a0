"""One row that can't be processed stops nothing else: it is set aside, shown, and repaired by ending what it is of."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.isolation.backend import Backend
from tests.support.waiting import eventually
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.proto import internal_pb2
from whistlestop.common.proto.deployment_pb2 import RerouteTasksRequest, RerouteTasksResponse
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.history.timers.processor import TimerProcessor
from whistlestop.storage.records import (
    SLOTS,
    ExecutionKey,
    ExecutionWrite,
    MatchingTask,
    NamespaceRecord,
    NexusEndpointRecord,
    PollerRecord,
    QueryRecord,
    QueueMessage,
    TaskKey,
    TaskQueueRecord,
    TimerTask,
    TransferTask,
    Transition,
)
from whistlestop.storage.sqlite.store import SqliteStore
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from pathlib import Path


from tests.isolation.damage import JUNK, events, problems, problems_by_key, spoil, timer

# ---- timers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", ["server", "function"])
async def test_timers_of_others_fire_beside_a_row_that_cannot_be_processed(backend: Backend, process: str) -> None:
    run_id = await backend.start("bad")
    await timer(backend, "bad", 15)
    await backend.start("good")
    await timer(backend, "good", 15)
    key = await spoil(backend, "bad", run_id)
    unknown = ExecutionKey(backend.namespace_id, "w", "r")
    await backend.store.put_timer(TimerTask("a kind of a later release", 1, unknown, backend.clock.now_ns(), JUNK))
    await backend.restart()
    if process == "server":
        await backend.history.start()

        async def fired() -> bool:
            await backend.clock.advance(5)
            return "timer_fired" in await events(backend, "good") and len(await problems_by_key(backend.store)) == 2

        await eventually(fired)
    else:
        await backend.clock.advance(20)
        found = await backend.history.call(
            HistoryService.FireTimers, internal_pb2.FireTimersRequest(limit=50), CallContext()
        )
        assert isinstance(found, internal_pb2.FireTimersResponse)
        assert (found.timers, found.more) == (3, False)
        assert found.next_due_ns > backend.clock.now_ns(), "what can't be processed is not due again at once"
        await backend.history.transfers.drain()
    assert "timer_fired" in await events(backend, "good")
    shown = await problems_by_key(backend.store)
    assert "can't be read" in shown[f"{key.namespace_id}/bad/{run_id}/execution"]
    assert "unknown kind of timer" in shown[f"{key.namespace_id}/w/r/a kind of a later release"]


async def test_a_row_that_fails_again_is_tried_later_and_later_across_restarts(backend: Backend) -> None:
    key = ExecutionKey(backend.namespace_id, "w", "r")
    await backend.store.put_timer(TimerTask("unknown", 1, key, backend.clock.now_ns()))
    waits = []
    for _ in range(12):
        began = backend.clock.now_ns()
        await backend.restart()
        await backend.history.timers.fire_page(10)
        (row,) = await backend.store.next_timers(0, SLOTS, 0, 10)
        waits.append((row.fire_at_ns - began) // SECOND_NS)
        await backend.clock.advance((row.fire_at_ns - began) / SECOND_NS)
    assert waits[:4] == [5, 10, 20, 40]
    assert waits[-1] == 3600
    assert "after 12 attempts" in (await problems(backend.store))["timer_tasks"]


async def test_a_handler_that_raises_stops_no_other_and_is_forgotten_when_it_no_longer_does(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    fired = []
    failing = True

    async def handler(timer: TimerTask) -> None:
        if failing and timer.key.workflow_id == "bad":
            raise ZeroDivisionError("a bug")
        fired.append(timer.key.workflow_id)
        await backend.store.delete_timer(timer)

    timers = TimerProcessor(backend.history.engine, {"test": handler})
    for name in ("bad", "good", "better"):
        await backend.store.put_timer(TimerTask("test", 1, ExecutionKey("n", name, "r"), backend.clock.now_ns()))
    for _ in range(4):
        await timers.fire_page(2)
        await backend.clock.advance(60)
    assert sorted(fired) == ["better", "good"]
    assert backend.history.aside.counted >= 2
    logged = [record for record in caplog.records if "set aside" in record.message]
    assert len(logged) == 1, "logged once"
    failing = False
    await backend.clock.advance(3600)
    await timers.fire_page(2)
    assert "bad" in fired
    assert await problems(backend.store) == {}


async def test_more_rows_that_fail_than_a_page_holds_do_not_starve_the_others(backend: Backend) -> None:
    await backend.start("good")
    await timer(backend, "good", 1)
    for number in range(30):
        key = ExecutionKey("n", f"w{number}", "r")
        await backend.store.put_timer(TimerTask("unknown", 1, key, backend.clock.now_ns() - SECOND_NS))
    await backend.clock.advance(2)
    for _ in range(10):
        await backend.history.timers.fire_page(5)
    assert "timer_fired" in await events(backend, "good")


# ---- transfers ------------------------------------------------------------------------------------------------------


async def test_unreadable_transfer_tasks_do_not_block_others(backend: Backend) -> None:
    run_id = await backend.start("bad")
    key = ExecutionKey(backend.namespace_id, "bad", run_id)
    for kind, data in (("signal_external", JUNK), ("a kind of a later release", b"")):
        task = TransferTask(1, backend.ids.task_id(0), key, kind, data, 0)
        stored = await backend.store.get_execution(key)
        assert stored is not None
        await backend.store.commit(
            Transition((
                ExecutionWrite(
                    key, stored.slot, stored.db_record_version, stored.state, stored.next_event_id, stored.status,
                    branch_id=run_id, transfer_tasks_added=(task,),
                ),
            ))
        )  # fmt: skip
    await backend.restart()
    await backend.history.transfers.sweep_once()
    await backend.history.transfers.drain()
    assert await backend.store.scan_transfer_tasks(0, SLOTS, backend.clock.now_ns(), 10) == []
    assert "transfer_tasks" in await problems(backend.store)
    await backend.call("DeleteWorkflowExecution", namespace="default", workflow_execution={"workflow_id": "bad"})
    await backend.clock.advance(3600)
    await backend.history.transfers.sweep_once()
    await backend.history.transfers.drain()
    assert await backend.store.scan_transfer_tasks(0, SLOTS, 2**62, 10) == []
    assert await problems(backend.store) == {}


# ---- matching -------------------------------------------------------------------------------------------------------


async def test_a_queue_goes_on_behind_tasks_that_cannot_be_started(backend: Backend) -> None:
    for number in range(5):
        name = f"bad{number}"
        run_id = await backend.start(name, task_queue={"name": "q"})
        await spoil(backend, name, run_id)
    await backend.start("good", task_queue={"name": "q"})
    await backend.restart()
    assert (await backend.poll("q")).workflow_execution.workflow_id == "good"

    async def is_empty() -> bool:
        return not await backend.store.list_tasks(backend.namespace_id, "q", 1, None, 10)

    await eventually(is_empty)
    assert "tasks" in await problems(backend.store)


async def test_a_nexus_task_that_cannot_be_read_stops_no_rerouting(backend: Backend) -> None:
    key = TaskKey(backend.namespace_id, "q", 3, 3, 1)
    await backend.store.put_tasks([MatchingTask(key, "w", "r", 5, 1, 0, data=JUNK)])
    request = RerouteTasksRequest(queues=[RerouteTasksRequest.Queue(name="q", task_type=3)])
    reply = await backend.history.call(
        HistoryService.RerouteTasks, request, CallContext(namespace_id=backend.namespace_id)
    )
    assert decoded(reply, RerouteTasksResponse) == RerouteTasksResponse(moved=0)


@pytest.mark.parametrize("can_long_poll", [True, False])
async def test_a_nexus_task_that_cannot_be_read_is_taken_out_of_its_queue(
    backend: Backend, *, can_long_poll: bool
) -> None:
    key = TaskKey(backend.namespace_id, "q", 3, 3, 1)
    await backend.store.put_tasks([MatchingTask(key, "w", "r", 5, 1, 0, data=JUNK)])
    poll = rr.PollNexusTaskQueueRequest(namespace="default")
    poll.task_queue.name = "q"
    context = CallContext(backend.clock.steady_ns() + 2 * SECOND_NS, {}, backend.namespace_id, "default", can_long_poll)
    polling = asyncio.ensure_future(backend.matching.call(MatchingService.PollNexusTaskQueue, poll, context))

    async def is_empty() -> bool:
        return not await backend.store.list_tasks(backend.namespace_id, "q", 3, None, 10)

    await eventually(is_empty)
    polling.cancel()


async def test_damaged_rows_of_a_queue_are_read_as_if_they_were_not_there(backend: Backend) -> None:
    ns, far = backend.namespace_id, 2**62
    await backend.store.put_task_queue(TaskQueueRecord(ns, "q", 2, 1, b"\x0a" + JUNK, 0), 0)
    await backend.store.put_pollers(
        [PollerRecord(ns, "q", 1, "damaged", 1, JUNK, far), PollerRecord(ns, "", 0, "worker", 1, JUNK, far)]
    )
    await backend.call("DescribeTaskQueue", namespace="default", task_queue={"name": "q"}, task_queue_type=1)
    assert not (await backend.call("ListWorkers", namespace="default")).workers_info
    await backend.start("w", task_queue={"name": "q"})
    await backend.store.put_tasks([
        replace(task, data=JUNK) for task in await backend.store.list_tasks(ns, "q", 1, None, 10)
    ])  # fmt: skip
    assert (await backend.poll("q")).workflow_execution.workflow_id == "w"


async def test_a_query_that_cannot_be_read_does_not_hold_up_the_workflow_task(backend: Backend) -> None:
    run_id = await backend.start("w")
    key = ExecutionKey(backend.namespace_id, "w", run_id)
    entry = await backend.history.engine.read(key)
    entry.state.buffered_queries = 1
    await backend.store.put_query(QueryRecord("id", key, JUNK, buffered=True, expires_ns=2**62), None)
    assert (await backend.poll("w")).task_token
    assert await backend.store.get_query("id") is None


# ---- lists ----------------------------------------------------------------------------------------------------------


async def spoil_visibility(backend: Backend, run_id: str, *, attributes: str = "{}") -> None:
    store: Any = backend.store
    if hasattr(store, "path"):
        sql = "UPDATE executions_visibility SET memo = ?, search_attributes = ? WHERE run_id = ?"
        await store._write(lambda cursor: cursor.execute(sql, (JUNK, attributes, run_id)))
    else:
        sql = "UPDATE executions_visibility SET memo = $1, search_attributes = $2 WHERE run_id = $3"
        await store._run(sql, (JUNK, attributes, run_id))


@pytest.mark.parametrize("attributes", ["{}", '{"A":' * 1000 + "1" + "}" * 1000, '{"BuildIds":[1,null]}', "[]"])
async def test_a_page_shows_a_row_without_what_cannot_be_read(
    backend: Backend, attributes: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["a", "b", "c"]
    for name in names:
        run_id = await backend.start(name, memo={"fields": {"k": {"data": b"1"}}})
        if name == "b":
            await spoil_visibility(backend, run_id, attributes=attributes)
    for _ in range(3):
        listed = await backend.call("ListWorkflowExecutions", namespace="default")
        assert sorted(each.execution.workflow_id for each in listed.executions) == names
    assert sum("k" in each.memo.fields for each in listed.executions) == 2
    assert len([record for record in caplog.records if "set aside" in record.message]) == 1
    assert "executions_visibility" in await problems(backend.store)
    await backend.call("DeleteWorkflowExecution", namespace="default", workflow_execution={"workflow_id": "b"})
    assert await problems(backend.store) == {}


async def test_runs_with_a_forged_division_do_not_break_lists(backend: Backend) -> None:
    """The attribute of the division may be set by anybody, and the memo is the client's."""
    for number, (division, memo) in enumerate((
        ("TemporalBatcher", {"batch_operation_type": {"data": b"{not json"}}),
        ("TemporalBatcher", {"batch_operation_type": {"data": b"[" * 100_000}}),
        ("TemporalScheduler", {"ScheduleInfo": {"data": JUNK}}),
        ("TemporalScheduler", {}),
    )):  # fmt: skip
        attribute = {"metadata": {"encoding": b"json/plain", "type": b"Keyword"}, "data": f'"{division}"'.encode()}
        await backend.start(
            f"w{number}", memo={"fields": memo},
            search_attributes={"indexed_fields": {"TemporalNamespaceDivision": attribute}},
        )  # fmt: skip
    assert len((await backend.call("ListBatchOperations", namespace="default")).operation_info) == 2
    await backend.call("ListSchedules", namespace="default")


async def test_damaged_namespaces_and_endpoints_leave_the_others_in_the_lists(backend: Backend) -> None:
    await backend.open("other", "damaged")
    record = await backend.store.get_namespace(name="damaged")
    assert record is not None
    await backend.store.update_namespace(NamespaceRecord(record.namespace_id, "damaged", JUNK, record.version))
    await backend.restart()
    listed = await backend.call("ListNamespaces")
    assert {"default", "other", "damaged"} <= {each.namespace_info.name for each in listed.namespaces}
    await backend.start("w", namespace="damaged")
    await backend.call("UpdateNamespace", namespace="damaged", update_info={"description": "mended"})
    described = await backend.call("DescribeNamespace", namespace="damaged")
    assert described.namespace_info.description == "mended"

    for number in (1, 2):
        target = {"worker": {"namespace": "default", "task_queue": "q"}}
        await backend.call("CreateNexusEndpoint", spec={"name": f"endpoint{number}", "target": target})
    endpoint = await backend.store.get_nexus_endpoint(name="endpoint1")
    assert endpoint is not None
    await backend.store.update_nexus_endpoint(
        NexusEndpointRecord(endpoint.endpoint_id, "endpoint1", JUNK, endpoint.version)
    )
    assert [each.spec.name for each in (await backend.call("ListNexusEndpoints")).endpoints] == ["endpoint2"]
    assert "nexus_endpoints" in await problems(backend.store)
    await backend.call("DeleteNexusEndpoint", id=endpoint.endpoint_id, version=endpoint.version + 1)
    assert await problems(backend.store) == {}


async def test_work_of_the_servers_own_goes_on_beside_messages_that_cannot_be_read(backend: Backend) -> None:
    from whistlestop.frontend.api.namespaces import DELETION_QUEUE, finish_deletions
    from whistlestop.frontend.batch.worker import OPEN_JOBS, work_on_batches

    for number, data in enumerate((JUNK, b"[1]", b"[" * 10_000, b"{}")):
        await backend.store.enqueue(QueueMessage(OPEN_JOBS, number + 1, data))
    await backend.store.enqueue(QueueMessage(DELETION_QUEUE, 1, JUNK))
    await backend.open("doomed")
    await backend.call("DeleteNamespace", namespace="doomed")
    while await finish_deletions(backend.frontend.ports):
        pass
    await backend.clock.advance(6)

    async def is_gone() -> bool:
        """By this call, or by the server's own loop, which may be quicker."""
        await finish_deletions(backend.frontend.ports)
        names = [each.namespace_info.name for each in (await backend.call("ListNamespaces")).namespaces]
        return not any("doomed" in name for name in names)

    await eventually(is_gone)
    assert await work_on_batches(backend.frontend.ports) == 0
    assert "queue" in await problems(backend.store)


async def test_an_unreadable_note_is_skipped(backend: Backend) -> None:
    await backend.store.enqueue(QueueMessage("set-aside", 7, JUNK))
    assert await problems(backend.store) == {}
    await backend.history.aside.tidy()
    assert await backend.store.read_queue("set-aside", 0, 10) == []


async def test_without_bad_rows_nothing_is_read_or_written_for_them(backend: Backend) -> None:
    """Neither of commits nor of timers that fire."""
    asked: list[str] = []
    store: Any = backend.store
    enqueue, read_queue = store.enqueue, store.read_queue

    async def noting_enqueue(message: QueueMessage) -> None:
        asked.append("enqueue")
        await enqueue(message)

    async def noting_read(*arguments: Any) -> list[QueueMessage]:
        asked.append("read")
        found: list[QueueMessage] = await read_queue(*arguments)
        return found

    store.enqueue, store.read_queue = noting_enqueue, noting_read
    await backend.start("w")
    await timer(backend, "w", 1)
    await backend.clock.advance(2)
    await backend.history.timers.fire_page(10)
    assert "timer_fired" in await events(backend, "w")
    assert asked == []


async def test_a_check_finds_bad_rows_that_were_not_read_yet(backend: Backend) -> None:
    from whistlestop.server.unreadable import unreadable

    await backend.open("damaged")
    run_id = await backend.start("bad")
    await backend.start("good")
    key = await spoil(backend, "bad", run_id)
    record = await backend.store.get_namespace(name="damaged")
    assert record is not None
    await backend.store.update_namespace(NamespaceRecord(record.namespace_id, "damaged", JUNK, record.version))
    found = {(finding.table, finding.key) for finding in await unreadable(backend.store, 10)}
    assert found == {
        ("executions", f"{key.namespace_id}/bad/{run_id}"), ("namespaces", record.namespace_id),
    }  # fmt: skip
    assert len(await unreadable(backend.store, 1)) == 1


async def test_rows_that_were_set_aside_are_metrics(backend: Backend) -> None:
    from whistlestop.server.metrics.exposition import text_of
    from whistlestop.server.metrics.prometheus import PrometheusMetrics
    from whistlestop.server.process import _Backlog

    metrics = PrometheusMetrics()
    backend.history.aside.listener = metrics.row_failed
    await backend.store.put_timer(TimerTask("unknown", 1, ExecutionKey("n", "w", "r"), backend.clock.now_ns()))
    for _ in range(2):
        await backend.history.timers.fire_page(10)
        await backend.clock.advance(10)
    services: Any = backend
    await _Backlog(services, metrics).refresh()
    text = text_of(metrics)().decode()
    assert 'whistlestop_rows_failed_total{table="timer_tasks"} 2.0' in text
    assert 'whistlestop_rows_set_aside{table="timer_tasks"} 1.0' in text


async def test_text_that_is_no_utf_8_leaves_the_rows_beside_it(tmp_path: Path) -> None:
    """Postgres holds no such text; in a SQLite file it is damage. Each read of the page failed with it."""
    store: Any = SqliteStore(str(tmp_path / "damaged.db"))
    await store.open()
    await store.migrate()
    backend = Backend(store)
    await backend.open()
    for name in ("bad", "good"):
        await backend.start(name)
        await timer(backend, name, 15)
    for table in ("timer_tasks", "executions_visibility"):
        sql = f"UPDATE {table} SET workflow_id = CAST(x'ff' AS TEXT) WHERE workflow_id = 'bad'"
        await store._write(lambda cursor, sql=sql: cursor.execute(sql))
    await backend.clock.advance(20)
    assert await backend.history.timers.fire_page(10) == 2
    assert "timer_fired" in await events(backend, "good")
    listed = await backend.call("ListWorkflowExecutions", namespace="default")
    assert sorted(each.execution.workflow_id for each in listed.executions) == ["good", "\ufffd"]
    assert await store.count_visibility(backend.namespace_id, parse("WorkflowId = 'good'", {})) == 1
    await backend.close()
    await store.close()
