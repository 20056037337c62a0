"""Random histories of the pure core: small steps, each read from a list of small numbers, so that failures shrink well.

    actor = Actor(World())
    actor.step("signal", [1, 0, 2])

A step that a run refuses leaves everything as it was; any other step ends in commits, each of which is checked by
`CheckedWorld`. `finish` then lets every run come to its end, whatever state it was left in.
"""

from __future__ import annotations

from tests.core.checks import OPEN
from tests.core.command_builders import complete_workflow
from tests.core.random.clients import ClientSteps
from tests.core.random.deliveries import DeliverySteps
from tests.core.random.numbers import Numbers
from tests.core.random.workers import WorkerSteps
from whistlestop.common.errors import ServiceError
from whistlestop.history import tokens
from whistlestop.history.core import deadlines
from whistlestop.history.core.signal import decide as signal
from whistlestop.history.core.times import SECOND_NS


class Actor(ClientSteps, WorkerSteps, DeliverySteps):
    """Carries out steps on a world."""

    def step(self, name: str, numbers: list[int]) -> None:
        """Carry out one step. Refusals are fine."""
        try:
            getattr(self, f"do_{name}")(Numbers(numbers))
        except ServiceError as error:
            self.trace.append(f"{name}: {error.code.name} {error}")

    def finish(self) -> None:
        """Whatever was left: each run can be brought to its end (and those of endless chains to the next run)."""
        rounds = 0
        while self.world.transfers:
            self.do_deliver(Numbers([]))
            rounds += 1
            assert rounds < 500
        for run_id in list(self.world.stored):
            self._bring_to_end(run_id)

    def _bring_to_end(self, run_id: str) -> None:
        for _ in range(60):
            state = self.world.state(run_id)
            if state.status not in OPEN:
                return
            task = state.workflow_task
            if task.scheduled_event_id and task.started_event_id:
                run = self.world.load(run_id)
                token = tokens.parse(tokens.of_workflow_task(run))
                self.world.complete(complete_workflow("end"), token=token)
            elif task.scheduled_event_id:
                self.world.poll(run_id)
            elif state.first_workflow_task_backoff_until_ns:
                self.world.advance(max(0, deadlines.timer_row_wall_ns(state) - self.world.now_ns) / SECOND_NS)
            else:
                self.world.transact(
                    lambda run: signal.receive(run, name="end", input=None, identity="c", request_id=""), run_id
                )
                assert self.world.state(run_id).workflow_task.scheduled_event_id, "a signal makes no workflow task"
        raise AssertionError(f"the run can't be brought to its end: {self.world.names(run_id)}")


STEPS = tuple(
    name.removeprefix("do_")
    for kind in (ClientSteps, WorkerSteps, DeliverySteps)
    for name in vars(kind)
    if name.startswith("do_")
)
