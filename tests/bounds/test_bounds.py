"""What a call may cost is bounded, and the others go on beside it: a row for each RPC whose work grows with its request.

The table stands in docs/architecture.md ("What a request may cost"); each row is here with a request at its bound and
one beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.bounds.neighbour import beside
from tests.isolation.backend import full_name
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend.registry import REGISTRY
from whistlestop.storage.visibility import query as queries
from whistlestop.storage.visibility import syntax, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.isolation.backend import Backend

LONGEST_TURN = 100
"""Yardsticks of CPU time (about half a millisecond each). Before, a filter took thousands, a schedule a hundred thousand."""

FILTERED = (
    "CountWorkflowExecutions",
    "ListWorkflowExecutions",
    "ScanWorkflowExecutions",
    "ListSchedules",
    "CountSchedules",
)


def conditions(number: int) -> str:
    return " OR ".join(["WorkflowId STARTS_WITH 'a'"] * number)


def values(number: int) -> str:
    return "WorkflowId IN (" + ",".join(["'a'"] * number) + ")"


@dataclass(frozen=True, slots=True)
class Row:
    """A request at its bound, the same beyond it, and what is said of that."""

    method: str
    make: Callable[[int], dict[str, Any]]
    most: int
    refusal: str

    def __str__(self) -> str:
        return self.method


def filters(make: Callable[[int], str], most: int, refusal: str) -> list[Row]:
    """Of workflows by WorkflowId, and of schedules, which have none, by ScheduleId."""
    rows = []
    for method in FILTERED:
        name = "ScheduleId" if "Schedule" in method else "WorkflowId"

        def filtered(number: int, name: str = name) -> dict[str, Any]:
            return {"query": make(number).replace("WorkflowId", name)}

        rows.append(Row(method, filtered, most, refusal))
    return rows


def _calendars(number: int) -> dict[str, Any]:
    calendar = {
        "second": [{}],
        "minute": [{}],
        "hour": [{"start": 3}],
        "day_of_month": [{"start": 31}],
        "month": [{"start": 3}],
        "day_of_week": [{"start": 0, "end": 6}],
    }
    return _schedule({"structured_calendar": [calendar] * number})


def _exclusions(number: int) -> dict[str, Any]:
    never = {
        "second": [{"start": 1}],
        "minute": [{}],
        "hour": [{}],
        "day_of_month": [{"start": 1, "end": 31}],
        "month": [{"start": 1, "end": 12}],
        "day_of_week": [{"start": 0, "end": 6}],
    }
    return _schedule({"interval": [{"interval": {"seconds": 60}}], "exclude_structured_calendar": [never] * number})


def _schedule(spec: dict[str, Any]) -> dict[str, Any]:
    action = {"start_workflow": {"workflow_id": "w", "workflow_type": {"name": "W"}, "task_queue": {"name": "q"}}}
    return {"schedule_id": "s", "request_id": "r", "schedule": {"spec": spec, "action": action}}


def _rule(number: int) -> dict[str, Any]:
    predicate = " OR ".join(["ActivityId = 'a'"] * number)
    return {"spec": {"id": "r", "activity_start": {"predicate": predicate}, "actions": [{"activity_pause": {}}]}}


ROWS = [
    *filters(conditions, syntax.MAX_CONDITIONS, "more than 5000 conditions"),
    *filters(values, queries.MAX_VALUES, "more than 10000 values"),
    *filters(lambda size: f"WorkflowId = '{'a' * (size - 15)}'", tokens.MAX_LENGTH, "longer than 262144 characters"),
    *filters(lambda depth: "NOT " * depth + "WorkflowId = 'a'", queries.MAX_DEPTH, "more than 30 levels"),
    *filters(lambda depth: "(" * depth + "WorkflowId = 'a'" + ")" * depth, 99, "max nesting level reached"),
    Row("CountWorkers", lambda number: {"query": " AND ".join(["TaskQueue != 'a'"] * number)}, 100, "more than 100 conditions"),
    Row("ListWorkers", lambda number: {"query": " AND ".join(["TaskQueue != 'a'"] * number)}, 100, "more than 100 conditions"),
    Row("CreateSchedule", _calendars, 100, "more than 100 calendars, intervals and cron strings"),
    Row("CreateSchedule", lambda number: _schedule({"cron_string": ["1 2 3 4 *"] * number}), 100, "more than 100 calendars"),
    Row("CreateSchedule", lambda number: _schedule({"interval": [{"interval": {"seconds": 60}}] * number}), 100, "more than 100"),
    Row("CreateSchedule", _exclusions, 300, "more than 300 excluded calendars"),
    Row("CreateWorkflowRule", _rule, 100, "exceeds limit of 100 conditions"),
]  # fmt: skip


async def watched(backend: Backend, method: str, **fields: Any) -> tuple[Any, float]:
    """The answer (or the refusal) of a request that was made beforehand, and the longest turn beside it."""
    spec = REGISTRY[full_name(method)]
    kind: Any = spec.request_type
    request = kind(namespace="default", **fields)
    context = CallContext(deadline_ns=backend.clock.steady_ns() + 10 * SECOND_NS)
    async with beside() as neighbour:
        try:
            answer: Any = await backend.frontend.call(spec.full_name, request, context)
        except ServiceError as error:
            answer = error
    return answer, neighbour.longest


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method}-{row.refusal.replace(' ', '-')[:30]}")
async def test_a_request_at_its_bound_is_served_and_one_beyond_is_refused(backend: Backend, row: Row) -> None:
    answer, longest = await watched(backend, row.method, **row.make(row.most))
    assert not isinstance(answer, ServiceError), answer
    assert longest < LONGEST_TURN, f"{longest:.0f} yardsticks"
    for beyond in (row.most + 1, row.most * 5):
        refused, longest = await watched(backend, row.method, **row.make(beyond))
        assert isinstance(refused, ServiceError)
        assert refused.code is Code.INVALID_ARGUMENT
        # Far beyond it, another bound may be met first.
        assert row.refusal in refused.message or beyond > row.most + 1, refused.message
        assert longest < LONGEST_TURN, f"{longest:.0f} yardsticks"


async def test_the_reported_large_filters_do_not_block_other_calls(backend: Backend) -> None:
    """As shared/security/big_query.py does, with the same filters."""
    most = 3_900_000
    for query in (
        "WorkflowType = '" + "ab " * 30_000 + "'",
        " AND ".join(["WorkflowType STARTS_WITH 'a'"] * 9_000),
        "(" + " OR ".join(["WorkflowType IS NULL"] * 18_000) + ")",
        "WorkflowId IN (" + ",".join(["'a'"] * (most // 4)) + ")",
        "WorkflowId = '" + "''" * (most // 2) + "'",
    ):
        _, longest = await watched(backend, "CountWorkflowExecutions", query=query)
        assert longest < LONGEST_TURN, f"{longest:.0f} yardsticks for {query[:40]}"


@pytest.mark.parametrize("what", ["markers", "timers", "upserts"])
async def test_a_completion_with_many_commands_is_worked_through_beside_the_others(backend: Backend, what: str) -> None:
    def command(number: int) -> dict[str, Any]:
        if what == "markers":
            return {"command_type": 9, "record_marker_command_attributes": {"marker_name": "m"}}
        if what == "timers":
            timer = {"timer_id": str(number), "start_to_fire_timeout": {"seconds": 1000}}
            return {"command_type": 3, "start_timer_command_attributes": timer}
        payload = {"metadata": {"encoding": b"json/plain"}, "data": b'["a"]'}
        attributes = {"search_attributes": {"indexed_fields": {"BuildIds": payload}}}
        return {"command_type": 13, "upsert_workflow_search_attributes_command_attributes": attributes}

    await backend.start("w")
    task = await backend.poll("w")
    commands = [command(number) for number in range(5000)]
    answer, longest = await watched(
        backend, "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=commands
    )
    assert not isinstance(answer, ServiceError), answer
    assert longest < LONGEST_TURN, f"{longest:.0f} yardsticks"
    for method in ("GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse", "DescribeWorkflowExecution"):
        answer, longest = await watched(backend, method, execution={"workflow_id": "w"})
        assert not isinstance(answer, ServiceError), answer
        assert longest < LONGEST_TURN, f"{method}: {longest:.0f} yardsticks"


async def test_the_times_of_a_schedule_with_all_it_may_have_are_found_beside_the_others(backend: Backend) -> None:
    fields = _exclusions(300)
    fields["schedule"]["spec"]["structured_calendar"] = _calendars(99)["schedule"]["spec"]["structured_calendar"]
    answer, longest = await watched(backend, "CreateSchedule", **fields)
    assert not isinstance(answer, ServiceError), answer
    long_range = {"start_time": {"seconds": 0}, "end_time": {"seconds": 4_000_000_000}}
    for method, more in (
        ("DescribeSchedule", {}),
        ("ListScheduleMatchingTimes", long_range),
        ("PatchSchedule", {"patch": {"backfill_request": [long_range] * 50}, "request_id": "p"}),
        ("ListSchedules", {}),
    ):
        named = {} if method == "ListSchedules" else {"schedule_id": "s"}
        answer, longest = await watched(backend, method, **named, **more)
        assert not isinstance(answer, ServiceError) or answer.code is Code.INVALID_ARGUMENT, answer
        assert longest < LONGEST_TURN * 2, f"{method}: {longest:.0f} yardsticks"


async def test_filtering_workers_yields_to_other_calls(backend: Backend) -> None:
    beats = [{"worker_instance_key": f"w{number}", "task_queue": "q"} for number in range(5000)]
    for first in range(0, len(beats), 500):
        await backend.call("RecordWorkerHeartbeat", namespace="default", worker_heartbeat=beats[first : first + 500])
    query = " AND ".join(["TaskQueue != 'a'"] * 100)
    for method in ("CountWorkers", "ListWorkers"):
        answer, longest = await watched(backend, method, query=query)
        assert not isinstance(answer, ServiceError), answer
        assert longest < LONGEST_TURN, f"{method}: {longest:.0f} yardsticks"
