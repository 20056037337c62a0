"""RPCs of our own by their names of release 0.1.0: accepted with a warning, and sent where nothing else is known."""

from __future__ import annotations

import base64
import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.fixtures import Remembering, new_world
from whistlestop.common import renamed_rpcs
from whistlestop.common.clients import decoded
from whistlestop.common.clock import FakeClock, SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError, unavailable, unimplemented
from whistlestop.common.ids import CountedIds
from whistlestop.common.proto import internal_pb2, worker_pb2
from whistlestop.common.renamed_rpcs import OLD_NAMES
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.common.rpcs.worker_service import WorkerService
from whistlestop.frontend.own_rpcs import WORKER_SERVICE
from whistlestop.frontend.service import Frontend
from whistlestop.net.http.answer import HttpAnswer
from whistlestop.net.http.client import Http1Client
from whistlestop.net.internal.http_client import HttpClient
from whistlestop.net.internal.transports import LambdaClient, error_answer, invoke_envelope, wrap

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from whistlestop.common.rpcs.rpc import Channel, Rpc

MESSAGES: dict[str, tuple[Message, Message]] = {
    "ProbeBacklog": (worker_pb2.ProbeBacklogRequest(limit=3), worker_pb2.ProbeBacklogResponse(workflow_tasks=[2])),
    "FireTimers": (internal_pb2.FireTimersRequest(limit=3), internal_pb2.FireTimersResponse(timers=2)),
}


@pytest.fixture(autouse=True)
def nothing_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed_rpcs, "_warned", set())


def test_each_renamed_rpc_is_tried_here() -> None:
    assert set(MESSAGES) == set(OLD_NAMES)


@pytest.mark.parametrize("method", OLD_NAMES)
async def test_a_call_from_the_old_release_is_served_and_warned_of_once(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    service, clock = Remembering(), FakeClock()
    request, reply = MESSAGES[method]
    service.answers[method] = reply
    envelope = wrap(OLD_NAMES[method], request, CallContext(), clock)
    with caplog.at_level(logging.WARNING):
        answers = [await invoke_envelope(service, envelope, clock) for _ in range(2)]
    assert [name for name, _, _ in service.calls] == [method, method]
    assert (service.calls[0][1], "response" in answers[0]) == (request, True)
    assert [record.message.count(OLD_NAMES[method]) for record in caplog.records] == [1]


class OldRelease:
    """A function, or a process behind HTTP, that knows the old names only."""

    def __init__(self, answer: Message, refusal: ServiceError) -> None:
        self.asked: list[str] = []
        self._answer, self._refusal = answer, refusal

    def _serve(self, payload: bytes) -> bytes:
        envelope = json.loads(payload)
        self.asked.append(envelope["method"])
        if envelope["method"] in OLD_NAMES.values():
            return json.dumps({"response": base64.b64encode(self._answer.SerializeToString()).decode()}).encode()
        return json.dumps(error_answer(self._refusal)).encode()

    def invoke(self, *, Payload: bytes, **_: Any) -> dict[str, Any]:  # noqa: N803 - boto3's name
        return {"Payload": io.BytesIO(self._serve(Payload))}

    async def post(self, path: str, headers: Any, payload: bytes) -> HttpAnswer:
        return HttpAnswer(200, self._serve(payload))


def channels(release: OldRelease, monkeypatch: pytest.MonkeyPatch) -> list[Channel]:
    monkeypatch.setattr(Http1Client, "post", lambda _client, *sent: release.post(*sent))
    return [LambdaClient("f", SystemClock(), release), HttpClient("http://127.0.0.1:9", SystemClock())]


def rpc_of(method: str) -> Rpc[Any, Any]:
    return HistoryService.rpcs.get(method) or MatchingService.rpcs[method]


@pytest.mark.parametrize("method", OLD_NAMES)
async def test_the_old_name_is_sent_to_a_process_of_the_old_release(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, reply = MESSAGES[method]
    release = OldRelease(reply, unimplemented(f"no method {method}"))
    for channel in channels(release, monkeypatch):
        release.asked.clear()
        assert decoded(await channel.call(rpc_of(method), request, CallContext()), type(reply)) == reply
        assert release.asked == [method, OLD_NAMES[method]]


@pytest.mark.parametrize("method", OLD_NAMES)
async def test_other_errors_are_not_answered_by_the_old_name(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    release = OldRelease(MESSAGES[method][1], unavailable("down"))
    for channel in channels(release, monkeypatch):
        release.asked.clear()
        with pytest.raises(ServiceError, match="down"):
            await channel.call(rpc_of(method), MESSAGES[method][0], CallContext())
        assert release.asked == [method]


async def test_an_rpc_that_was_not_renamed_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    release = OldRelease(internal_pb2.Empty(), unimplemented("unknown"))
    for channel in channels(release, monkeypatch):
        release.asked.clear()
        with pytest.raises(ServiceError, match="unknown"):
            await channel.call(MatchingService.HasPoller, internal_pb2.HasPollerRequest(), CallContext())
        assert release.asked == ["HasPoller"]


@pytest.mark.parametrize("name", ["ProbeBacklog", "LookForTasks"])
async def test_the_public_path_of_the_old_release_is_served(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """For bridges of 0.1.0; matching is asked by the present name."""
    world = await new_world()
    world.matching.answers["ProbeBacklog"] = worker_pb2.ProbeBacklogResponse(workflow_tasks=[1])
    request = worker_pb2.ProbeBacklogRequest(namespace="default")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            reply = await world.frontend.call(f"{WORKER_SERVICE}/{name}", request, CallContext())
            assert reply == worker_pb2.ProbeBacklogResponse(workflow_tasks=[1])
    assert [method for method, _, _ in world.matching.calls] == ["ProbeBacklog"] * 2
    assert len(caplog.records) == (1 if name == "LookForTasks" else 0)
    await world.frontend.ports.store.close()


async def test_matching_of_the_old_release_is_asked_by_the_old_name() -> None:
    world = await new_world()
    reply = worker_pb2.ProbeBacklogResponse(workflow_tasks=[1])
    release = OldRelease(reply, unimplemented("matching has no method ProbeBacklog"))
    frontend = Frontend(
        world.frontend.ports.store, world.history, LambdaClient("matching", SystemClock(), release), world.clock,
        CountedIds(),
    )  # fmt: skip
    request = worker_pb2.ProbeBacklogRequest(namespace="default")
    answer = await frontend.call(WorkerService.ProbeBacklog.full_name, request, CallContext())
    assert decoded(answer, worker_pb2.ProbeBacklogResponse) == reply
    assert release.asked == ["ProbeBacklog", "LookForTasks"]
    await world.frontend.ports.store.close()
