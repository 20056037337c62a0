"""The recorder of fields: what it counts, that its proxy changes nothing, and what the comparison reports."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from temporalio.api.common.v1.grpc_status_pb2 import GrpcStatus
from temporalio.api.errordetails.v1.message_pb2 import WorkflowExecutionAlreadyStartedFailure
from temporalio.api.update.v1 import message_pb2 as update_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.traffic import compare
from tests.traffic.fields import count_refusal, count_reply
from tests.traffic.proxy import Proxy
from tests.traffic.record import moved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SERVICE = "/temporal.api.workflowservice.v1.WorkflowService"


def counted(rpc: str, reply: Any) -> Counter[str]:
    counts: Counter[str] = Counter()
    count_reply(counts, f"{SERVICE}/{rpc}", reply.SerializeToString())
    return counts


def test_fields_are_counted_without_values() -> None:
    reply = rr.DescribeWorkflowExecutionResponse()
    info = reply.workflow_execution_info
    info.execution.workflow_id = "secret"
    info.memo.fields["secret"].data = b"secret"
    info.start_time.seconds = 5
    assert counted("DescribeWorkflowExecution", reply) == {
        "DescribeWorkflowExecution ": 1,
        "DescribeWorkflowExecution workflow_execution_info": 1,
        "DescribeWorkflowExecution workflow_execution_info.execution": 1,
        "DescribeWorkflowExecution workflow_execution_info.execution.workflow_id": 1,
        "DescribeWorkflowExecution workflow_execution_info.start_time": 1,
        "DescribeWorkflowExecution workflow_execution_info.memo": 1,
        "DescribeWorkflowExecution workflow_execution_info.memo.fields": 1,
    }


def test_events_are_counted_by_type_whichever_reply_they_came_in() -> None:
    history = rr.GetWorkflowExecutionHistoryResponse()
    event = history.history.events.add(event_id=1, event_type="EVENT_TYPE_TIMER_FIRED")
    event.timer_fired_event_attributes.timer_id = "t"
    task = rr.PollWorkflowTaskQueueResponse(history=history.history)
    counts = counted("GetWorkflowExecutionHistory", history) + counted("PollWorkflowTaskQueue", task)
    assert counts["event TIMER_FIRED "] == 2
    assert counts["event TIMER_FIRED timer_fired_event_attributes.timer_id"] == 2


def test_failures_within_failures_are_one_path() -> None:
    reply = rr.DescribeWorkflowExecutionResponse()
    failure = reply.pending_activities.add().last_failure
    failure.cause.cause.message = "deep"
    counts = counted("DescribeWorkflowExecution", reply)
    assert counts["DescribeWorkflowExecution pending_activities.last_failure.cause"] == 1
    assert not any("cause.cause" in path for path in counts)


def test_protocol_messages_are_opened() -> None:
    task = rr.PollWorkflowTaskQueueResponse()
    task.messages.add().body.Pack(update_pb.Request(meta=update_pb.Meta(update_id="u")))
    assert counted("PollWorkflowTaskQueue", task)["PollWorkflowTaskQueue messages.body.<Request>.meta.update_id"] == 1


def refusal() -> bytes:
    detail = AnyMessage()
    detail.Pack(WorkflowExecutionAlreadyStartedFailure(run_id="r"))
    return GrpcStatus(code=6, message="there", details=[detail]).SerializeToString()


def test_refusals_are_counted_with_their_details() -> None:
    counts: Counter[str] = Counter()
    count_refusal(counts, f"{SERVICE}/StartWorkflowExecution", "ALREADY_EXISTS", refusal())
    assert counts == {
        "StartWorkflowExecution !ALREADY_EXISTS": 1,
        "StartWorkflowExecution !ALREADY_EXISTS <WorkflowExecutionAlreadyStartedFailure>": 1,
        "StartWorkflowExecution !ALREADY_EXISTS <WorkflowExecutionAlreadyStartedFailure>.run_id": 1,
    }


class Server(grpc.GenericRpcHandler):
    """Echoes requests and their metadata; refuses those that are empty."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, request: bytes, context: Any) -> bytes:
        given = dict(context.invocation_metadata())
        await context.send_initial_metadata((("first", given.get("authorization", "")),))
        trailing = (("grpc-status-details-bin", refusal()), ("last", "yes"))
        if not request:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "there", trailing)
        context.set_trailing_metadata((("left", str(context.time_remaining() is not None)),))
        return request


