"""What a call leaves for later is noted for a wake-up, once, at its earliest time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import SECOND_NS, SystemClock
from whistlestop.common.context import CallContext
from whistlestop.functions import bootstrap
from whistlestop.history import lambda_function
from whistlestop.history.timers import wake_ups as alarm
from whistlestop.net.internal.transports import wrap
from whistlestop.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The instants that a history instance armed for."""
    instants: list[int] = []

    async def arm(_: alarm.NoWakeUps, at_ns: int) -> None:
        instants.append(at_ns)

    async def migrate() -> None:
        store = SqliteStore(str(tmp_path / "store.db"))
        await store.open()
        await store.migrate()
        await store.close()

    bootstrap.run(migrate())
    monkeypatch.setenv("WHISTLESTOP_SQLITE_PATH", str(tmp_path / "store.db"))
    monkeypatch.setenv("WHISTLESTOP_MATCHING_FUNCTION", "matching")
    monkeypatch.delenv("WHISTLESTOP_DATABASE_URL", raising=False)
    monkeypatch.setattr(alarm.NoWakeUps, "arm", arm)
    monkeypatch.setattr(lambda_function.function, "instance", None)
    monkeypatch.setattr(bootstrap, "log_through_powertools", lambda *_: None)
    yield instants
    if (instance := lambda_function.function.instance) is not None:
        bootstrap.run(instance.history.store.close())


def _start(workflow_id: str, **fields: Any) -> None:
    request = rr.StartWorkflowExecutionRequest(workflow_id=workflow_id, request_id=workflow_id, **fields)
    request.workflow_type.name, request.task_queue.name = "Journey", "line"
    envelope = wrap(
        "StartWorkflowExecution", request, CallContext(namespace_id="ns", namespace="default"), SystemClock()
    )
    assert "response" in lambda_function.handler(envelope, None)


def test_armed_for_the_earliest(armed: list[int]) -> None:
    """The start's delay comes before the run's end."""
    began_ns = SystemClock().now_ns()
    _start("delayed", workflow_start_delay={"seconds": 40}, workflow_run_timeout={"seconds": 300})
    assert [round((at_ns - began_ns) / SECOND_NS) for at_ns in armed] == [40]


def test_no_deadline_schedules_no_wake_up(armed: list[int]) -> None:
    _start("plain")
    assert armed == []


def test_the_earliest_of_many() -> None:
    """Zero is no instant; once armed it is forgotten."""
    dues = alarm.EarliestWakeUp()
    instants: list[int] = []

    class Recording:
        async def arm(self, at_ns: int) -> None:
            instants.append(at_ns)

    for at_ns in (0, 30, 10, 20):
        dues.note(at_ns)
    for _ in range(2):
        bootstrap.run(dues.arm(Recording()))
    assert instants == [10]
