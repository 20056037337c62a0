"""However long the values are that an error quotes, it reaches its caller: each transport carries it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import httpx
import pytest
import pytest_asyncio
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.client import Client
from temporalio.service import RPCError

from tests.parity import servers
from tests.parity.puppet import Puppet, Refused, attribute, seconds
from whistlestop.common.errors import Code, ServiceError, namespace_not_found
from whistlestop.common.messages.error_size import MAX_DETAILS, TRUNCATED
from whistlestop.net.grpc import status
from whistlestop.net.internal.transports import error_answer, unwrap_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

SOFT_LIMIT = 8 * 1024
"""Of grpcio, for all headers of an answer: each counts its name, its value and 32 bytes."""
OTHER_HEADERS = 3 * 32 + 200


def _chain(links: int, size: int) -> failure_pb.Failure:
    first = each = failure_pb.Failure(message="m" * size, stack_trace="s" * size)
    for _ in range(links):
        each = each.cause
        each.message = each.stack_trace = "c" * size
    return first


def _multi(size: int) -> details_pb.MultiOperationExecutionFailure:
    failure = details_pb.MultiOperationExecutionFailure()
    for _ in range(2):
        one = failure.statuses.add(code=3, message="m" * size)
        one.details.add().Pack(details_pb.NamespaceNotFoundFailure(namespace="n" * size))
    return failure


MESSAGES = {
    "short": "no",
    "ascii": "x" * 300_000,
    "two bytes each": "ü" * 300_000,
    "three bytes each": "漢" * 5_000,
    "four bytes each": "🚂" * 490,
    "line breaks": "\n" * 20_000,
    "per cents": "%" * 4_000,
    "surrogates": "\ud800" * 5_000,
    "just too long": "y" * 4_001,
    "just short enough": "y" * 4_000,
}
DETAILS: dict[str, tuple[Message, ...]] = {
    "none": (),
    "empty": (details_pb.NotFoundFailure(),),
    "a long text": (details_pb.NamespaceNotFoundFailure(namespace="n" * 300_000),),
    "a failure": (details_pb.QueryFailedFailure(failure=_chain(0, 2_000)),),
    "a chain of failures": (details_pb.QueryFailedFailure(failure=_chain(80, 500)),),
    "statuses": (_multi(20_000),),
    "many": tuple(details_pb.NamespaceNotFoundFailure(namespace="n" * 100) for _ in range(1_000)),
    "bytes": (failure_pb.Failure(encoded_attributes=common_pb.Payload(data=b"d" * 100_000)),),
    "a map": (
        failure_pb.Failure(encoded_attributes=common_pb.Payload(metadata={f"k{i}": b"v" for i in range(10_000)})),
    ),
    "texts": (
        details_pb.SystemWorkflowFailure(
            workflow_execution=common_pb.WorkflowExecution(workflow_id="w" * 9_000), workflow_error="e" * 9_000
        ),
    ),
}


@pytest.mark.parametrize("details", DETAILS)
@pytest.mark.parametrize("message", MESSAGES)
def test_trailers_are_short_enough(message: str, details: str) -> None:
    error = ServiceError(Code.INVALID_ARGUMENT, MESSAGES[message], *DETAILS[details])
    assert len(status.trailers(error)) + OTHER_HEADERS <= SOFT_LIMIT
    assert error.message, "something is left"
    assert [type(detail) for detail in error.details] == [type(detail) for detail in DETAILS[details]][:MAX_DETAILS]


@pytest.mark.parametrize("details", DETAILS)
@pytest.mark.parametrize("message", MESSAGES)
def test_an_error_is_truncated_once_between_functions(message: str, details: str) -> None:
    error = ServiceError(Code.INVALID_ARGUMENT, MESSAGES[message], *DETAILS[details])
    with pytest.raises(ServiceError) as passed_on:
        unwrap_answer(json.loads(json.dumps(error_answer(error))))
    assert (passed_on.value.message.encode("utf-8", "replace"), passed_on.value.details) == (
        error.message.encode("utf-8", "replace"), error.details,
    )  # fmt: skip


def test_short_errors_are_not_truncated() -> None:
    failure = details_pb.QueryFailedFailure(failure=_chain(3, 100))
    error = ServiceError(Code.INVALID_ARGUMENT, "m" * 2_000, failure)
    assert (error.message, error.details) == ("m" * 2_000, (failure,))


def test_truncated_errors_say_so_and_keep_their_beginning() -> None:
    """As Temporal cuts it."""
    error = ServiceError(Code.INVALID_ARGUMENT, "z" * 5_000)
    assert error.message == "z" * (4_000 - len(TRUNCATED)) + TRUNCATED
    assert namespace_not_found("n" * 9_000).message.startswith("Namespace nnn")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[servers.Server]:
    async with servers.our_server("memory") as address:
        yield address


LONG = "x" * 20_000
QUOTING: dict[str, tuple[str, dict[str, Any]]] = {
    # What the request says, and its RPC and fields. The puppet names what is not said.
    "a search attribute of another type": (
        "StartWorkflowExecution",
        {
            "workflow_id": "w", "workflow_type": {"name": "W"}, "task_queue": {"name": "q"},
            "search_attributes": {"indexed_fields": {"CustomIntField": attribute(json.dumps(LONG), "Int")}},
        },
    ),
    "an unknown search attribute": (
        "StartWorkflowExecution",
        {
            "workflow_id": "w", "workflow_type": {"name": "W"}, "task_queue": {"name": "q"},
            "search_attributes": {"indexed_fields": {LONG: attribute('"x"')}},
        },
    ),
    "a filter with an unknown name": ("ListWorkflowExecutions", {"query": f"No{LONG} = 1"}),
    "a filter that is none": ("CountWorkflowExecutions", {"query": f"'{LONG}"}),
    "a filter in another script": ("ListWorkflowExecutions", {"query": f"No{'ж' * 10_000} = 1"}),
    "a namespace": ("DescribeNamespace", {"namespace": LONG}),
    "a workflow id": ("DescribeWorkflowExecution", {"execution": {"workflow_id": LONG}}),
    "a cron schedule": (
        "StartWorkflowExecution",
        {"workflow_id": "w", "workflow_type": {"name": "W"}, "task_queue": {"name": "q"}, "cron_schedule": LONG},
    ),
    "a type of time-outs": (
        "StartWorkflowExecution",
        {
            "workflow_id": "w", "workflow_type": {"name": "W"}, "task_queue": {"name": "q"},
            "retry_policy": {"non_retryable_error_types": [f"TemporalTimeout:{LONG}"], "initial_interval": seconds(1)},
        },
    ),
    "an endpoint": ("CreateNexusEndpoint", {"spec": {"name": LONG}}),
    "search attributes to add": ("AddSearchAttributes", {"search_attributes": {LONG: 99}}),
    "an operation of a batch": ("StartBatchOperation", {"job_id": "j", "visibility_query": LONG, "reason": "r"}),
}  # fmt: skip


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", QUOTING)
async def test_a_refusal_reaches_a_client_over_grpc(server: servers.Server, case: str) -> None:
    rpc, fields = QUOTING[case]
    async with grpc.aio.insecure_channel(server) as channel:
        puppet = Puppet(channel)
        with pytest.raises(Refused) as refused:
            await puppet.call(rpc, **fields)
    assert refused.value.code in {"INVALID_ARGUMENT", "NOT_FOUND"}
    assert len(refused.value.message.encode()) <= 4_000


@pytest.mark.asyncio(loop_scope="module")
async def test_a_refusal_reaches_an_sdk(server: servers.Server) -> None:
    client = await Client.connect(server)
    for query in (f"No{LONG} = 1", f"WorkflowId = 'a' AND CloseTime > '{'ж' * 10_000}'"):
        with pytest.raises(RPCError) as refused:
            await client.count_workflows(query)
        assert refused.value.status.name == "INVALID_ARGUMENT"
        assert refused.value.message.endswith(TRUNCATED)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_refusal_reaches_a_client_over_http(server: servers.Server) -> None:
    """The JSON API and Connect."""
    service = "temporal.api.workflowservice.v1.WorkflowService"
    async with httpx.AsyncClient(base_url=server.http) as http:
        answers = [
            await http.get("/api/v1/namespaces/default/workflows", params={"query": f"No{LONG} = 1"}),
            await http.post(
                f"/{service}/ListWorkflowExecutions",
                headers={"content-type": "application/json"}, json={"namespace": "default", "query": f"No{LONG} = 1"},
            ),
        ]  # fmt: skip
    for answer in answers:
        assert answer.status_code == 400
        assert len(answer.json()["message"].encode()) <= 4_000


@pytest.mark.asyncio(loop_scope="module")
async def test_a_bad_command_is_quoted_within_bounds(server: servers.Server) -> None:
    """In the refusal and in history."""
    async with grpc.aio.insecure_channel(server) as channel:
        p = Puppet(channel)
        await p.start()
        await p.bad_step(
            {
                "command_type": "COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES",
                "upsert_workflow_search_attributes_command_attributes": {
                    "search_attributes": {"indexed_fields": {LONG: attribute('"x"')}}
                },
            }
        )
        history = await p.history()
        failed = history.history.events[3].workflow_task_failed_event_attributes
        assert 3_000 < len(failed.failure.message) <= 4_000
        assert failed.cause
        assert (await p.describe()).workflow_execution_info.status == wf_enums.WORKFLOW_EXECUTION_STATUS_RUNNING
