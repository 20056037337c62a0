"""Timers of less than a second let go first what the same workflow task started: the order that Temporal has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.activity.test_activity import application_failure, fail
from tests.core.command_builders import schedule_activity, start_timer
from tests.core.harness import World
from tests.core.signal.test_signal import send
from whistlestop.history.core.activity import decide as activity
from whistlestop.history.core.times import SECOND_NS
from whistlestop.history.core.workflow_task import short_timers

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import MutableState

SHORT_S = 0.1
MOST_WAIT_S = short_timers.MOST_WAIT_NS / SECOND_NS


def racing(seconds: float = SHORT_S, *, timer_first: bool = True) -> World:
    """Return a world whose workflow has started a timer and an activity by one workflow task."""
    world = World()
    world.start()
    commands = [start_timer("t", seconds), schedule_activity("a", start_to_close_timeout_s=60)]
    world.turn(*(commands if timer_first else reversed(commands)))
    return world


def complete_activity(world: World) -> None:
    token = world.activity_token
    world.transact(lambda run: activity.complete(run, token, None, "activity-worker"))


@pytest.mark.parametrize("timer_first", [True, False])
def test_an_activity_that_takes_longer_than_a_short_timer_comes_first(timer_first: bool) -> None:
    world = racing(timer_first=timer_first)
    world.poll_activity()
    world.advance(0.5)
    assert "TimerFired" not in world.names()
    assert world.offered(1) == []
    complete_activity(world)
    world.advance(0)
    assert world.names()[-4:] == [
        "ActivityTaskStarted", "ActivityTaskCompleted", "WorkflowTaskScheduled", "TimerFired",
    ]  # fmt: skip
    assert len(world.offered(1)) == 1


def test_the_timer_is_not_late_once_the_activity_is_over() -> None:
    world = racing(0.5)
    world.poll_activity()
    world.advance(0.25)
    complete_activity(world)
    world.turn()
    world.advance(0.24)
    assert "TimerFired" not in world.names()
    world.advance(0.01)
    assert world.names()[-2:] == ["TimerFired", "WorkflowTaskScheduled"]


@pytest.mark.parametrize("is_polled", [True, False])
def test_short_timers_wait_less_than_a_second(is_polled: bool) -> None:
    world = racing()
    if is_polled:
        world.poll_activity()
    world.advance(MOST_WAIT_S - 0.001)
    assert "TimerFired" not in world.names()
    world.advance(0.001)
    assert world.names()[-2:] == ["TimerFired", "WorkflowTaskScheduled"]


def test_a_timer_alone_is_on_time() -> None:
    world = World()
    world.start()
    world.turn(start_timer("t", SHORT_S))
    world.advance(SHORT_S)
    assert world.names()[-2:] == ["TimerFired", "WorkflowTaskScheduled"]


def test_a_timer_of_a_second_is_on_time() -> None:
    world = racing(1)
    world.poll_activity()
    world.advance(0.999)
    assert "TimerFired" not in world.names()
    world.advance(0.001)
    assert world.names()[-2:] == ["TimerFired", "WorkflowTaskScheduled"]


def test_a_timer_waits_for_nothing_that_an_earlier_workflow_task_started() -> None:
    world = World()
    world.start()
    world.turn(schedule_activity("a", start_to_close_timeout_s=60))
    send(world)
    world.turn(start_timer("t", SHORT_S))
    world.advance(SHORT_S)
    assert world.names()[-2:] == ["TimerFired", "WorkflowTaskScheduled"]


def test_a_timer_waits_no_longer_when_a_workflow_task_is_scheduled_anyway() -> None:
    world = racing()
    world.poll_activity()
    world.advance(0.2)
    send(world)
    world.advance(0)
    assert world.names()[-3:] == ["WorkflowExecutionSignaled", "WorkflowTaskScheduled", "TimerFired"]


def test_an_activity_that_fails_for_good_ends_the_wait() -> None:
    world = racing()
    world.poll_activity()
    world.advance(0.2)
    failure = application_failure()
    failure.application_failure_info.non_retryable = True
    fail(world, failure)
    world.advance(0)
    assert world.names()[-2:] == ["WorkflowTaskScheduled", "TimerFired"]


def test_the_activity_is_dispatched_before_a_timer_of_the_same_time() -> None:
    """A timer that is due at once: the commit that starts both has the activity's task."""
    world = racing(0.001)
    assert [task.key.task_type for task in world.tasks.values()] == [2]
    world.advance(0.001)
    assert "TimerFired" not in world.names()


def test_a_timer_does_not_wait_for_a_second_attempt() -> None:
    world = racing()
    world.poll_activity()
    world.advance(0.2)
    fail(world, application_failure())
    world.advance(0)
    assert world.names()[-2:] == ["TimerFired", "WorkflowTaskScheduled"]


def test_pending_work_is_searched_once_for_all_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may have thousands of short timers beside thousands of activities of other workflow tasks."""
    world = World()
    world.start()
    world.turn(*(start_timer(f"t{number}", SHORT_S) for number in range(50)), schedule_activity("a"))
    looks = []
    find = short_timers._batches_with_something_pending

    def counted(state: MutableState) -> set[int]:
        looks.append(state)
        return find(state)

    monkeypatch.setattr(short_timers, "_batches_with_something_pending", counted)
    assert len({due_ns for due_ns, _ in short_timers.fire_times(world.state())}) == 1
    assert len(looks) == 1
