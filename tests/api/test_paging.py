"""No list costs more on its last page than on its first, whatever else stands in the namespace: 10,000 of each kind.

(Workers and fairness keys: `tests/matching`.) Counted is what the database does (steps of SQLite's virtual machine, rows that Postgres touches), not the time it takes.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_rr
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests import postgres
from tests.api.fixtures import Remembering, World, new_world
from whistlestop.common.clock import FakeClock
from whistlestop.common.ids import CountedIds
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.service import Frontend
from whistlestop.storage.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from google.protobuf.message import Message

MANY = 10_000
PAGE = 1000
OPEN, CLOSED = "NULL", "{start} + 1000"
KINDS = {
    # Division, prefix of ids, close time. Listed in order of start times, the latest first: workflows stand before all.
    "workflow": ("", "", OPEN),
    "closed": ("", "", CLOSED),
    "schedule": ("TemporalScheduler", "temporal-sys-scheduler:", OPEN),
    "activity": ("3332429922", "temporal-sys-activity:", OPEN),
    "operation": ("131748067", "temporal-sys-nexus-operation:", OPEN),
    "batch": ("TemporalBatcher", "", CLOSED),
}
_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {many})",
    "postgres": "WITH numbers (n) AS (SELECT generate_series(1, {many}))",
}
_FILL = """{numbers}
INSERT INTO executions_visibility (namespace_id, run_id, workflow_id, workflow_type_name, task_queue, status, start_time,
    execution_time, close_time, history_length, history_size_bytes, state_transition_count, root_workflow_id, root_run_id,
    search_attributes, memo)
SELECT '{namespace_id}', '{kind}-' || n, '{prefix}{kind}-' || n, 'Type', 'queue', {status}, {start}, {start}, {close},
    1, 1, 1, 'r', 'r', '{attributes}', {memo} FROM numbers
"""
# What belongs to the cluster.
_FILL_CLUSTER = (
    """{numbers}
INSERT INTO namespaces (id, name, version, data) SELECT 'other-' || n, 'other-' || n, 1, {empty} FROM numbers
""",
    """{numbers}
