"""The checks of the simulation find what they are for, and nothing else; shown on one planted history each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from temporalio.api.enums.v1 import event_type_pb2 as et
from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import workflow_pb2 as wf_enums
from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.update.v1 import message_pb2 as update_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.simulation import checks
from tests.simulation.backend import NAMESPACE
from tests.simulation.loop import simulate
from tests.simulation.plan import Plan
from tests.simulation.programs import encode
from tests.simulation.world import Simulation
from whistlestop.common.clock import SECOND_NS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

WAITER, PINGER = "waiter-1", "pinger-2"


class Calm(Simulation):
    """A backend without trouble, whose clients do what a test says."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(Plan(seed, ()))
        self.backend.weather.clear()
        self.calm = True

    def play(
        self, script: Callable[[Calm], Coroutine[None, None, None]]
    ) -> dict[tuple[str, str], list[history_pb.HistoryEvent]]:
        """The histories after the script, once everything has ended; the checks have passed."""

        async def main() -> dict[tuple[str, str], list[history_pb.HistoryEvent]]:
            await self.backend.open()
            self._tasks = [self._spawn(loop, worker.name) for worker in self.workers for loop in worker.polls()]
            try:
                await script(self)
                await self._calm_down()
                await self._check_all()
                return await self._histories()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                await self.backend.close()

        return simulate(main(), self.loop)

    async def start(self, workflow_id: str, policy: int = 0, target: str = "nobody") -> str:
        request = rr.StartWorkflowExecutionRequest(
            namespace=NAMESPACE, workflow_id=workflow_id, request_id=self.backend.ids.uuid(),
            workflow_id_conflict_policy=policy,  # type: ignore[arg-type]
            input=encode({"target": target}),
        )  # fmt: skip
        request.workflow_type.name = workflow_id.partition("-")[0]
        request.task_queue.name = "q"
        reply = await self.backend.call("StartWorkflowExecution", request, rr.StartWorkflowExecutionResponse)
        self.seen.started.append((workflow_id, reply.run_id))
        return reply.run_id

    async def pings(self, workflow_id: str, count: int) -> None:
        """Wait until the workflow has received so many signals."""
        while True:
            request = rr.GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE)
            request.execution.workflow_id = workflow_id
            reply = await self.backend.call(
                "GetWorkflowExecutionHistory", request, rr.GetWorkflowExecutionHistoryResponse
            )
            signals = [
                event for event in reply.history.events if event.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
            ]
            if len(signals) >= count:
                return
            await self.backend.clock.sleep(0.01)


def signals_of(histories: checks.Histories, workflow_id: str) -> list[str]:
    return [
        event.workflow_execution_signaled_event_attributes.signal_name
        for (found, _), events in histories.items()
        if found == workflow_id
        for event in events
        if event.event_type == et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    ]


def test_a_sender_whose_id_is_started_anew_signals_the_same_run_again() -> None:
    """What failed as "received twice" under seeds 22, 2178 and 3198: two runs of one pinger, three pings each."""

    async def script(world: Calm) -> None:
        await world.start(WAITER)
        await world.start(PINGER, target=WAITER)
        await world.pings(WAITER, 3)
        await world.start(PINGER, wf_enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING, target=WAITER)
        await world.pings(WAITER, 6)

    histories = Calm().play(script)
    runs = [run_id for workflow_id, run_id in histories if workflow_id == PINGER]
    assert len(runs) == 2
    received = signals_of(histories, WAITER)
    assert sorted(received) == sorted(f"ping {PINGER} {run_id} {number}" for run_id in runs for number in range(3))


def test_a_sender_that_is_reset_to_before_its_signals_sends_them_again() -> None:

    async def script(world: Calm) -> None:
        await world.start(WAITER)
        run_id = await world.start(PINGER, target=WAITER)
        await world.pings(WAITER, 3)
        request = rr.ResetWorkflowExecutionRequest(
            namespace=NAMESPACE, reason="test", request_id=world.backend.ids.uuid(), workflow_task_finish_event_id=4
        )
        request.workflow_execution.workflow_id, request.workflow_execution.run_id = PINGER, run_id
        await world.backend.call("ResetWorkflowExecution", request, rr.ResetWorkflowExecutionResponse)
        await world.pings(WAITER, 6)

    histories = Calm().play(script)
    runs = [run_id for workflow_id, run_id in histories if workflow_id == PINGER]
    received = signals_of(histories, WAITER)
    assert sorted(received) == sorted(f"ping {PINGER} {run_id} {number}" for run_id in runs for number in range(3))


# ---- made histories -------------------------------------------------------------------------------------------------