@pytest.fixture
async def proxied() -> AsyncIterator[tuple[Any, Counter[str]]]:
    """A channel through the proxy to the server, and the proxy's counts."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Server(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    counts: Counter[str] = Counter()
    proxy = Proxy(f"127.0.0.1:{port}", counts)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{await proxy.start('127.0.0.1:0')}")
    yield channel, counts
    await channel.close()
    await proxy.stop()
    await server.stop(0)


async def test_the_proxy_forwards_requests_replies_metadata_and_deadlines(proxied: tuple[Any, Counter[str]]) -> None:
    channel, counts = proxied
    request = rr.StartWorkflowExecutionResponse(run_id="r").SerializeToString()
    call = channel.unary_unary(f"{SERVICE}/StartWorkflowExecution")(
        request, timeout=60, metadata=(("authorization", "Bearer x"),)
    )
    assert await call == request
    assert dict(await call.initial_metadata())["first"] == "Bearer x"
    assert dict(await call.trailing_metadata())["left"] == "True"
    assert counts == {"StartWorkflowExecution ": 1, "StartWorkflowExecution run_id": 1}


async def test_the_proxy_forwards_refusals_with_their_details(proxied: tuple[Any, Counter[str]]) -> None:
    channel, counts = proxied
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary(f"{SERVICE}/StartWorkflowExecution")(b"", timeout=60)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert refused.value.details() == "there"
    trailing = dict(refused.value.trailing_metadata() or ())
    assert trailing["grpc-status-details-bin"] == refusal()
    assert trailing["last"] == "yes"
    assert counts["StartWorkflowExecution !ALREADY_EXISTS"] == 1


@pytest.mark.parametrize(
    ("given", "changed", "address"),
    [
        (["--headless", "--port", "7000"], ["--headless", "--port", "9"], "127.0.0.1:7000"),
        (["--headless", "-p=7000", "--ip=::1"], ["--headless", "-p=9", "--ip=::1"], "::1:7000"),
        (["--headless"], ["--headless", "--port", "9"], "127.0.0.1:7233"),
        (["--port=7000"], ["--port=9", "--ui-port", "8000"], "127.0.0.1:7000"),
        (["--port=7000", "--ui-port=1"], ["--port=9", "--ui-port=1"], "127.0.0.1:7000"),
    ],
)
def test_the_server_moves_to_another_port(given: list[str], changed: list[str], address: str) -> None:
    assert moved(["temporal", *given], 9) == (["temporal", *changed], address)


@pytest.mark.parametrize(
    ("path", "parent"),
    [
        ("Poll task.name", "Poll task"),
        ("Poll task", "Poll "),
        ("Poll ", ""),
        ("event TIMER_FIRED a.b", "event TIMER_FIRED a"),
        ("event TIMER_FIRED a", "event TIMER_FIRED "),
        ("event TIMER_FIRED ", ""),
        ("Poll !NOT_FOUND", ""),
        ("Poll !NOT_FOUND <Detail>", "Poll !NOT_FOUND"),
        ("Poll !NOT_FOUND <Detail>.a", "Poll !NOT_FOUND <Detail>"),
    ],
)
def test_a_field_is_judged_by_the_message_that_holds_it(path: str, parent: str) -> None:
    assert compare.parent_of(path) == parent


def test_only_what_the_other_could_have_set_is_a_difference(tmp_path: Path) -> None:
    real = {"Poll ": 9, "Poll a": 9, "Poll a.b": 9, "Rare ": 9, "Rare x": 9, "event E ": 1}
    ours = {"Poll ": 9, "Poll a": 2, "Rare ": 2, "Poll !INTERNAL": 3}
    for number, part in enumerate((real, real)):
        (tmp_path / f"{number}.json").write_text(json.dumps(part))
    found = [(who, path) for who, path, _ in compare.differences(compare.load(tmp_path), Counter(ours), 3)]
    assert found == [("ours", "Poll !INTERNAL")]
    assert [path for _, path, _ in compare.differences(Counter(real), Counter(ours), 2)] == [
        "Poll a.b", "Rare x", "Poll !INTERNAL",
    ]  # fmt: skip
