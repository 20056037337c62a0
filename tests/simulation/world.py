"""One simulated history of the whole backend, from one seed: trouble first, then calm, then everything has to be right."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from temporalio.api.history.v1 import message_pb2 as history_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.core.checks import check_order
from tests.core.harness import Stored, check_rebuilt, short_name
from tests.simulation import checks
from tests.simulation.backend import NAMESPACE, Backend
from tests.simulation.clients import Client, Seen
from tests.simulation.faults import weather_of
from tests.simulation.loop import START_NS, SimulatedLoop, simulate
from tests.simulation.workers import Worker, stop
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.transition.run import PAUSED, RUNNING
from whistlestop.storage.errors import Unavailable
from whistlestop.storage.records import SLOTS, BranchRange

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tests.simulation.plan import Plan, Step
    from whistlestop.storage.records import StoredExecution

NOT_ALLOWED = frozenset({Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS, Code.UNIMPLEMENTED, Code.UNAUTHENTICATED})

OVER_FILE = 0.5
"""Of the seeds with one process."""


class Simulation:
    """A backend, its workers and its clients."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seed = plan.seed
        self.chance = random.Random(f"{plan.seed} workers")
        self.log: list[str] = []
        self.seen = Seen()
        self.errors: list[str] = []
        self.refusals: Counter[str] = Counter()
        self.calm = False
        self.loop = SimulatedLoop()
        weather = weather_of(random.Random(f"{plan.seed} weather"))
        weather.spared = plan.spared
        chance = random.Random(f"{plan.seed} backend")
        processes = chance.choice([1, 1, 2, 3])
        over_file = processes == 1 and random.Random(f"{plan.seed} store").random() < OVER_FILE
        self.backend = Backend(
            chance, processes=processes, weather=weather, note=self.note, loop=self.loop, over_file=over_file
        )
        self.backend.errors = self.errors
        self.backend.on_double = self._note_double
        self.workers = [Worker(self, f"worker{i}", sticky=self.chance.random() < 0.6) for i in range(2)]
        self._tasks: list[asyncio.Task[Any]] = []
        self._operations: dict[asyncio.Task[None], None] = {}

    def _note_double(self, request: Any) -> None:
        if hasattr(request, "signal_name"):
            self.seen.tries[request.signal_name] += 1

    def note(self, what: str) -> None:
        self.loop.trace(what)
        self.log.append(f"{(self.loop.now_ns - START_NS) / SECOND_NS:9.3f} {what}")

    def allow(self, error: ServiceError, method: str) -> None:
        """Refusals are part of life; signs of a broken server are not."""
        self.refusals[f"{method} {error.code.name}: {error.message[:60]}"] += 1
        if error.code in NOT_ALLOWED:
            self.errors.append(f"{method}: {error!r}")

    # ---- running ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises AssertionError for whatever is wrong."""
        simulate(self._run(), self.loop)

    async def _run(self) -> None:
        watch = _Watch(self.errors)
        watch.start()
        try:
            await self.backend.open()
            self._tasks = [self._spawn(loop, worker.name) for worker in self.workers for loop in worker.polls()]
            for step in self.plan.steps:
                await self._step(step)
                self._raise_errors()
            await self._calm_down()
            self._raise_errors()
            await self._check_all()
        finally:
            await stop([*self._tasks, *self._operations])
            await self.backend.close()
            watch.stop()
        self._raise_errors()

    def _spawn(self, loop: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self.loop.create_task(loop, name=name)

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            # An operation may be refused (`allow` has seen it); a worker goes on whatever is refused.
            is_refusal = isinstance(error, ServiceError) and task in self._operations
            if error is not None and not is_refusal:
                logging.getLogger(__name__).error("a loop ended", exc_info=error)
                self.errors.append(repr(error))

        task.add_done_callback(ended)
        return task

    def _raise_errors(self) -> None:
        assert not self.errors, f"{self.errors[:5]}"

    async def _step(self, step: Step) -> None:
        for number, name in step.operations:
            self.note(f"{number} {name}")
            operation = self._spawn(getattr(Client(self, number), name)(), f"{number} {name}")
            self._operations[operation] = None
            operation.add_done_callback(self._operations.pop)
        if step.disturbs:
            await self._disturb()
        if step.restarts_worker:
            self._tasks += [self._spawn(loop, "restarted") for loop in self.chance.choice(self.workers).restart()]
        if step.sets_clock:
            self.backend.set_a_clock()
        if step.crash >= 0:
            self.loop.after_steps(step.crash, self._crash)
        await self.backend.clock.sleep(step.delay_s)
        await self.backend.fill()
        if self.chance.random() < 0.1:
            await self._check_some()

    def _crash(self) -> None:
        living = [process for process in self.backend.processes if not process.dead]
        if living:
            self.backend.crash(self.chance.choice(living))

    async def _disturb(self) -> None:
        """Deliver again what may have been delivered, and fire what is not due."""
        process = self.chance.choice(self.backend.processes)
        try:
            if self.chance.random() < 0.5:
                rows = await self.backend.store.next_timers(0, SLOTS, 0, 20)
                if rows:
                    await process.history.timers.fire(self.chance.choice(rows))
            else:
                await process.history.transfers.sweep_once()
        except Unavailable:
            return

    async def _calm_down(self) -> None:
        """No more trouble: everything comes to its end."""
        self.note("calm")
        self.calm = True
        self.backend.weather.clear()
        await self.backend.fill()
        for _ in range(120):
            await self.backend.clock.sleep(10)
            await self._end_what_waits_in_vain()
            if not self._operations and not await self._open_runs():
                return
        lines = []
        for execution in await self._open_runs():
            stored = await self._stored(execution)
            names = [short_name(event) for batch in stored.batches for event in batch.events]
            lines.append(f"{execution.key.workflow_id}: {names}\n{MutableState.FromString(execution.state)}")
        waiting = [task.get_name() for task in self._operations]
        raise AssertionError(
            f"after the calm, {len(lines)} runs are open and {waiting} wait\n" + "\n".join(lines)[:6000]
        )

    async def _all_runs(self) -> list[StoredExecution]:
        found: list[StoredExecution] = []
        while page := await self.backend.store.list_executions(found[-1].key if found else None, 200):
            found += page
        return found

    async def _open_runs(self) -> list[StoredExecution]:
        return [execution for execution in await self._all_runs() if execution.status in (RUNNING, PAUSED)]

    async def _end_what_waits_in_vain(self) -> None:
        """Runs that can't end by themselves, and may not, are ended as their owner would."""
        still = [MutableState.FromString(execution.state) for execution in await self._open_runs()]
        if not any(checks.may_wait_in_vain(state) for state in still):
            return
        histories = await self._histories()
        for state in still:
            if checks.waits_in_vain(state, histories):
                self.note(f"{state.workflow_id} waits in vain")
                await Client(self, 0).terminate_run(state.workflow_id, state.run_id)

    # ---- checking -----------------------------------------------------------------------------------------------

    async def _stored(self, execution: StoredExecution) -> Stored:
        state = MutableState.FromString(execution.state)
        branches = [BranchRange(b.branch_id, b.first_event_id, b.next_event_id or 1 << 62) for b in state.branches]
        batches = await self.backend.store.read_history(
            execution.key.namespace_id, branches, 1, state.next_event_id, 100_000
        )
        stored = Stored(execution.key, execution.state, execution.db_record_version)
        stored.batches = [history_pb.History.FromString(batch.data) for batch in batches]
        return stored

    async def _check_some(self) -> None:
        runs = await self._all_runs()
        for execution in self.chance.sample(runs, min(2, len(runs))):
            stored = await self._stored(execution)
            check_rebuilt(stored)
            check_order(stored)

    async def _check_all(self) -> None:
        histories = await self._histories()
        findings = await self.backend.store.check(100)
        assert not findings, f"{findings}"
        apart_ns = max(self.backend.set_clocks) - min(self.backend.set_clocks)
        for (_, run_id), events in histories.items():
            checks.check_timers(events, run_id, apart_ns, self.backend.crashes_ns)
        for key in self.seen.started:
            assert key in histories, f"the started workflow {key} is not there"
        self.backend.log.check()
        await self._check_visibility()
        checks.check_signals(histories, self.seen.tries, self.seen.signals)
        for workflow_id, run_id, update_id, outcome in self.seen.updates:
            checks.check_update(histories[workflow_id, run_id], update_id, outcome)
        for workflow_id, run_id, activity_id, result in self.seen.activities:
            checks.check_activity(histories[workflow_id, run_id], activity_id, result)

    async def _check_visibility(self) -> None:
        """At rest, lists and counts say of each run what describing it says, and name no other run."""
        listed: dict[tuple[str, str], Any] = {}
        request = rr.ListWorkflowExecutionsRequest(namespace=NAMESPACE, page_size=50)
        while True:
            page = await self.backend.call("ListWorkflowExecutions", request, rr.ListWorkflowExecutionsResponse)
            listed.update(((info.execution.workflow_id, info.execution.run_id), info) for info in page.executions)
            request.next_page_token = page.next_page_token
            if not page.next_page_token:
                break
        runs = {(execution.key.workflow_id, execution.key.run_id) for execution in await self._all_runs()}
        assert set(listed) == runs, f"listed and not there, or the other way: {set(listed) ^ runs}"
        for (workflow_id, run_id), shown in listed.items():
            asked = rr.DescribeWorkflowExecutionRequest(namespace=NAMESPACE)
            asked.execution.workflow_id, asked.execution.run_id = workflow_id, run_id
            reply = await self.backend.call("DescribeWorkflowExecution", asked, rr.DescribeWorkflowExecutionResponse)
            info = reply.workflow_execution_info
            for name in (
                "type",
                "status",
                "start_time",
                "close_time",
                "execution_time",
                "task_queue",
                "parent_execution",
            ):
                assert getattr(shown, name) == getattr(info, name), (
                    f"{workflow_id}/{run_id}: {name} is listed otherwise"
                )
        counts: dict[int, int] = Counter(info.status for info in listed.values())
        for status, name in ((1, "Running"), (2, "Completed"), (3, "Failed"), (5, "Terminated")):
            counting = rr.CountWorkflowExecutionsRequest(namespace=NAMESPACE, query=f"ExecutionStatus = '{name}'")
            found = await self.backend.call("CountWorkflowExecutions", counting, rr.CountWorkflowExecutionsResponse)
            assert found.count == counts[status], (
                f"{found.count} are counted as {name}, and {counts[status]} are listed"
            )

    async def _histories(self) -> dict[tuple[str, str], list[history_pb.HistoryEvent]]:
        """The events of all runs, each of which is checked."""
        histories = {}
        for execution in await self._all_runs():
            stored = await self._stored(execution)
            check_rebuilt(stored)
            check_order(stored)
            events = [event for batch in stored.batches for event in batch.events]
            histories[execution.key.workflow_id, execution.key.run_id] = events
            self.loop.trace(*(event.SerializeToString(deterministic=True) for event in events))
        return histories


class _Watch(logging.Handler):
    """Tracebacks in the log are errors, unless the trouble that is made on purpose explains them."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def start(self) -> None:
        logging.getLogger("whistlestop").addHandler(self)
        asyncio.get_running_loop().set_exception_handler(self._of_loop)

    def stop(self) -> None:
        logging.getLogger("whistlestop").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not _is_trouble(error):
            self._errors.append(f"{record.getMessage()} {error!r}")

    def _of_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not _is_trouble(error):
            self._errors.append(f"{context.get('message')} {error!r}")


def _is_trouble(error: BaseException | None) -> bool:
    """What `FaultyStore` raises, and what the services make of it."""
    return isinstance(error, Unavailable) or (isinstance(error, ServiceError) and error.code is Code.UNAVAILABLE)
