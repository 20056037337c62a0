"""Nexus operations on external endpoints: what is sent, what is received, and when a request is repeated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.core.nexus.test_nexus import SCHEDULED, called
from tests.history.test_executions import bench as bench  # noqa: PLC0414 - a fixture
from tests.support.history_ports import replace_ports
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.messages import nexus_content
from whistlestop.common.messages.nesting import MAX_CAUSES
from whistlestop.history.nexus import external_endpoints as outside
from whistlestop.history.nexus import http as nexus_http
from whistlestop.net.outbound import Answer, NoAnswer, Outbound
from whistlestop.storage.records import SLOTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.history.test_executions import Bench


class Elsewhere(Outbound):
    """What was sent, instead of sending it."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self.answers = list(answers)
        self.headers: list[dict[str, str]] = []

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        self.headers.append(dict(headers))
        if not self.answers:
            raise NoAnswer
        return self.answers.pop(0)


async def owe_callback(bench: Bench, headers: dict[str, str], **fields: Any) -> None:
    """A run that is over, and whose callback was tried once."""
    callback = {"nexus": {"url": "http://elsewhere.example/x", "header": headers}}
    await bench.start(completion_callbacks=[callback], **fields)
    await bench.call("TerminateWorkflowExecution", workflow_execution={"workflow_id": "wf"})
    await bench.history.transfers.drain()


async def test_retries_of_callbacks_use_the_servers_clock(bench: Bench) -> None:
    replace_ports(bench.history, outbound=Elsewhere())
    skipping = {"enabled": True, "max_session_skip_count": 9}
    await owe_callback(bench, {}, workflow_start_delay=Duration(seconds=86400), time_skipping_config=skipping)
    (row,) = await bench.store.scan_transfer_tasks(0, SLOTS, bench.clock.now_ns() + 60 * SECOND_NS, 10)
    assert (row.kind, row.attempt) == ("nexus_callback", 1)


async def test_a_header_is_sent_once_and_the_callers_value_wins(bench: Bench) -> None:
    elsewhere = Elsewhere(Answer(200, {}, b""))
    replace_ports(bench.history, outbound=elsewhere)
    await owe_callback(bench, {"content-type": "text/plain", "k": "v"})
    (sent,) = elsewhere.headers
    assert (sent["content-type"], sent["k"], sent["nexus-operation-state"]) == ("text/plain", "v", "failed")
    assert all(name == name.lower() for name in sent)


def nested(depth: int) -> bytes:
    return b'{"cause":' * (depth - 1) + b'{"message":"x"}' + b"}" * (depth - 1)


@pytest.mark.parametrize("depth", [MAX_CAUSES + 1, 200, 100_000])
def test_failures_within_failures_have_an_end(depth: int) -> None:
    """What could not be stored, or not be read again, is no failure."""
    assert nexus_content.read_failure(nested(MAX_CAUSES)).cause.cause.HasField("cause")
    with pytest.raises(ValueError, match=r"too deep|causes"):
        nexus_content.read_failure(nested(depth))
    assert nexus_http.failure_of(nested(depth)).message.startswith('{"cause":')


def test_a_result_with_a_wrong_content_type_is_retried() -> None:
    world = called()
    run = world.load()
    operation = run.state.nexus_operations[SCHEDULED]
    answer = Answer(200, {"content-type": "application/x-temporal-payload"}, b"\xff")
    outside._record(run, operation, answer, cancel=False)
    assert operation.start.next_attempt_ns > run.now_ns
    assert "content type" in json.dumps(operation.start.last_failure.message)


def test_a_result_that_is_larger_than_a_payload_may_be_fails_the_operation() -> None:
    world = called()
    run = world.load()
    answer = Answer(200, {"content-type": "application/octet-stream"}, b"x" * (run.limits.blob_size_error + 1))
    outside._record(run, run.state.nexus_operations[SCHEDULED], answer, cancel=False)
    world.commit(run)
    failed = world.last("NexusOperationFailed").failure.cause
    assert (failed.message, failed.application_failure_info.non_retryable) == ("http: response body too large", True)


HANDLER_ERROR = {"metadata": {"type": "nexus.HandlerError"}, "details": {"type": "INTERNAL"}, "message": "on purpose"}
JSON = {"content-type": "application/json; charset=utf-8"}


@pytest.mark.parametrize(
    ("answer", "message", "retryable"),
    [
        (Answer(500, JSON, json.dumps(HANDLER_ERROR).encode()), "handler error (INTERNAL): on purpose", True),
        (Answer(500, {}, json.dumps(HANDLER_ERROR).encode()), "handler error (INTERNAL)", True),
        (Answer(500, JSON, b'{"message": "on purpose"}'), "handler error (INTERNAL)", True),
        (Answer(404, JSON, b"{"), "handler error (NOT_FOUND)", False),
        (Answer(404, JSON | {"nexus-request-retryable": "true"}, b"{}"), "handler error (NOT_FOUND)", True),
        (
            Answer(400, JSON, json.dumps(HANDLER_ERROR | {"details": {"type": "BAD_REQUEST"}}).encode()),
            "handler error (BAD_REQUEST): on purpose", False,
        ),
        (
            Answer(500, JSON, json.dumps(HANDLER_ERROR | {"details": {"retryableOverride": False}}).encode()),
            "handler error (INTERNAL): on purpose", False,
        ),
        (Answer(418, {}, b""), "unexpected response status: 418", True),
    ],
)  # fmt: skip
def test_a_refused_completion_keeps_the_receivers_message(answer: Answer, message: str, *, retryable: bool) -> None:
    assert nexus_http._refused(answer) == nexus_http.Refused(message, retryable=retryable)


def test_the_message_of_a_remote_failure_is_truncated() -> None:
    answer = Answer(500, JSON, json.dumps(HANDLER_ERROR | {"message": "x" * 1_000_000}).encode())
    assert len(nexus_http._refused(answer).message) == 1000
