"""Any history keeps the core's invariants, whatever happens in whatever order.

pytest tests/core/test_properties.py                                                 150 histories
WHISTLESTOP_HYPOTHESIS_PROFILE=nightly pytest tests/core/test_properties.py          2,500 longer ones
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from temporalio.api.update.v1 import message_pb2 as update_pb

from tests.core.checks import CheckedWorld
from tests.core.random.histories import STEPS, Actor
from whistlestop.history.core.limits import Limits
from whistlestop.history.core.update import decide as update

_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
settings.register_profile("whistlestop", max_examples=150, deadline=None, suppress_health_check=_QUIET)
settings.register_profile("nightly", max_examples=2500, deadline=None, suppress_health_check=_QUIET)
if settings.get_current_profile_name() == "default":
    settings.load_profile(os.environ.get("WHISTLESTOP_HYPOTHESIS_PROFILE", "whistlestop"))

OFTEN = ("turn", "turn", "complete", "poll_activity", "activity", "nexus", "deliver", "advance")
NUMBERS = st.lists(st.integers(0, 71), min_size=6, max_size=40)
PROGRAMS = st.lists(
    st.tuples(st.sampled_from((*STEPS, *OFTEN)), NUMBERS),
    min_size=2,
    max_size=80 if settings.get_current_profile_name() == "nightly" else 40,
)


@given(first=NUMBERS, program=PROGRAMS)
def test_every_history_keeps_the_invariants(first: list[int], program: list[tuple[str, list[int]]]) -> None:
    actor = Actor(CheckedWorld(Limits(buffered_events=6)))
    actor.step("start", first)
    try:
        for name, numbers in program:
            actor.step(name, numbers)
        actor.finish()
    finally:
        note("\n".join(actor.trace))
        for run_id in actor.world.stored:
            note(f"{run_id}: {' '.join(actor.world.names(run_id))}")


def waiting_with_an_update(delay_s: float) -> Actor:
    """A run that waits for its first task, with an update sent to a worker meanwhile."""
    actor = Actor(CheckedWorld())
    actor.world.start(start_delay_s=delay_s, task_timeout_s=60)
    request = update_pb.Request()
    request.meta.update_id = "u"
    actor.world.transact(lambda run: update.admit(run, request))
    actor.step("poll", [])
    return actor


def test_an_update_refused_before_the_first_task_does_not_swallow_it() -> None:
    actor = waiting_with_an_update(10)
    actor.world.complete(token=actor.workflow_tokens[-1])
    assert actor.world.names() == ["WorkflowExecutionStarted"]
    actor.world.advance(10)
    assert actor.world.names() == ["WorkflowExecutionStarted", "WorkflowTaskScheduled"]


def test_the_first_task_is_scheduled_while_an_update_is_processed() -> None:
    actor = waiting_with_an_update(5)
    actor.world.advance(5)
    actor.world.complete(token=actor.workflow_tokens[-1])
    assert actor.world.names() == [
        "WorkflowExecutionStarted",
        "WorkflowTaskScheduled",
        "WorkflowTaskStarted",
        "WorkflowTaskCompleted",
    ]