def signaled(*names: str) -> list[history_pb.HistoryEvent]:
    events = []
    for name in names:
        event = history_pb.HistoryEvent(event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
        event.workflow_execution_signaled_event_attributes.signal_name = name
        events.append(event)
    return events


def pinged(name: str) -> history_pb.HistoryEvent:
    event = history_pb.HistoryEvent(event_type=et.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED)
    event.signal_external_workflow_execution_initiated_event_attributes.signal_name = name
    return event


def reset_of(base: str, run_id: str) -> history_pb.HistoryEvent:
    event = history_pb.HistoryEvent(event_type=et.EVENT_TYPE_WORKFLOW_TASK_FAILED)
    a = event.workflow_task_failed_event_attributes
    a.cause, a.base_run_id, a.new_run_id = fc.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW, base, run_id
    return event


def continued_as(run_id: str) -> history_pb.HistoryEvent:
    event = history_pb.HistoryEvent(event_type=et.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW)
    event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id = run_id
    return event


def test_one_ping_twice_is_found() -> None:
    name = "ping p r1 0"
    histories = {("p", "r1"): [pinged(name)], ("w", "a"): signaled(name, name)}
    with pytest.raises(AssertionError, match="received twice"):
        checks.check_signals(histories, {}, [])
    histories = {("p", "r1"): [pinged(name)], ("w", "a"): signaled(name), ("w", "b"): signaled(name)}
    with pytest.raises(AssertionError, match="received 2 times and sent 1 times"):
        checks.check_signals(histories, {}, [])
    # Not even when somebody else was reset.
    histories[("w", "c")] = [reset_of("b", "c"), *signaled(name)]
    with pytest.raises(AssertionError, match="received 2 times and sent 1 times"):
        checks.check_signals(histories, {}, [])


def test_a_copy_that_a_reset_makes_is_no_second_ping() -> None:
    name = "ping p r1 0"
    histories = {
        ("p", "r1"): [pinged(name)], ("w", "a"): signaled(name),
        ("w", "b"): [reset_of("a", "b"), *signaled(name)],
    }  # fmt: skip
    checks.check_signals(histories, {}, [("w", name)])


def test_a_signal_of_a_client_is_taken_once_by_a_run_and_once_for_each_try() -> None:
    with pytest.raises(AssertionError, match="received twice"):
        checks.check_signals({("w", "a"): signaled("s", "s")}, {"s": 2}, [])
    two_runs = {("w", "a"): [*signaled("s"), continued_as("b")], ("w", "b"): signaled("s")}
    checks.check_signals(two_runs, {"s": 2}, [])
    with pytest.raises(AssertionError, match="received 2 times and sent 1 times"):
        checks.check_signals(two_runs, {"s": 1}, [])
    # A reset copies from the base and from what continued it as new.
    two_runs["w", "c"] = [reset_of("a", "c"), *signaled("s")]
    checks.check_signals(two_runs, {"s": 2}, [])


def test_an_invented_or_lost_signal_is_found() -> None:
    with pytest.raises(AssertionError, match="sent 0 times"):
        checks.check_signals({("w", "a"): signaled("s")}, {}, [])
    with pytest.raises(AssertionError, match="is lost"):
        checks.check_signals({("w", "a"): [], ("v", "a"): signaled("s")}, {"s": 1}, [("w", "s")])


def update_events(*, accepted: bool, outcome: update_pb.Outcome | None = None) -> list[history_pb.HistoryEvent]:
    events = []
    if accepted:
        event = history_pb.HistoryEvent()
        event.workflow_execution_update_accepted_event_attributes.protocol_instance_id = "u"
        events.append(event)
    if outcome is not None:
        event = history_pb.HistoryEvent()
        event.workflow_execution_update_completed_event_attributes.meta.update_id = "u"
        event.workflow_execution_update_completed_event_attributes.outcome.CopyFrom(outcome)
        events.append(event)
    last = history_pb.HistoryEvent()
    last.workflow_task_completed_event_attributes.SetInParent()
    return [*events, last]


def test_the_outcome_of_an_update_matches_the_callers_answer() -> None:
    good, other, failed = update_pb.Outcome(), update_pb.Outcome(), update_pb.Outcome()
    good.success.payloads.add(data=b"good")
    other.success.payloads.add(data=b"other")
    failed.failure.message = "no"
    checks.check_update(update_events(accepted=True, outcome=good), "u", good)
    checks.check_update(update_events(accepted=True), "u", None)
    checks.check_update(update_events(accepted=False), "u", failed)
    for accepted, stored, told, message in (
        (False, None, None, "is lost"),
        (True, None, good, "outcome of u is lost"),
        (True, other, good, "outcome of u is lost"),
        (True, good, failed, "refused, and then completed"),
        (True, None, failed, "accepted and may go on"),
    ):
        with pytest.raises(AssertionError, match=message):
            checks.check_update(update_events(accepted=accepted, outcome=stored), "u", told)


def test_a_timer_may_be_late_for_kills_that_follow_one_another() -> None:
    """Each kill within the time of two sweeps may have met the process that was about to fire it, and no other."""
    second = SECOND_NS
    started = history_pb.HistoryEvent(event_id=5)
    started.timer_started_event_attributes.start_to_fire_timeout.FromSeconds(10)
    fired = history_pb.HistoryEvent(event_id=9)
    fired.timer_fired_event_attributes.started_event_id = 5
    fired.event_time.FromSeconds(300)
    events = [started, fired]
    checks.check_timers(events, "run", 0, [5 * second, 100 * second, 200 * second])
    for crashes in ([], [100 * second], [170 * second, 200 * second], [100 * second, 301 * second]):
        with pytest.raises(AssertionError, match="late"):
            checks.check_timers(events, "run", 0, crashes)
    checks.check_timers(events, "run", 170 * second)
