"""Lists, counts and their filter language; on the real server what a filter finds is waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.parity.commands import complete_workflow, fail_workflow, upsert_search_attributes
from tests.parity.puppet import Refused, attribute, payload
from tests.parity.scenarios import scenario

if TYPE_CHECKING:
    from tests.parity.puppet import Puppet


def _attributes(number: int) -> dict[str, object]:
    return {
        "indexed_fields": {
            "ParityKeyword": attribute(f'"k{number}"'),
            "ParityInt": attribute(str(number), "Int"),
            "ParityDouble": attribute(f"{number}.5", "Double"),
            "ParityBool": attribute("true" if number % 2 else "false", "Bool"),
            "ParityTime": attribute(f'"2020-01-0{number}T00:00:00Z"', "Datetime"),
            "ParityText": attribute(f'"red train number {number}"', "Text"),
            "ParityKeywords": attribute(f'["all", "n{number}"]', "KeywordList"),
        }
    }


async def _three(p: Puppet) -> str:
    """Workflows 1 completed, 2 failed, 3 running; a filter that finds just them."""
    for number in (1, 2, 3):
        await p.call(
            "StartWorkflowExecution",
            record=False,
            **p.start_fields(
                p.id(f"w{number}"),
                search_attributes=_attributes(number),
                memo={"fields": {"m": payload("m")}},
                task_queue={"name": p.id(f"q{number}")},
                workflow_type={"name": f"Type{number}"},
            ),
        )
    for number, command in ((1, complete_workflow()), (2, fail_workflow())):
        task = await p.workflow_task(p.id(f"q{number}"), record=False)
        await p.complete(task, command)
    mine = f"WorkflowId STARTS_WITH '{p.prefix}'"
    for status in ("Completed", "Failed", "Running"):
        await p.listed(f"{mine} AND ExecutionStatus = '{status}'", "CountWorkflowExecutions", count=1)
    return mine


async def _ids(p: Puppet, query: str) -> None:
    """Which workflows a filter finds, or how it is refused."""
    answer = await p.attempt("ListWorkflowExecutions", record=False, query=query)
    if answer is None:
        # The refusal has to be in the transcript, so ask once more.
        await p.attempt("ListWorkflowExecutions", query=query)
    else:
        p.note(query, sorted(info.execution.workflow_id for info in answer.executions))


async def _clear(p: Puppet) -> None:
    await p.terminate(p.id("w3"))


@scenario
async def listed_whole(p: Puppet) -> None:
    mine = await _three(p)
    for number in (1, 2, 3):
        await p.call("ListWorkflowExecutions", query=f"{mine} AND ParityInt = {number}")
    await _clear(p)


@scenario
async def comparisons(p: Puppet) -> None:
    mine = await _three(p)
    for condition in (
        "ParityInt = 2",
        "ParityInt != 2",
        "ParityInt > 1",
        "ParityInt >= 2",
        "ParityInt < 2",
        "ParityInt <= 2",
        "ParityInt BETWEEN 2 AND 3",
        "ParityInt NOT BETWEEN 2 AND 3",
        "ParityInt IN (1, 3)",
        "ParityInt NOT IN (1, 3)",
        "ParityDouble = 1.5",
        "ParityDouble > 1.5",
        "ParityDouble < 2",
        "ParityBool = true",
        "ParityBool = false",
        "ParityBool != true",
        "ParityKeyword = 'k1'",
        "ParityKeyword != 'k1'",
        "ParityKeyword > 'k1'",
        "ParityKeyword IN ('k1', 'k2')",
        "ParityKeyword STARTS_WITH 'k'",
        "ParityKeyword NOT STARTS_WITH 'k1'",
        "ParityTime > '2020-01-01T12:00:00Z'",
        "ParityTime BETWEEN '2019-12-31T00:00:00Z' AND '2020-01-02T12:00:00Z'",
        "ParityKeywords = 'all'",
        "ParityKeywords = 'n1'",
        "ParityKeywords IN ('n1', 'n3')",
        "ParityKeywords != 'n1'",
        "ParityKeywords NOT IN ('n1')",
        "ParityText = 'train'",
        "ParityText = '2'",
        "ParityText != '2'",
        "ParityText = 'RED'",
        "ParityText = 'blue red'",
    ):
        await _ids(p, f"{mine} AND {condition}")
    await _clear(p)


@scenario
async def null_and_logic(p: Puppet) -> None:
    mine = await _three(p)
    for condition in (
        "ParityInt IS NULL",
        "ParityInt IS NOT NULL",
        "CloseTime IS NULL",
        "CloseTime IS NOT NULL",
        "(ParityInt = 1 OR ParityInt = 2)",
        "(ParityInt = 1 OR ParityInt = 2) AND ParityBool = true",
        "NOT ParityInt = 1",
        "NOT (ParityInt = 1 OR ParityInt = 2)",
        "`ParityInt` = 1",
        "(ParityInt = 1)",
        "ParityInt is null",
        "ParityInt = 1 or ParityInt = 3",
    ):
        await _ids(p, f"{mine} AND {condition}" if " or " not in condition else f"{mine} and ({condition})")
    await _clear(p)


@scenario
async def system_attributes(p: Puppet) -> None:
    mine = await _three(p)
    for condition in (
        "ExecutionStatus = 'Running'",
        "ExecutionStatus = 'Completed'",
        "ExecutionStatus != 'Running'",
        "ExecutionStatus IN ('Completed', 'Failed')",
        "ExecutionStatus = 2",
        "WorkflowType = 'Type1'",
        "WorkflowType STARTS_WITH 'Type'",
        f"TaskQueue = '{p.id('q1')}'",
        f"WorkflowId = '{p.id('w1')}'",
        f"WorkflowId IN ('{p.id('w1')}', '{p.id('w3')}')",
        "StartTime > '2020-01-01T00:00:00Z'",
        "CloseTime > '2020-01-01T00:00:00Z'",
        "ExecutionTime > '2020-01-01T00:00:00Z'",
        "HistoryLength = 5",
        "HistoryLength > 2",
        "ExecutionDuration > 0",
        "ExecutionDuration < '1h'",
        "ExecutionDuration < '00:10:00'",
        "StateTransitionCount > 0",
        "ParentWorkflowId IS NULL",
        f"RootWorkflowId = '{p.id('w1')}'",
        "HistorySizeBytes > 0",
        "StartTime < '2020-01-01'",
        "StartTime > 1577836800000000000",
    ):
        await _ids(p, f"{mine} AND {condition}")
    await _clear(p)


@scenario
async def refused_filters(p: Puppet) -> None:
    for query in (
        "NoSuchAttribute = 1",
        "ParityInt = 'x'",
        "ParityInt",
        "ParityInt =",
        "= 1",
        "ParityInt = 1 AND",
        "ParityInt LIKE 'x'",
        "ParityBool = 'perhaps'",
        "ParityTime = 'yesterday'",
        "ExecutionStatus = 'Sleeping'",
        "ExecutionStatus = 99",
        "ParityKeyword = 1",
        "ParityText > 'a'",
        "ParityText STARTS_WITH 'a'",
        "ParityKeywords > 'a'",
        "ParityInt STARTS_WITH 'a'",
        "select * from x",
        "ParityInt = 1; drop table x",
        "WorkflowId = 1",
        "ParityInt = ParityDouble",
        "1 = 1",
        "ParityInt + 1 = 2",
        "ParityInt IN 1",
        "ParityInt BETWEEN 1",
        "ParityInt IS TRUE",
        "ExecutionDuration = 'long'",
        'ParityKeyword = "k"',
        "ParityInt = 1 ORDER BY",
        "ParityInt = 1 ORDER BY NoSuch",
        "ParityInt = 1 LIMIT 3",
        "ParityInt = 1 GROUP BY ParityInt",
        "ParityKeyword STARTS_WITH 1",
        "lower(ParityKeyword) = 'x'",
        "ParityInt = null",
        "ParityKeyword = k1",
    ):
        p.note("query", query)
        try:
            # What is found would be other scenarios' workflows too.
            await p.call("ListWorkflowExecutions", record=False, query=query, page_size=1)
        except Refused as refusal:
            p.note("refused", [refusal.code, refusal.message])
        else:
            p.note("refused", "no")


@scenario
async def counted(p: Puppet) -> None:
    mine = await _three(p)
    await p.call("CountWorkflowExecutions", query=mine)
    answer = await p.call("CountWorkflowExecutions", record=False, query=f"{mine} GROUP BY ExecutionStatus")
    p.note(
        "groups", sorted([str([value.data for value in group.group_values]), group.count] for group in answer.groups)
    )
    p.note("count", answer.count)
    p.note(
        "type", sorted(str(sorted(value.metadata.items())) for group in answer.groups for value in group.group_values)
    )
    for query in (
        "GROUP BY ExecutionStatus",
        "GROUP BY WorkflowType",
        "GROUP BY ExecutionStatus, WorkflowType",
        "GROUP BY ParityInt",
        "GROUP BY NoSuch",
        "ORDER BY StartTime",
    ):
        await p.attempt("CountWorkflowExecutions", query=f"{mine} AND ParityInt = 99 {query}")
    await _clear(p)


@scenario
async def ordered(p: Puppet) -> None:
    mine = await _three(p)
    for order in (
        "StartTime DESC",
        "StartTime ASC",
        "StartTime",
        "CloseTime DESC",
        "ParityInt",
        "ParityInt DESC",
        "ParityText",
        "ParityKeyword DESC, StartTime",
        "WorkflowId",
    ):
        answer = await p.attempt("ListWorkflowExecutions", record=False, query=f"{mine} ORDER BY {order}")
        if answer is None:
            await p.attempt("ListWorkflowExecutions", query=f"{mine} ORDER BY {order}")
        else:
            p.note(order, [info.execution.workflow_id for info in answer.executions])
    await _clear(p)


@scenario
async def default_order(p: Puppet) -> None:
    mine = await _three(p)
    answer = await p.call("ListWorkflowExecutions", record=False, query=mine)
    p.note("order", [info.execution.workflow_id for info in answer.executions])
    await _clear(p)


@scenario
async def full_pages(p: Puppet) -> None:
    """A page that is exactly full has a token; then comes an empty one."""
    mine = await _three(p)
    for size in (1, 3, 4):
        token, lengths = b"", []
        while True:
            answer = await p.call(
                "ListWorkflowExecutions", record=False, query=mine, page_size=size, next_page_token=token
            )
            lengths.append(len(answer.executions))
            token = answer.next_page_token
            if not token:
                break
        p.note(f"pages of {size}", lengths)
    await _clear(p)


@scenario
async def since_the_year_one(p: Puppet) -> None:
    """The zero time of Go's clients."""
    mine = await _three(p)
    filters: dict[str, Any] = {
        "start_time_filter": {"earliest_time": {"seconds": -62135596800}, "latest_time": {"seconds": 7258118400}}
    }
    for rpc, workflow_id in (("ListOpenWorkflowExecutions", "w3"), ("ListClosedWorkflowExecutions", "w1")):
        answer = await p.call(
            rpc, record=False, maximum_page_size=1, execution_filter={"workflow_id": p.id(workflow_id)}, **filters
        )
        p.note(rpc, [each.execution.workflow_id for each in answer.executions])
    for year in ("0001", "0999"):
        await p.call("CountWorkflowExecutions", query=f"{mine} AND StartTime > '{year}-01-01T00:00:00Z'")
    await _clear(p)


