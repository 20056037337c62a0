"""Every operation of a store that is not open, or whose tables are gone, raises an error of the interface."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.storage.factories import (
    NAMESPACE,
    QUEUE,
    SLOTS_ALL,
    WORKFLOW_QUEUE,
    lease,
    member,
    message,
    namespace,
    one_branch,
    poller,
    query,
    queue_record,
    run_key,
    start,
    task,
    timer,
    transfer,
)
from whistlestop.storage.errors import SchemaMismatch, TooLarge, Unavailable
from whistlestop.storage.limits import VALUE_LIMIT
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.records import NexusEndpointRecord, Transition
from whistlestop.storage.sqlite import SqliteStore
from whistlestop.storage.visibility import parse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.storage.interface import Store

KEY = run_key()
ENDPOINT = NexusEndpointRecord("e-1", "payments", b"data", 0)
QUEUES = (NAMESPACE, QUEUE, WORKFLOW_QUEUE)
READS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "get_execution": lambda store: store.get_execution(KEY),
    "get_current": lambda store: store.get_current(NAMESPACE, "order-7"),
    "read_history": lambda store: store.read_history(NAMESPACE, one_branch(), 1, 9, 9),
    "branches_of": lambda store: store.branches_of(KEY),
    "list_executions": lambda store: store.list_executions(None, 9),
    "list_tasks": lambda store: store.list_tasks(*QUEUES, None, 9),
    "list_tasks_by_level": lambda store: store.list_tasks_by_level(*QUEUES, 0, 9, 9),
    "count_tasks": lambda store: store.count_tasks([QUEUES], 9),
    "backlog": lambda store: store.backlog(*QUEUES, 9),
    "get_task_queue": lambda store: store.get_task_queue(*QUEUES),
    "scan_timers": lambda store: store.scan_timers(*SLOTS_ALL, 9, 9),
    "has_expired_rows": lambda store: store.has_expired_rows(9, 9),
    "next_timers": lambda store: store.next_timers(*SLOTS_ALL, 9, 9),
    "scan_transfer_tasks": lambda store: store.scan_transfer_tasks(*SLOTS_ALL, 9, 9),
    "get_query": lambda store: store.get_query("q"),
    "list_buffered_queries": lambda store: store.list_buffered_queries(KEY, 9, 9),
    "count_visibility": lambda store: store.count_visibility(NAMESPACE, parse("WorkflowId = 'x'", {})),
    "get_namespace": lambda store: store.get_namespace(name="x"),
    "list_namespaces": lambda store: store.list_namespaces("", 9),
    "get_nexus_endpoint": lambda store: store.get_nexus_endpoint(name="x"),
    "list_nexus_endpoints": lambda store: store.list_nexus_endpoints("", 9),
    "list_members": lambda store: store.list_members(9, 9),
    "list_leases": lambda store: store.list_leases(),
    "read_queue": lambda store: store.read_queue("x", 0, 9),
    "check": lambda store: store.check(9),
    "notes_set_aside": lambda store: store.notes_set_aside(9),
    "table_counts": lambda store: store.table_counts(9),
}
WRITES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "commit": lambda store: store.commit(Transition((start(),))),
    "delete_execution": lambda store: store.delete_execution(KEY),
    "put_tasks": lambda store: store.put_tasks([task(1)]),
    "delete_tasks": lambda store: store.delete_tasks([task(1).key]),
    "put_task_queue": lambda store: store.put_task_queue(queue_record(), 0),
    "put_pollers": lambda store: store.put_pollers([poller()]),
    "put_timer": lambda store: store.put_timer(timer(5)),
    "delete_timer": lambda store: store.delete_timer(timer(5)),
    "postpone_timer": lambda store: store.postpone_timer(timer(5), 9),
    "delete_transfer_task": lambda store: store.delete_transfer_task(transfer(1)),
    "postpone_transfer_task": lambda store: store.postpone_transfer_task(transfer(1), 9, 1),
    "put_query": lambda store: store.put_query(query(), None),
    "answer_query": lambda store: store.answer_query("q", KEY, b"x"),
    "delete_query": lambda store: store.delete_query("q"),
    "purge_queries": lambda store: store.purge_queries(9, 9),
    "create_namespace": lambda store: store.create_namespace(namespace()),
    "update_namespace": lambda store: store.update_namespace(namespace()),
    "delete_namespace": lambda store: store.delete_namespace("x"),
    "create_nexus_endpoint": lambda store: store.create_nexus_endpoint(ENDPOINT),
    "update_nexus_endpoint": lambda store: store.update_nexus_endpoint(ENDPOINT),
    "delete_nexus_endpoint": lambda store: store.delete_nexus_endpoint("e-1"),
    "heartbeat": lambda store: store.heartbeat(member()),
    "remove_member": lambda store: store.remove_member("host-1"),
    "take_lease": lambda store: store.take_lease(lease(), 0),
    "enqueue": lambda store: store.enqueue(message(1)),
    "delete_message": lambda store: store.delete_message(message(1)),
}
OTHERS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "ping": lambda store: store.ping(),
    "migrate": lambda store: store.migrate(),
    "schema_status": lambda store: store.schema_status(),
}


@pytest.mark.parametrize("make", [lambda: SqliteStore(":memory:"), lambda: PostgresStore("postgresql://127.0.0.1:1/x")],
                         ids=["sqlite", "postgres"])  # fmt: skip
@pytest.mark.parametrize("call", [*READS, *WRITES, *OTHERS])
async def test_a_store_that_is_not_open(call: str, make: Callable[[], Store]) -> None:
    with pytest.raises(Unavailable, match="the store is not open"):
        await {**READS, **WRITES, **OTHERS}[call](make())
    await make().close()


async def _drop_everything(store: Store) -> None:
    if isinstance(store, SqliteStore):
        main = store._open_main()
        tables = main.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        for (name,) in tables.fetchall():
            main.execute(f'DROP TABLE "{name}"')
        return
    assert isinstance(store, PostgresStore)
    async with store._connections().connection() as connection:
        await connection.execute("DROP SCHEMA public CASCADE")
        await connection.execute("CREATE SCHEMA public")


async def test_a_store_whose_tables_are_gone(store: Store) -> None:
    await _drop_everything(store)
    for name, call in {**READS, **WRITES}.items():
        try:
            await call(store)
        except SchemaMismatch as error:
            assert "run `whistlestop db migrate`" in str(error)  # noqa: PT017 - each call of a table
        else:
            raise AssertionError(f"{name} found something")


LARGE = bytes(VALUE_LIMIT + 1)
TOO_LARGE: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "nexus endpoint": lambda store: store.create_nexus_endpoint(replace(ENDPOINT, data=LARGE)),
    "nexus endpoint ": lambda store: store.update_nexus_endpoint(replace(ENDPOINT, data=LARGE)),
    "namespace": lambda store: store.create_namespace(namespace(data=LARGE)),
    "namespace ": lambda store: store.update_namespace(namespace(data=LARGE)),
}


@pytest.mark.parametrize("what", TOO_LARGE)
async def test_records_that_fit_no_column(what: str, store: Store) -> None:
    with pytest.raises(TooLarge, match=f"{what.strip()}: {VALUE_LIMIT + 1} bytes"):
        await TOO_LARGE[what](store)
