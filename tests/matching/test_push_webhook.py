"""Webhooks: what is sent and how it is signed, what travels in them, and what the answers do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.matching.fakes import NAMESPACE, FakeStore
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import not_found
from whistlestop.common.ids import CountedIds
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.versioning.deployments import Version, versioned_queue
from whistlestop.matching.push.provider import ProviderError, Work
from whistlestop.matching.push.tasks import TaskPushes
from whistlestop.matching.push.webhook import Webhook, signature
from whistlestop.net.outbound import Answer, NoAnswer, Outbound
from whistlestop.storage.records import MatchingTask, TaskKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.rpcs.rpc import Rpc

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
DETAILS = {"url": "https://example.org/hook", "secret": SECRET}
VERSION = Version(deployment_name="d", build_id="1")
ACTIVITY = 2


class Receiver(Outbound):
    """The other side. `answers` says what it answers to a message."""

    def __init__(self, answers: Callable[[dict[str, Any]], tuple[int, Any]]) -> None:
        super().__init__()
        self.requests: list[tuple[str, Mapping[str, str], bytes, float]] = []
        self._answers = answers

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body, _ in self.requests]

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        self.requests.append((url, headers, body, timeout_s))
        status, said = self._answers(json.loads(body))
        return Answer(status, {}, said if isinstance(said, bytes) else json.dumps(said).encode())


def hook(receiver: Receiver) -> Webhook:
    return Webhook(FakeClock(), CountedIds(), outbound=receiver)


def work(context: CallContext | None = None) -> Work:
    context = context or CallContext(namespace_id=NAMESPACE, namespace="shop")
    return Work(context, VERSION, "default", [("q", ACTIVITY, 3)])


async def test_a_message_describes_the_backlog_and_is_signed_as_a_standard_webhook() -> None:
    receiver = Receiver(lambda _: (202, b""))
    assert await hook(receiver).start(DETAILS | {"timeout_ms": 500}, work(), 2) == 2
    ((url, headers, body, timeout_s),) = receiver.requests
    assert (url, timeout_s) == ("https://example.org/hook", 0.5)
    assert json.loads(body) == {
        "type": "worker.wanted",
        "timestamp": int(headers["webhook-timestamp"]),
        "data": {
            "namespace": "shop", "deployment_name": "d", "build_id": "1", "scaling_group": "default", "workers": 2,
            "task_queues": [{"name": "q", "type": "TASK_QUEUE_TYPE_ACTIVITY", "backlog": 3}],
        },
    }  # fmt: skip
    assert int(headers["webhook-timestamp"]) == FakeClock().now_ns() // SECOND_NS
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(b"0123456789abcdef0123456789abcdef", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()


def test_the_signature_is_that_of_the_specification_s_example() -> None:
    said = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert said == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_an_unsuccessful_or_missing_answer_is_a_failure() -> None:
    with pytest.raises(ProviderError, match=r"^the webhook answered with status 503$"):
        await hook(Receiver(lambda _: (503, b""))).start(DETAILS, work(), 1)

    def silent(_: Any) -> tuple[int, Any]:
        raise NoAnswer

    with pytest.raises(ProviderError, match=r"^the webhook did not answer: no usable answer"):
        await hook(Receiver(silent)).start(DETAILS, work(), 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": ""}, 'the webhook compute provider requires "url" to be configured'),
        ({"url": "http://example.org"}, "webhook url does not match any allowed address: http://example.org"),
        ({"url": "ftp://x"}, "invalid webhook url, expected https://host/path without user or password: ftp://x"),
        (
            {"url": "https://a:b@x"},
            "invalid webhook url, expected https://host/path without user or password: https://a:b@x",
        ),
        ({"secret": "short"}, 'the webhook compute provider requires a "secret" of at least 16 characters'),
        ({"secret": "whsec_%%%%%%%%%%%%%"}, "secret is not base64 behind whsec_: Only base64 data is allowed"),
        ({"mode": "x"}, 'mode must be "wake" or "task"'),
        ({"mode": "task"}, 'mode "task", and no other, requires "task_queues" to be configured'),
        ({"task_queues": ["q"]}, 'mode "task", and no other, requires "task_queues" to be configured'),
        ({"timeout_ms": 70_000}, "timeout_ms must be an integer between 100 and 60000"),
        ({"more": 1}, 'unknown config key "more" for the webhook compute provider'),
    ],
)
async def test_details_that_can_t_be_right_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ProviderError) as refused:
        await hook(Receiver(lambda _: (200, b""))).validate(DETAILS | changes)
    assert str(refused.value) == said


def test_addresses_may_be_limited_and_some_allowed_without_tls() -> None:
    limited = Webhook(FakeClock(), CountedIds(), (("*.example.org", False), ("localhost:*", True)))
    limited.check(DETAILS | {"url": "https://a.example.org"})
    limited.check(DETAILS | {"url": "http://localhost:8080/x"})
    for url in ("https://example.com", "http://a.example.org"):
        with pytest.raises(ProviderError, match="does not match any allowed address"):
            limited.check(DETAILS | {"url": url})


# ---- tasks that travel -----------------------------------------------------------------------------------------------


class History:
    """Starts each task once, and notes how it was answered."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self.polls: list[Any] = []
        self.done: dict[bytes, Any] = {}
        self.before: Callable[[], Any] | None = None

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        message: Any = request
        if self.before is not None:
            await self.before()
        if rpc is HistoryService.RecordActivityTaskStarted:
            gone = [key for key, row in self._store.rows.items() if row.workflow_id == message.execution.workflow_id]
            if not gone:
                raise not_found("no such task")
            del self._store.rows[gone[0]]
            self.polls.append(message.poll)
            token = message.execution.workflow_id.encode()
            return rr.PollActivityTaskQueueResponse(
                task_token=token, activity_id=message.execution.workflow_id, attempt=1
            )
        self.done[message.task_token] = request
        return rr.RespondActivityTaskCompletedResponse()