@scenario
async def in_pages(p: Puppet) -> None:
    mine = await _three(p)
    for rpc in ("ListWorkflowExecutions", "ScanWorkflowExecutions"):
        found, token = [], b""
        while True:
            answer = await p.attempt(rpc, record=False, query=mine, page_size=2, next_page_token=token)
            if answer is None:
                await p.attempt(rpc, query=mine)
                break
            found.append([info.execution.workflow_id for info in answer.executions])
            token = answer.next_page_token
            if not token:
                break
        p.note(rpc, found)
    await p.attempt("ListWorkflowExecutions", query=mine, page_size=-1)
    await _clear(p)


@scenario
async def open_and_closed(p: Puppet) -> None:
    await _three(p)
    times = {"earliest_time": {"seconds": 0}, "latest_time": {"seconds": 4000000000}}
    await p.attempt("ListOpenWorkflowExecutions", start_time_filter=times, execution_filter={"workflow_id": p.id("w3")})
    await p.attempt(
        "ListClosedWorkflowExecutions", start_time_filter=times, execution_filter={"workflow_id": p.id("w1")}
    )
    await p.attempt("ListOpenWorkflowExecutions", start_time_filter=times, execution_filter={"workflow_id": p.id("w1")})
    await p.attempt(
        "ListClosedWorkflowExecutions", start_time_filter=times, execution_filter={"workflow_id": p.id("w3")}
    )
    await p.attempt("ListOpenWorkflowExecutions", execution_filter={"workflow_id": p.id("w3")})
    await p.attempt("ListClosedWorkflowExecutions", status_filter={"status": "WORKFLOW_EXECUTION_STATUS_RUNNING"})
    await p.attempt("ListArchivedWorkflowExecutions", query="x = 1")
    await _clear(p)


