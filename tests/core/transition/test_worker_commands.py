"""Which activities' workers are told to cancel them, and when (system.enableCancelActivityWorkerCommand)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.core.activity.test_activity import application_failure, fail
from tests.core.command_builders import (
    cancel_activity,
    complete_workflow,
    continue_as_new,
    fail_workflow,
    schedule_activity,
)
from tests.core.harness import World
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.history import tokens
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.state_pb2 import TransferData
from whistlestop.history.core.transition import worker_commands
from whistlestop.history.core.workflow import close

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.history.core.transition.run import Run

ON = Limits(cancel_activity_worker_command=True)
CONTROL = "/temporal-sys/worker-commands/default/one"


def started(*control_queues: str, limits: Limits = ON, **fields: Any) -> tuple[World, list[bytes]]:
    """A run with one started activity for each control queue, and the activities' task tokens."""
    world = World(limits)
    world.start(run_timeout_s=60)
    names = [f"a{index}" for index, _ in enumerate(control_queues)]
    world.turn(*(schedule_activity(name, **fields) for name in names))
    return world, [take(world, name, queue) for name, queue in zip(names, control_queues, strict=True)]


def take(world: World, activity_id: str, control_queue: str) -> bytes:
    task = next(t for t in world.offered(2) if activity_of(world, t.scheduled_event_id).activity_id == activity_id)

    def decide(run: Run) -> bytes:
        taken = activity.start(run, task.scheduled_event_id, task.stamp, "r", "worker", control_queue=control_queue)
        return tokens.of_activity(run, taken)

    token = world.transact(decide)
    world.activity_token = TaskToken.FromString(token)
    return token


def activity_of(world: World, scheduled_event_id: int) -> Any:
    return world.state().activities[scheduled_event_id]


def told(world: World) -> dict[str, list[bytes]]:
    """What is to be told, by control queue."""
    rows = [TransferData.FromString(t.data) for t in world.transfers if t.kind == worker_commands.KIND]
    assert len({row.request_id for row in rows}) == len(rows)
    return {row.control_task_queue: list(row.cancel_activity_tokens) for row in rows}


def scheduled_ids(world: World) -> list[int]:
    return sorted(world.state().activities)


def ask_again(world: World) -> None:
    """Make a workflow task."""
    from whistlestop.history.core.workflow_task import decide as workflow_task

    world.transact(workflow_task.schedule)


def test_a_request_to_cancel_reaches_the_worker_that_has_the_activity() -> None:
    world, (first, second, _) = started(CONTROL, CONTROL, "another")
    ask_again(world)
    world.turn(*(cancel_activity(event_id) for event_id in scheduled_ids(world)[:2]))
    assert told(world) == {CONTROL: [first, second]}


CLOSES: dict[str, Callable[[World], object]] = {
    "terminated": lambda world: world.transact(lambda run: close.terminate(run, reason="", identity="")),
    "reset": lambda world: world.transact(lambda run: close.terminate(run, reason="", identity="", by_reset=True)),
    "timed out": lambda world: world.advance(61),
    "completed": lambda world: world.turn(complete_workflow()),
    "failed": lambda world: world.turn(fail_workflow()),
    "continued as new": lambda world: world.turn(continue_as_new()),
}


@pytest.mark.parametrize("way", CLOSES)
def test_the_end_of_a_run_reaches_the_workers_of_its_activities(way: str) -> None:
    world, (first, second) = started(CONTROL, "another", start_to_close_timeout_s=3600)
    ask_again(world)
    CLOSES[way](world)
    assert told(world) == {CONTROL: [first], "another": [second]}


def test_a_worker_is_notified_once_when_the_cancelling_task_closes_the_run() -> None:
    world, (token,) = started(CONTROL)
    ask_again(world)
    world.turn(cancel_activity(*scheduled_ids(world)), complete_workflow())
    assert told(world) == {CONTROL: [token]}


def test_a_refused_command_notifies_no_worker() -> None:
    world, _ = started(CONTROL)
    ask_again(world)
    world.poll()
    outcome = world.complete(cancel_activity(*scheduled_ids(world)), cancel_activity(999))
    assert outcome.error is not None
    assert told(world) == {}


def test_an_attempt_without_a_worker_names_none() -> None:
    world, _ = started(CONTROL)
    fail(world, application_failure())
    world.transact(lambda run: close.terminate(run, reason="", identity=""))
    assert told(world) == {}


def test_the_worker_of_the_last_attempt_is_notified() -> None:
    world, _ = started(CONTROL)
    fail(world, application_failure())
    world.advance(2)
    token = take(world, "a0", "another")
    world.transact(lambda run: close.terminate(run, reason="", identity=""))
    assert told(world) == {"another": [token]}


def test_a_worker_without_a_control_queue_is_not_notified() -> None:
    world, _ = started("")
    world.transact(lambda run: close.terminate(run, reason="", identity=""))
    assert told(world) == {}


def test_an_attempt_that_the_old_release_started_has_no_control_queue() -> None:
    """0.1.0 keeps what it does not know: the queue and the nonce of the attempt before."""
    world, _ = started(CONTROL)
    fail(world, application_failure())
    world.advance(2)
    (task,) = world.offered(2)

    def old_start(run: Run) -> None:
        kept = activity.start(run, task.scheduled_event_id, task.stamp, "r", "worker")
        kept.worker_control_task_queue = CONTROL
        kept.nonce_of -= 1

    world.transact(old_start)
    world.transact(lambda run: close.terminate(run, reason="", identity=""))
    assert told(world) == {}


def test_without_the_setting_no_worker_is_notified() -> None:
    world, _ = started(CONTROL, limits=Limits())
    ask_again(world)
    world.turn(cancel_activity(*scheduled_ids(world)))
    world.transact(lambda run: close.terminate(run, reason="", identity=""))
    assert told(world) == {}
