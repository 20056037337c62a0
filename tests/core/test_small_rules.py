"""Rules of one line, of which no story of other tests takes the other side."""

from __future__ import annotations

import pytest

from tests.core.harness import World
from whistlestop.history.core.activity import standalone
from whistlestop.history.core.callback import decide as callbacks
from whistlestop.history.core.state_pb2 import MutableState


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