@scenario
async def upserts_are_found(p: Puppet) -> None:
    await p.start()
    await p.step(upsert_search_attributes(ParityKeyword='"late"'))
    await p.listed(f"WorkflowId = '{p.workflow_id}' AND ParityKeyword = 'late'", count=1)
    await p.terminate()


@scenario
async def wrong_namespaces(p: Puppet) -> None:
    for rpc in ("ListWorkflowExecutions", "CountWorkflowExecutions", "ScanWorkflowExecutions"):
        await p.attempt(rpc, namespace="")
        await p.attempt(rpc, namespace="nowhere")


@scenario
async def wrong_values_at_start(p: Puppet) -> None:
    for name, value, kind in (
        ("ParityInt", '"x"', "Int"),
        ("ParityInt", "1.5", "Int"),
        ("ParityBool", '"x"', "Bool"),
        ("ParityTime", '"x"', "Datetime"),
        ("ParityDouble", '"x"', "Double"),
        ("ParityKeyword", "1", "Keyword"),
        ("ParityKeyword", '["a", "b"]', "Keyword"),
        ("ParityKeyword", "not json", "Keyword"),
        ("ParityKeywords", '"a"', "KeywordList"),
        ("ParityInt", "1", ""),
        ("ParityInt", "1", "Keyword"),
    ):
        answer = await p.attempt(
            "StartWorkflowExecution",
            **p.start_fields("typed-" + p.prefix, search_attributes={"indexed_fields": {name: attribute(value, kind)}}),
        )
        if answer is not None:
            await p.describe("typed-" + p.prefix)
            await p.terminate("typed-" + p.prefix)
