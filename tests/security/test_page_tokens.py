"""Page tokens of every list: of another namespace, of another filter, altered, cut: none shows what is not the caller's.

Which RPCs take one is read from the descriptors: a new list fails here until it is tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import batch_operation_pb2

from tests.security.town import QUEUE, SPECS, Town, town
from whistlestop.common.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ITEMS = 3
RUNNING = batch_operation_pb2.BATCH_OPERATION_STATE_RUNNING


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Town]:
    async with town() as made:
        yield made


# ---- what there is to list: each id begins with its namespace ------------------------------------------------------------


async def workflows(place: Town, namespace: str) -> None:
    for n in range(ITEMS):
        await place.start(namespace, f"{namespace}-{n}")


async def closed_workflows(place: Town, namespace: str) -> None:
    await workflows(place, namespace)
    for n in range(ITEMS):
        await place.call(
            "TerminateWorkflowExecution", namespace, workflow_execution={"workflow_id": f"{namespace}-{n}"}
        )


async def long_history(place: Town, namespace: str) -> None:
    await place.start(namespace, f"{namespace}-0")
    for n in range(ITEMS):
        await place.call(
            "SignalWorkflowExecution",
            namespace,
            workflow_execution={"workflow_id": f"{namespace}-0"},
            signal_name=f"{n}",
        )


async def schedules(place: Town, namespace: str) -> None:
    action = {"start_workflow": {"workflow_id": "w", "workflow_type": {"name": "T"}, "task_queue": QUEUE}}
    for n in range(ITEMS):
        await place.call(
            "CreateSchedule", namespace, schedule_id=f"{namespace}-{n}", request_id=f"{n}", schedule={"action": action}
        )


async def deployments(place: Town, namespace: str) -> None:
    for n in range(ITEMS):
        await place.call("CreateWorkerDeployment", namespace, deployment_name=f"{namespace}-{n}", request_id="r")


async def batches(place: Town, namespace: str) -> None:
    for n in range(ITEMS):
        await place.call(
            "StartBatchOperation", namespace, job_id=f"{namespace}-{n}", reason="why", termination_operation={},
            visibility_query="WorkflowType = 'None'",
        )  # fmt: skip
        # One runs at a time. It finds nothing to do.
        while (await place.call("DescribeBatchOperation", namespace, job_id=f"{namespace}-{n}")).state == RUNNING:
            await place.later(1)


async def workers(place: Town, namespace: str) -> None:
    beats = [
        {"worker_instance_key": f"{namespace}-{n}", "worker_identity": f"{namespace}-{n}", "task_queue": "q"}
        for n in range(ITEMS)
    ]
    await place.call("RecordWorkerHeartbeat", namespace, worker_heartbeat=beats)


async def activities(place: Town, namespace: str) -> None:
    for n in range(ITEMS):
        await place.call(
            "StartActivityExecution", namespace, activity_id=f"{namespace}-{n}", request_id="r",
            activity_type={"name": "A"}, task_queue=QUEUE, start_to_close_timeout={"seconds": 60},
        )  # fmt: skip


async def operations(place: Town, namespace: str) -> None:
    for n in range(ITEMS):
        await place.call(
            "StartNexusOperationExecution", namespace, operation_id=f"{namespace}-{n}", request_id="r",
            endpoint="bank-endpoint", service="s", operation="o",
        )  # fmt: skip


async def endpoints(place: Town, namespace: str) -> None:
    for n in range(ITEMS):
        target = {"worker": {"namespace": namespace, "task_queue": "q"}}
        await place.call("CreateNexusEndpoint", spec={"name": f"{namespace}-{n}", "target": target})


async def nothing(place: Town, namespace: str) -> None:
    return None


PAGED: dict[str, tuple[Callable[[Town, str], Awaitable[None]], dict[str, Any]]] = {
    "ListWorkflowExecutions": (workflows, {"page_size": 1}),
    "ScanWorkflowExecutions": (workflows, {"page_size": 1}),
    "ListOpenWorkflowExecutions": (workflows, {"maximum_page_size": 1}),
    "ListClosedWorkflowExecutions": (closed_workflows, {"maximum_page_size": 1}),
    "GetWorkflowExecutionHistory": (long_history, {"maximum_page_size": 1, "execution": {"workflow_id": "victim-0"}}),
    "GetWorkflowExecutionHistoryReverse": (
        long_history, {"maximum_page_size": 1, "execution": {"workflow_id": "victim-0"}},
    ),
    "ListSchedules": (schedules, {"maximum_page_size": 1}),
    "ListWorkerDeployments": (deployments, {"page_size": 1}),
    "ListBatchOperations": (batches, {"page_size": 1}),
    "ListWorkers": (workers, {"page_size": 1}),
    "ListActivityExecutions": (activities, {"page_size": 1}),
    "ListNexusOperationExecutions": (operations, {"page_size": 1}),
    "ListNamespaces": (nothing, {"page_size": 1}),
    "ListNexusEndpoints": (endpoints, {"page_size": 1}),
}  # fmt: skip
ONE_PAGE = {
    "ListArchivedWorkflowExecutions": "refused: nothing is archived",
    "ListDeployments": "not served",
    "ListWorkflowRules": "all of them, ten at most",
    "ListClusters": "there is one",
}
OF_THE_CLUSTER = ("ListNamespaces", "ListNexusEndpoints")
IN_A_NAMESPACE = sorted(PAGED.keys() - set(OF_THE_CLUSTER))
OTHER_FILTER: dict[str, dict[str, Any]] = {
    "ListWorkflowExecutions": {"query": "WorkflowType = 'T'"},
    "ScanWorkflowExecutions": {"query": "WorkflowType = 'T'"},
    "ListOpenWorkflowExecutions": {"type_filter": {"name": "T"}},
    "ListClosedWorkflowExecutions": {"type_filter": {"name": "T"}},
    "ListSchedules": {"query": "TemporalSchedulePaused = false"},
    "ListActivityExecutions": {"query": "ActivityType = 'A'"},
    "ListNexusOperationExecutions": {"query": "Endpoint = 'bank-endpoint'"},
    "ListWorkers": {"query": "TaskQueue = 'q'"},
}


def test_every_list_with_pages_is_in_a_table() -> None:
    """Generated from the descriptors."""
    found = {
        method for method, spec in SPECS.items() if "next_page_token" in spec.request_type.DESCRIPTOR.fields_by_name
    }
    assert found == set(PAGED) | set(ONE_PAGE)
    filtered = {method for method in PAGED if "query" in SPECS[method].request_type.DESCRIPTOR.fields_by_name}
    assert filtered <= set(OTHER_FILTER)


async def _first_token(place: Town, method: str) -> bytes:
    fill, fields = PAGED[method]
    for namespace in ("victim", "mallory"):
        await fill(place, namespace)
    page = await place.call(method, "victim", **fields)
    assert page.next_page_token
    return bytes(page.next_page_token)


@pytest.mark.parametrize("method", IN_A_NAMESPACE)
async def test_a_page_token_of_one_namespace_shows_nothing_of_it_in_another(place: Town, method: str) -> None:
    token = await _first_token(place, method)
    fields = PAGED[method][1]
    refusal = await place.refusal(method, "mallory", "mallory-read", **fields, next_page_token=token)
    assert refusal.startswith("NOT_FOUND" if "History" in method else "INVALID_ARGUMENT"), refusal
    refusal = await place.refusal(method, "victim", "mallory-read", **fields, next_page_token=token)
    assert refusal.startswith("PERMISSION_DENIED")
    assert "next_page_token" in SPECS[method].response_type.DESCRIPTOR.fields_by_name
    assert await place.refusal(method, "victim", "victim-read", **fields, next_page_token=token) == ""


@pytest.mark.parametrize("method", sorted(OTHER_FILTER))
async def test_a_page_token_goes_with_no_other_filter(place: Town, method: str) -> None:
    token = await _first_token(place, method)
    fields = PAGED[method][1]
    refusal = await place.refusal(method, "victim", **(fields | OTHER_FILTER[method]), next_page_token=token)
    assert refusal.startswith("INVALID_ARGUMENT"), refusal
    assert await place.refusal(method, "victim", **(fields | OTHER_FILTER[method])) == ""


@pytest.mark.parametrize("method", sorted(OTHER_FILTER.keys() - {"ListWorkers"}))
async def test_a_page_token_goes_with_no_other_list(place: Town, method: str) -> None:
    """Schedules, activities, operations and workflows stand in one table."""
    token = await _first_token(place, method)
    others = OTHER_FILTER.keys() - {method, "ListWorkers"}
    if method in ("ListWorkflowExecutions", "ScanWorkflowExecutions"):
        others -= {"ListWorkflowExecutions", "ScanWorkflowExecutions"}  # the same list by two names
    for other in sorted(others):
        refusal = await place.refusal(other, "victim", **PAGED[other][1], next_page_token=token)
        assert refusal.startswith("INVALID_ARGUMENT"), (other, refusal)


BAD: list[bytes] = [
    b"\0", b"\xff", b"{}", b"[]", b"null", b"1e400", b"[" * 100_000, b'{"l":{}}', b'{"l":[]}', b'{"l":"a","of":1}',
    b'[1e400,1,"x"]', b"[" + b"9" * 5000 + b',1,"x"]', b'{"run":"x","next":1e400}', b'{"run":"x","next":-1}',
    b'{"run":"x","next":' + b"9" * 30 + b"}", b'{"run":"x","next":1,"end":true}', b'{"run":"x","next":1,"suffix":"/////w=="}',
    b'{"run":[],"next":{}}', b"\xed\xa0\x80", b'{"l":"\\ud800"}', b'[1,1,"\\ud800"]',
]  # fmt: skip


@pytest.mark.parametrize("method", sorted(PAGED.keys() | ONE_PAGE.keys()))
async def test_an_invalid_page_token_gives_a_refusal_or_a_page(place: Town, method: str) -> None:
    """Altered in each byte, cut at each length, and what never was one: nothing but a ServiceError comes of it."""
    token = await _first_token(place, method) if method in PAGED else b'{"l":"x"}'
    fields = PAGED[method][1] if method in PAGED else {}
    altered = [
        token[:at] + bytes((token[at] ^ bit,)) + token[at + 1 :] for at in range(len(token)) for bit in (1, 0x80)
    ]
    for each in altered + [token[:length] for length in range(1, len(token))] + BAD:
        refusal = await place.refusal(method, "victim", **fields, next_page_token=each)
        expected = ("", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")
        assert any(refusal.startswith(code) if code else not refusal for code in expected), (each, refusal)


async def test_the_token_of_a_list_of_namespaces_names_none_that_the_caller_may_not_know_of(place: Town) -> None:
    """What is between two of the caller's stays between."""
    seen = []
    token = b""
    while True:
        page = await place.call("ListNamespaces", "", "mallory-read", page_size=1, next_page_token=token)
        seen += [each.namespace_info.name for each in page.namespaces]
        token = page.next_page_token
        if not token:
            break
        assert token == b"mallory"
    assert seen == ["mallory"]


async def test_page_tokens_of_the_release_before_are_taken(place: Town) -> None:
    """They do not say what list they are of; and that release takes ours, whose mark stands where it does not mind."""
    token = await _first_token(place, "ListWorkflowExecutions")
    old = token.partition(b"#")[0] + b'"]'
    pages = [
        await place.call("ListWorkflowExecutions", "victim", page_size=1, next_page_token=each) for each in (token, old)
    ]
    assert pages[0].executions == pages[1].executions
    await deployments(place, "bank")
    page = await place.call("ListWorkerDeployments", "bank", page_size=1, next_page_token=b'{"l": "bank-0"}')
    assert [each.name for each in page.worker_deployments] == ["bank-1"]


async def test_a_page_token_of_a_history_is_of_its_run(place: Town) -> None:
    token = await _first_token(place, "GetWorkflowExecutionHistory")
    await place.start("victim", "another")
    for method in ("GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse"):
        with pytest.raises(ServiceError, match="not found"):
            await place.call(method, "victim", execution={"workflow_id": "another"}, next_page_token=token)
