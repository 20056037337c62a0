"""RPCs of our own by their names of release 0.1.0: accepted with a warning, and sent where nothing else is known."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.api.fixtures import Remembering, new_world
from whistlestop.common import renamed_rpcs
from whistlestop.common.clock import FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError, unavailable, unimplemented
from whistlestop.common.proto import internal_pb2, worker_pb2
from whistlestop.common.renamed_rpcs import OLD_NAMES, call_renamed
from whistlestop.frontend.own_rpcs import WORKER_SERVICE
from whistlestop.net.internal.transports import invoke_envelope, wrap

if TYPE_CHECKING:
    from google.protobuf.message import Message

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


@pytest.mark.parametrize("method", OLD_NAMES)
async def test_the_old_name_is_sent_to_a_process_of_the_old_release(method: str) -> None:
    service = Remembering()
    request, reply = MESSAGES[method]
    service.answers = {method: unimplemented(f"no method {method}"), OLD_NAMES[method]: reply}
    assert await call_renamed(service, method, request, CallContext()) == reply


@pytest.mark.parametrize("method", OLD_NAMES)
async def test_other_errors_are_not_answered_by_the_old_name(method: str) -> None:
    service = Remembering()
    service.answers[method] = unavailable("down")
    with pytest.raises(ServiceError, match="down"):
        await call_renamed(service, method, MESSAGES[method][0], CallContext())
    assert len(service.calls) == 1


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
    world.matching.answers = {
        "ProbeBacklog": unimplemented("matching has no method ProbeBacklog"),
        "LookForTasks": worker_pb2.ProbeBacklogResponse(workflow_tasks=[1]),
    }
    request = worker_pb2.ProbeBacklogRequest(namespace="default")
    reply = await world.frontend.call(f"{WORKER_SERVICE}/ProbeBacklog", request, CallContext())
    assert reply == worker_pb2.ProbeBacklogResponse(workflow_tasks=[1])
    await world.frontend.ports.store.close()
