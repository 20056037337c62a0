"""Rules of one line, of which no story of other tests takes the other side."""

from __future__ import annotations

import re

import pytest
from temporalio.api.taskqueue.v1 import message_pb2 as taskqueue_pb
from temporalio.api.update.v1 import message_pb2 as update_pb

from tests.core.command_builders import complete_workflow, payloads, start_timer
from tests.core.harness import World
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.activity import standalone
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.operations import options
from whistlestop.history.core.signal.decide import ALREADY_COMPLETED
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.update import decide as update


@pytest.mark.parametrize(
    ("update_id", "request_id", "attached"),
    [("pay", "first", True), ("pay", "second", False), ("ship", "first", False), ("ship", "second", False)],
)
def test_callbacks_are_attached_to_an_update_once_for_each_request(
    update_id: str, request_id: str, attached: bool
) -> None:
    state = MutableState()
    state.callback_infos.add(update_id="pay", request_id="first")
    assert callbacks.is_attached(state, update_id, request_id) is attached


def test_what_was_offered_of_an_activity_that_is_withdrawn_is_stale() -> None:
    world = World()
    world.start()
    run = world.load()
    run.state.activity_execution.stamp = 3
    run.state.activity_execution.to_dispatch = True
    standalone.withdraw(run)
    assert run.state.activity_execution.stamp == 4
    assert not run.state.activity_execution.to_dispatch


def test_updates_that_are_not_over_count_with_all_their_bytes() -> None:
    def request(update_id: str) -> update_pb.Request:
        return update_pb.Request(
            meta=update_pb.Meta(update_id=update_id), input=update_pb.Input(name="pay", args=payloads("x" * 500))
        )

    world = World(Limits(in_flight_updates_bytes=request("1").ByteSize() * 3 // 2))
    world.start()
    world.transact(lambda run: update.admit(run, request("1")))
    with pytest.raises(ServiceError, match="total payload size of in-flight updates"):
        world.transact(lambda run: update.admit(run, request("2")))


def test_options_of_a_run_that_is_over_are_not_changed() -> None:
    world = World()
    world.start()
    world.turn(complete_workflow())
    with pytest.raises(ServiceError, match=re.escape(ALREADY_COMPLETED)) as refused:
        world.transact(lambda run: options.update(run, options.Change(attached_request_id="r")))
    assert refused.value.code is Code.NOT_FOUND


def test_a_task_waits_on_a_sticky_queue_for_as_long_as_its_worker_said() -> None:
    world = World()
    world.start()
    sticky = taskqueue_pb.StickyExecutionAttributes(worker_task_queue=taskqueue_pb.TaskQueue(name="sticky"))
    sticky.schedule_to_start_timeout.FromSeconds(7)
    world.turn(start_timer(seconds=1), sticky_attributes=sticky)
    world.advance(1)
    assert [task.key.task_queue for task in world.offered(1)] == ["sticky"]
    world.advance(6)
    assert [task.key.task_queue for task in world.offered(1)] == ["sticky"]
    world.advance(1)
    assert [task.key.task_queue for task in world.offered(1)] == ["orders"]
