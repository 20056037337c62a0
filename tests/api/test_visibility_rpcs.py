"""List, scan and count over rows that a commit wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import ServiceError
from whistlestop.storage.records import (
    CurrentExecution,
    CurrentWrite,
    ExecutionKey,
    ExecutionWrite,
    Transition,
    VisibilityRow,
)

if TYPE_CHECKING:
    from tests.api.fixtures import World

_RUNNING, _COMPLETED = 1, 2


async def _put(world: World, number: int, status: int = _RUNNING, attributes: str = "{}") -> None:
    namespace = await world.frontend.ports.namespaces.by_name("default")
    assert namespace is not None
    run = f"00000000-0000-4000-8000-{number:012}"
    key = ExecutionKey(namespace.namespace_id, f"w{number}", run)
    memo = common_pb.Memo()
    memo.fields["m"].data = b"1"
    closed = status != _RUNNING
    row = VisibilityRow(
        key=key,
        workflow_type=f"T{number % 2}",
        task_queue="q",
        status=status,
        start_time_us=1_000_000 * number,
        execution_time_us=1_000_000 * number,
        close_time_us=9_000_000 if closed else None,
        execution_duration_ns=5 if closed else None,
        history_length=3,
        history_size_bytes=400,
        state_transition_count=2,
        parent_workflow_id="p",
        parent_run_id="pr",
        root_workflow_id="p",
        root_run_id="pr",
        search_attributes=attributes,
        memo=memo.SerializeToString(),
    )
    current = CurrentExecution(namespace.namespace_id, key.workflow_id, run, "r", status, 0)
    write = ExecutionWrite(
        key=key,
        slot=1,
        expected_version=0,
        state=b"s",
        next_event_id=1,
        status=status,
        branch_id=run,
        visibility=row,
        current=CurrentWrite(current, None),
    )
    await world.frontend.ports.store.commit(Transition((write,)))


async def _list(world: World, query: str = "", size: int = 0, token: bytes = b"") -> Any:
    request = service_pb.ListWorkflowExecutionsRequest(
        namespace="default", query=query, page_size=size, next_page_token=token
    )
    return await world.call("ListWorkflowExecutions", request)


async def test_a_row_is_listed_with_all_fields(world: World) -> None:
    """With memo, typed search attributes, parent and root."""
    await _put(world, 1, _COMPLETED, '{"CustomKeyword":"k","CustomInt":5,"Gone":"x"}')
    [info] = (await _list(world)).executions
    assert (info.execution.workflow_id, info.type.name, info.status, info.task_queue) == ("w1", "T1", 2, "q")
    assert (info.start_time.seconds, info.close_time.seconds, info.execution_duration.nanos) == (1, 9, 5)
    assert (info.history_length, info.history_size_bytes, info.state_transition_count) == (3, 400, 2)
    assert (info.parent_execution.workflow_id, info.root_execution.run_id) == ("p", "pr")
    assert info.memo.fields["m"].data == b"1"
    fields = info.search_attributes.indexed_fields
    assert set(fields) == {"CustomKeyword", "CustomInt"}
    assert (fields["CustomKeyword"].data, fields["CustomKeyword"].metadata["type"]) == (b'"k"', b"Keyword")
    assert (fields["CustomInt"].data, fields["CustomInt"].metadata["type"]) == (b"5", b"Int")


async def test_pages_follow_each_other(world: World) -> None:
    """Open ones first, newest start first, then closed ones; scan does the same."""
    for number in range(1, 6):
        await _put(world, number, _COMPLETED if number == 4 else _RUNNING)
    seen, token = [], b""
    while True:
        page = await _list(world, size=2, token=token)
        seen.append([each.execution.workflow_id for each in page.executions])
        token = page.next_page_token
        if not token:
            break
    assert seen == [["w5", "w3"], ["w2", "w1"], ["w4"]]
    scanned: Any = await world.call(
        "ScanWorkflowExecutions", service_pb.ScanWorkflowExecutionsRequest(namespace="default")
    )
    assert len(scanned.executions) == 5


async def test_counts_and_groups(world: World) -> None:
    """Group values tell their type."""
    for number in range(1, 4):
        await _put(world, number, _COMPLETED if number == 2 else _RUNNING)
    whole: Any = await world.call(
        "CountWorkflowExecutions", service_pb.CountWorkflowExecutionsRequest(namespace="default")
    )
    assert (whole.count, len(whole.groups)) == (3, 0)
    request = service_pb.CountWorkflowExecutionsRequest(namespace="default", query="GROUP BY ExecutionStatus")
    grouped: Any = await world.call("CountWorkflowExecutions", request)
    groups = {each.group_values[0].data: each.count for each in grouped.groups}
    assert (grouped.count, groups) == (3, {b'"Running"': 2, b'"Completed"': 1})
    assert grouped.groups[0].group_values[0].metadata["type"] == b"Keyword"


async def test_open_and_closed(world: World) -> None:
    """The older RPCs are filters of their own."""
    for number in range(1, 4):
        await _put(world, number, _COMPLETED if number == 2 else _RUNNING)
    opened = service_pb.ListOpenWorkflowExecutionsRequest(namespace="default")
    opened.start_time_filter.earliest_time.seconds = 2
    found: Any = await world.call("ListOpenWorkflowExecutions", opened)
    assert [each.execution.workflow_id for each in found.executions] == ["w3"]
    opened = service_pb.ListOpenWorkflowExecutionsRequest(namespace="default")
    opened.execution_filter.workflow_id = "w1"
    found = await world.call("ListOpenWorkflowExecutions", opened)
    assert [each.execution.workflow_id for each in found.executions] == ["w1"]
    closed: Any = service_pb.ListClosedWorkflowExecutionsRequest(namespace="default")
    closed.status_filter.status = 2
    found = await world.call("ListClosedWorkflowExecutions", closed)
    assert [each.execution.workflow_id for each in found.executions] == ["w2"]


async def test_quotes_in_a_filter_stay_in_it(world: World) -> None:
    """A name is a value, never a part of the query."""
    await _put(world, 1)
    request = service_pb.ListOpenWorkflowExecutionsRequest(namespace="default")
    request.type_filter.name = "' OR WorkflowType = 'T1"
    found: Any = await world.call("ListOpenWorkflowExecutions", request)
    assert list(found.executions) == []


# Recorded from the real server.
_BAD_QUERIES = [
    ("bogus", "invalid query: invalid expression: incomplete expression"),
    (
        "WorkflowType=1",
        "invalid query: invalid expression: invalid value type for search attribute WorkflowType of type Keyword: 1 (type: int64)",
    ),
]


@pytest.mark.parametrize(("query", "message"), _BAD_QUERIES)
async def test_bad_queries_are_refused_in_temporals_words(world: World, query: str, message: str) -> None:
    """By list and by count."""
    with pytest.raises(ServiceError) as caught:
        await _list(world, query)
    assert caught.value.message == message
    with pytest.raises(ServiceError) as caught:
        await world.call(
            "CountWorkflowExecutions", service_pb.CountWorkflowExecutionsRequest(namespace="default", query=query)
        )
    assert caught.value.message == message


async def test_other_refusals(world: World) -> None:
    """Page tokens, archives, filters that contradict themselves."""
    with pytest.raises(ServiceError, match="invalid page token"):
        await _list(world, token=b"nonsense")
    archived = service_pb.ListArchivedWorkflowExecutionsRequest(namespace="default")
    with pytest.raises(ServiceError, match=r"Cluster is not configured for visibility archival\."):
        await world.call("ListArchivedWorkflowExecutions", archived)
    closed: Any = service_pb.ListClosedWorkflowExecutionsRequest(namespace="default")
    closed.status_filter.status = 1
    with pytest.raises(ServiceError, match=r"StatusFilter must be specified and must be not Running\."):
        await world.call("ListClosedWorkflowExecutions", closed)
    opened = service_pb.ListOpenWorkflowExecutionsRequest(namespace="default")
    opened.start_time_filter.earliest_time.seconds = 5
    opened.start_time_filter.latest_time.seconds = 1
    with pytest.raises(ServiceError, match=r"EarliestTime in StartTimeFilter should not be larger than LatestTime\."):
        await world.call("ListOpenWorkflowExecutions", opened)
