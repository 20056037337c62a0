"""What a commit offers, and in which order: an activity before the timer, and what it causes before anybody hears of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.history.test_executions import Bench
from whistlestop.common.clients import decoded
from whistlestop.common.proto import internal_pb2 as internal
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.engine.engine import Effects
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

ACTIVITY = {
    "command_type": "COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK",
    "schedule_activity_task_command_attributes": {
        "activity_id": "a", "activity_type": {"name": "A"}, "task_queue": {"name": "q"},
        "start_to_close_timeout": {"seconds": 60},
    },
}  # fmt: skip
TIMER = {
    "command_type": "COMMAND_TYPE_START_TIMER",
    "start_timer_command_attributes": {"timer_id": "t", "start_to_fire_timeout": {"nanos": 1}},
}
SIGNAL = {
    "command_type": "COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION",
    "signal_external_workflow_execution_command_attributes": {
        "execution": {"workflow_id": "other"}, "signal_name": "s",
    },
}  # fmt: skip


class Told(Effects):
    """Notes what it is told of."""

    sees_tasks = True

    def __init__(self) -> None:
        self.order: list[str] = []

    def tasks(self, tasks: Sequence[Any]) -> None:
        self.order += [f"task {task.key.task_type}" for task in tasks]

    def timer(self, timer: Any) -> None:
        self.order.append("timer")

    def transfers(self, transfers: Sequence[Any]) -> None:
        self.order.append("transfer")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    yield Bench(store)
    await store.close()


async def told_of(bench: Bench, *commands: dict[str, Any]) -> list[str]:
    """Start a run, answer its first workflow task and return what the commit told of, in order."""
    run_id = (await bench.start()).run_id
    (task,) = await bench.store.list_tasks(bench.context.namespace_id, "q", 1, None, 10)
    request = internal.RecordWorkflowTaskStartedRequest(
        scheduled_event_id=task.scheduled_event_id, stamp=task.stamp, request_id="r", task_queue="q"
    )
    request.execution.workflow_id, request.execution.run_id, request.poll.task_queue.name = "wf", run_id, "q"
    reply = await bench.history.call(HistoryService.RecordWorkflowTaskStarted, request, bench.context)
    started: Any = decoded(reply, rr.PollWorkflowTaskQueueResponse)
    told = bench.history.engine.effects = Told()
    await bench.call("RespondWorkflowTaskCompleted", task_token=started.task_token, commands=commands)
    return told.order


@pytest.mark.parametrize("commands", [(ACTIVITY, TIMER), (TIMER, ACTIVITY)], ids=["activity_first", "timer_first"])
async def test_an_activity_is_offered_before_the_timer_is_armed(bench: Bench, commands: Any) -> None:
    """Both by the commit itself, so that nothing that the timer does comes before the activity."""
    assert await told_of(bench, *commands) == ["task 2", "timer"]


async def test_effects_of_a_commit_start_before_its_callers_are_notified(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a caller who waited for the commit does not overtake its effects with the next request."""
    engine = bench.history.engine
    publish = engine.notifier.publish

    def told(topics: Iterable[str]) -> None:
        getattr(engine.effects, "order", []).append("published")
        publish(topics)

    monkeypatch.setattr(engine.notifier, "publish", told)
    assert await told_of(bench, SIGNAL) == ["transfer", "published"]