INSERT INTO nexus_endpoints (id, name, version, data)
SELECT '00000000-0000-0000-0000-' || (n + 100000000000), 'endpoint-' || n, 1, {empty} FROM numbers
""",
)
_EMPTY = {"sqlite": "x''", "postgres": "''::bytea"}
_TABLES = (b"executions_visibility", b"namespaces", b"nexus_endpoints")


def _fills(namespace_id: str, dialect: str) -> Iterator[str]:
    for kind in KINDS:
        yield _fill(kind, namespace_id, dialect)
    for fill in _FILL_CLUSTER:
        yield fill.format(numbers=_NUMBERS[dialect].format(many=MANY), empty=_EMPTY[dialect])


def _fill(kind: str, namespace_id: str, dialect: str) -> str:
    division, prefix, close = KINDS[kind]
    # A hundred to one instant: pages end within ties, too.
    start = f"{1_000_000_000_000_000 + list(KINDS).index(kind) * -1_000_000_000} + n / 100"
    return _FILL.format(
        numbers=_NUMBERS[dialect].format(many=MANY), namespace_id=namespace_id, kind=kind, prefix=prefix, start=start,
        close=close.format(start=start), status=1 if close == OPEN else 2,
        attributes=json.dumps({"TemporalNamespaceDivision": division} if division else {}),
        memo=_EMPTY[dialect],
    )  # fmt: skip


@asynccontextmanager
async def on_sqlite() -> AsyncIterator[tuple[World, Callable[[], int]]]:
    world = await new_world()
    store: Any = world.frontend.ports.store
    namespace = await world.frontend.ports.namespaces.by_name("default")
    assert namespace is not None
    for fill in _fills(namespace.namespace_id, "sqlite"):
        store._lister.execute(fill)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def counted() -> int:
        nonlocal steps
        steps, before = 0, steps
        return before

    store._lister.set_progress_handler(count, 10)
    yield world, counted
    await world.frontend.close()
    await store.close()


@asynccontextmanager
async def on_postgres() -> AsyncIterator[tuple[World, Callable[[], int]]]:
    async with postgres.migrated_database() as url:
        store: Any = PostgresStore(url, pool_size=1)
        await store.open()
        clock, nobody = FakeClock(), Remembering()
        frontend = Frontend(store, nobody, nobody, clock, CountedIds())
        await ensure_namespace(frontend.ports, "default")
        namespace = await frontend.ports.namespaces.by_name("default")
        assert namespace is not None
        for fill in _fills(namespace.namespace_id, "postgres"):
            await store._run(fill, ())
        await store._run("ANALYZE executions_visibility, namespaces, nexus_endpoints", ())
        touched, read = 0, store._all

        async def explained(sql: Any, parameters: Any) -> Any:
            nonlocal touched
            text = sql if isinstance(sql, bytes) else sql.encode()
            if any(table in text for table in _TABLES):
                explain = "EXPLAIN (ANALYZE, FORMAT JSON) "
                text = explain.encode() + sql if isinstance(sql, bytes) else explain + sql
                (plan,) = await read(text, parameters)
                touched += _touched(plan[0][0]["Plan"])
            return await read(sql, parameters)

        def counted() -> int:
            nonlocal touched
            touched, before = 0, touched
            return before

        store._all = explained
        yield World(frontend, nobody, nobody, clock), counted
        await frontend.close()
        await store.close()


def _touched(plan: dict[str, Any]) -> int:
    """Rows that the parts of a plan gave or passed over."""
    own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return int(own) + sum(_touched(part) for part in plan.get("Plans", ()))


def _request(method: str, size: int, token: bytes) -> Message:
    kind = getattr(rr, f"{method}Request", None) or getattr(operator_rr, f"{method}Request")
    request: Any = kind(next_page_token=token)
    if hasattr(request, "namespace"):
        request.namespace = "default"
    setattr(request, "page_size" if hasattr(request, "page_size") else "maximum_page_size", size)
    made: Message = request
    return made


LISTS = (
    ("ListWorkflowExecutions", 2 * MANY),
    ("ScanWorkflowExecutions", 2 * MANY),
    ("ListOpenWorkflowExecutions", MANY),
    ("ListClosedWorkflowExecutions", MANY),
    ("ListSchedules", MANY),
    ("ListActivityExecutions", MANY),
    ("ListNexusOperationExecutions", MANY),
    ("ListBatchOperations", MANY),
    ("ListNamespaces", MANY + 1),
    ("ListNexusEndpoints", MANY),
)
STORES: dict[str, Any] = {"sqlite": on_sqlite, "postgres": on_postgres}


async def _page(world: World, method: str, size: int, token: bytes) -> Any:
    request: Any = _request(method, size, token)
    if method in ("ListOpenWorkflowExecutions", "ListClosedWorkflowExecutions"):
        request.start_time_filter.earliest_time.FromSeconds(1)
    return await world.call(method, request)


def _length(answer: Any) -> int:
    lists = [getattr(answer, field.name) for field, _ in answer.ListFields() if field.name != "next_page_token"]
    return len(lists[0]) if lists else 0


@pytest.mark.parametrize("name", ["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres])])
async def test_the_last_page_costs_what_the_first_one_does(name: str) -> None:
    if name == "postgres" and not postgres.available():
        pytest.skip("no Postgres here")
    uneven: dict[str, list[int]] = {}
    async with STORES[name]() as (world, counted):
        for method, total in LISTS:
            starts, token, listed = [], b"", 0
            while True:
                answer = await _page(world, method, PAGE, token)
                listed += _length(answer)
                starts.append(token)
                token = answer.next_page_token
                if not token:
                    break
            assert listed == total, method
            costs = []
            for start in (starts[0], starts[len(starts) // 2], starts[total // PAGE - 1]):
                counted()
                assert _length(await _page(world, method, PAGE, start)) == PAGE
                costs.append(counted())
            if max(costs) > 2 * min(costs):
                uneven[method] = costs
    assert uneven == {}