def waiting(*workflow_ids: str) -> tuple[FakeStore, History]:
    store = FakeStore()
    for number, workflow_id in enumerate(workflow_ids):
        key = TaskKey(NAMESPACE, versioned_queue("q", VERSION), ACTIVITY, 3, number)
        store.rows[key] = MatchingTask(key, workflow_id, "run", 5, 0, 0)
    return store, History(store)


async def run(
    receiver: Receiver, *workflow_ids: str, at_once: int = 2, context: CallContext | None = None
) -> tuple[str, History]:
    store, history = waiting(*workflow_ids)
    pushes = TaskPushes(store, HistoryService(history), FakeClock(), CountedIds(), hook(receiver))
    error = await pushes.run(DETAILS | {"mode": "task", "task_queues": ["q"]}, work(context), at_once)
    return error, history


async def test_each_task_is_sent_and_its_result_comes_back_in_the_answer() -> None:
    payload = {"metadata": {"encoding": "anNvbi9wbGFpbg=="}, "data": "MQ=="}
    receiver = Receiver(lambda _: (200, {"result": {"payloads": [payload]}}))
    error, history = await run(receiver, "a", "b", "c")
    assert error == ""
    assert [message["data"]["task"]["activityId"] for message in receiver.messages] == ["a", "b", "c"]
    assert {message["type"] for message in receiver.messages} == {"activity.task"}
    assert sorted(history.done) == [b"a", b"b", b"c"]
    done = history.done[b"a"]
    assert isinstance(done, rr.RespondActivityTaskCompletedRequest)
    assert (done.result.payloads[0].data, done.namespace, done.identity) == (b"1", "shop", "whistlestop-webhook")
    assert history.polls[0].deployment_options.build_id == "1", "started as a worker of the version"
    assert history.polls[0].task_queue.name == "q"


async def test_an_activity_without_a_result_is_complete_all_the_same() -> None:
    _, history = await run(Receiver(lambda _: (200, b"")), "a")
    assert not history.done[b"a"].HasField("result")


async def test_a_receiver_may_answer_later_by_the_token() -> None:
    error, history = await run(Receiver(lambda _: (202, b"")), "a")
    assert (error, history.done) == ("", {})


async def test_a_failure_in_the_answer_fails_the_attempt() -> None:
    said = {"failure": {"message": "no", "applicationFailureInfo": {"type": "Bad", "nonRetryable": True}}}
    error, history = await run(Receiver(lambda _: (200, said)), "a")
    failure = history.done[b"a"].failure
    assert (error, failure.message, failure.application_failure_info.non_retryable) == ("", "no", True)


@pytest.mark.parametrize("answer", [b"[1]", b"not json", {"result": 5}, {"failure": {"nonsense": 1}}])
async def test_an_answer_that_is_not_understood_fails_the_attempt(answer: Any) -> None:
    error, history = await run(Receiver(lambda _: (200, answer)), "a")
    assert error == ""
    assert history.done[b"a"].failure.message.startswith("the webhook's answer is not understood: ")
    assert history.done[b"a"].failure.application_failure_info.type == "WebhookError"


async def test_a_broken_receiver_gets_no_more_tasks_and_a_refusal_affects_one_task() -> None:
    error, history = await run(Receiver(lambda _: (500, b"")), "a", "b", "c", at_once=1)
    assert (error, sorted(history.done)) == ("the webhook answered with status 500", [b"a"])
    error, history = await run(Receiver(lambda _: (422, b"")), "a", "b", "c", at_once=1)
    assert (error, sorted(history.done)) == ("", [b"a", b"b", b"c"])


async def test_a_task_that_another_took_meanwhile_is_not_sent() -> None:
    store, history = waiting("a", "b")
    receiver = Receiver(lambda _: (200, b""))
    pushes = TaskPushes(store, HistoryService(history), FakeClock(), CountedIds(), hook(receiver))

    async def lose_the_first(*_: Any) -> None:
        store.rows.pop(next(iter(store.rows)), None)
        history.before = None

    history.before = lose_the_first
    await pushes.run(DETAILS, work(), 1)
    assert sorted(history.done) == [b"b"]


async def test_in_a_function_no_task_is_begun_that_could_not_be_answered_in_time() -> None:
    context = CallContext(
        namespace_id=NAMESPACE,
        namespace="shop",
        deadline_ns=FakeClock().steady_ns() + 5 * SECOND_NS,
        can_long_poll=False,
    )
    receiver = Receiver(lambda _: (200, b""))
    _, history = await run(receiver, "a", context=context)
    assert (receiver.requests, history.done) == ([], {})
