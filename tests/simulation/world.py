"""One simulated history of the whole backend, from one seed: trouble first, then calm, then everything has to be right."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from temporalio.api.history.v1 import message_pb2 as history_pb

from tests.core.checks import check_order
from tests.core.harness import Stored, check_rebuilt, short_name
from tests.simulation.backend import Backend
from tests.simulation.clients import OPERATIONS, Client, Seen
from tests.simulation.faults import Weather
from tests.simulation.workers import Worker, stop
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.run import PAUSED, RUNNING
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.core.times import duration_ns, timestamp_ns
from whistlestop.storage.errors import StorageError
from whistlestop.storage.records import SLOTS, BranchRange

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from whistlestop.storage.records import StoredExecution

NOT_ALLOWED = frozenset({Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS, Code.UNIMPLEMENTED, Code.UNAUTHENTICATED})
LATEST_FIRE_NS = 600 * SECOND_NS


class Simulation:
    """A backend, its workers and its clients."""

    def __init__(self, seed: int, steps: int = 60) -> None:
        self.seed = seed
        self.steps = steps
        self.chance = random.Random(seed)
        self.log: list[str] = []
        self.seen = Seen()
        self.errors: list[str] = []
        self.refusals: Counter[str] = Counter()
        weather = Weather()
        if self.chance.random() < 0.2:
            weather.clear()
        elif self.chance.random() < 0.3:
            weather.before = weather.after = 0.08
            weather.lost_hint = 0.4
        self.calm = False
        self.backend = Backend(self.chance, processes=self.chance.choice([1, 1, 2, 3]), weather=weather, note=self.note)
        self.client = Client(self)
        self.workers = [Worker(self, f"worker{i}", sticky=self.chance.random() < 0.6) for i in range(2)]
        self._tasks: list[asyncio.Task[Any]] = []
        self._operations: set[asyncio.Task[None]] = set()

    def note(self, what: str) -> None:
        self.log.append(f"{(self.backend.clock.now_ns() - 1_700_000_000 * SECOND_NS) / SECOND_NS:9.3f} {what}")

    def allow(self, error: ServiceError, method: str) -> None:
        """Refusals are part of life; signs of a broken server are not."""
        self.refusals[f"{method} {error.code.name}: {error.message[:60]}"] += 1
        if error.code in NOT_ALLOWED:
            self.errors.append(f"{method}: {error!r}")

    # ---- running ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        watch = _Watch(self.errors)
        watch.start()
        try:
            await self.backend.open()
            self._tasks = [self._spawn(loop) for worker in self.workers for loop in worker.polls()]
            for _ in range(self.steps):
                await self._step()
                self._raise_errors()
            await self._calm_down()
            self._raise_errors()
            await self._check_all()
        finally:
            await stop([*self._tasks, *self._operations])
            await self.backend.close()
            watch.stop()
        self._raise_errors()

    def _spawn(self, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(loop)

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, ServiceError):
                logging.getLogger(__name__).error("a loop ended", exc_info=error)
                self.errors.append(repr(error))

        task.add_done_callback(ended)
        return task

    def _raise_errors(self) -> None:
        assert not self.errors, f"seed {self.seed}: {self.errors[:5]}"

    async def _step(self) -> None:
        chance, clock = self.chance, self.backend.clock
        for _ in range(chance.randrange(4)):
            name = chance.choice(OPERATIONS)
            self.note(name)
            operation = self._spawn(getattr(self.client, name)())
            self._operations.add(operation)
            operation.add_done_callback(self._operations.discard)
        if chance.random() < 0.1:
            await self._disturb()
        if chance.random() < 0.05:
            self.backend.crash(chance.choice(self.backend.processes))
        await clock.advance(chance.choice([0.001, 0.05, 0.3, 1, 4, 11]))
        await self.backend.fill()
        if chance.random() < 0.2:
            await self._check_some()

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
        except StorageError:
            return

    async def _calm_down(self) -> None:
        """No more trouble: everything comes to its end."""
        self.note("calm")
        self.calm = True
        self.backend.weather.clear()
        await self.backend.fill()
        for _ in range(120):
            await self.backend.clock.advance(10)
            if not self._operations and not await self._open_runs():
                return
        open_runs = [(e.key.workflow_id, e.key.run_id) for e in await self._open_runs()]
        lines = []
        for execution in await self._open_runs():
            stored = await self._stored(execution)
            names = [short_name(event) for batch in stored.batches for event in batch.events]
            lines.append(f"{execution.key.workflow_id}: {names}\n{MutableState.FromString(execution.state)}")
        raise AssertionError(
            f"seed {self.seed}: still open {open_runs}, operations {len(self._operations)}\n" + "\n".join(lines)[:6000]
        )

    async def _all_runs(self) -> list[StoredExecution]:
        found: list[StoredExecution] = []
        while page := await self.backend.store.list_executions(found[-1].key if found else None, 200):
            found += page
        return found

    async def _open_runs(self) -> list[StoredExecution]:
        still = [execution for execution in await self._all_runs() if execution.status in (RUNNING, PAUSED)]
        return [execution for execution in still if not self._waits_in_vain(execution.key.workflow_id)]

    def _waits_in_vain(self, workflow_id: str) -> bool:
        """A parent that is reset may miss its children: each told its end once, to the run that was there to hear it.

        Children that ended with their terminated parent, or that told an earlier run that a reset made, are not heard
        of in a later one; Temporal does the same.
        """
        return self.calm and workflow_id in self.seen.reset and workflow_id.startswith("parent") and "/" not in workflow_id

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
        histories: dict[tuple[str, str], list[history_pb.HistoryEvent]] = {}
        for execution in await self._all_runs():
            stored = await self._stored(execution)
            check_rebuilt(stored)
            check_order(stored)
            events = [event for batch in stored.batches for event in batch.events]
            histories[execution.key.workflow_id, execution.key.run_id] = events
            _check_timers(events)
        findings = await self.backend.store.check(100)
        assert not findings, f"seed {self.seed}: {findings}"
        for key in self.seen.started:
            assert key in histories, f"seed {self.seed}: the started workflow {key} is not there"
        self._check_signals(histories)
        self._check_updates(histories)
        for workflow_id, run_id, activity_id, result in self.seen.activities:
            _check_activity(histories[workflow_id, run_id], activity_id, result)

    def _check_signals(self, histories: dict[tuple[str, str], list[history_pb.HistoryEvent]]) -> None:
        found: Counter[tuple[str, str]] = Counter()
        in_chain: Counter[tuple[str, str, str]] = Counter()
        for (workflow_id, run_id), events in histories.items():
            chain = events[0].workflow_execution_started_event_attributes.first_execution_run_id
            names = [
                event.workflow_execution_signaled_event_attributes.signal_name for event in events
                if event.HasField("workflow_execution_signaled_event_attributes")
            ]
            once = [name for name in names if not name.startswith("ping") or name.split()[1] not in self.seen.reset]
            assert len(set(once)) == len(once), f"seed {self.seed}: {workflow_id}/{run_id} received twice: {names}"
            found.update((workflow_id, name) for name in names)
            in_chain.update((workflow_id, chain, name) for name in names)
        for key in self.seen.signals:
            assert found[key], f"seed {self.seed}: the acknowledged signal {key} is lost"
        # A client that tries again, not knowing that it was heard, may find another chain under the same workflow id.
        doubled = [
            (workflow_id, name) for (workflow_id, _, name), count in in_chain.items()
            if count > 1
            and not name.startswith("ping")
            and name not in self.seen.with_start
            and workflow_id not in self.seen.reset
            and not workflow_id.startswith(("looper", "failing"))
        ]
        assert not doubled, f"seed {self.seed}: received twice: {doubled}"

    def _check_updates(self, histories: dict[tuple[str, str], list[history_pb.HistoryEvent]]) -> None:
        for workflow_id, run_id, update_id, outcome in self.seen.updates:
            events = histories[workflow_id, run_id]
            accepted = [
                event for event in events
                if event.workflow_execution_update_accepted_event_attributes.protocol_instance_id == update_id
            ]
            completed = [
                event.workflow_execution_update_completed_event_attributes for event in events
                if event.workflow_execution_update_completed_event_attributes.meta.update_id == update_id
            ]
            if outcome is not None and outcome.HasField("failure"):
                assert not completed, f"seed {self.seed}: {update_id} was refused, and then completed"
                continue
            assert len(accepted) == 1, f"seed {self.seed}: the acknowledged {update_id} of {workflow_id} is lost"
            if outcome is not None:
                assert [c.outcome for c in completed] == [outcome], f"seed {self.seed}: the outcome of {update_id} is lost"


def _check_timers(events: list[history_pb.HistoryEvent]) -> None:
    """No timer fired early, or absurdly late."""
    due: dict[int, int] = {}
    for event in events:
        if event.HasField("timer_started_event_attributes"):
            span_ns = duration_ns(event.timer_started_event_attributes.start_to_fire_timeout)
            due[event.event_id] = timestamp_ns(event.event_time) + span_ns
        elif event.HasField("timer_fired_event_attributes"):
            late_ns = timestamp_ns(event.event_time) - due[event.timer_fired_event_attributes.started_event_id]
            assert 0 <= late_ns <= LATEST_FIRE_NS, f"a timer fired {late_ns / SECOND_NS} s late"


def _check_activity(events: list[history_pb.HistoryEvent], activity_id: str, result: Any) -> None:
    scheduled = {
        event.event_id for event in events
        if event.activity_task_scheduled_event_attributes.activity_id == activity_id
    }
    closing = {"workflow_execution_terminated_event_attributes", "workflow_execution_timed_out_event_attributes"}
    results = [
        event.activity_task_completed_event_attributes.result for event in events
        if event.activity_task_completed_event_attributes.scheduled_event_id in scheduled
    ]
    assert result in results or events[-1].WhichOneof("attributes") in closing, f"the result of {activity_id} is lost"


class _Watch(logging.Handler):
    """Tracebacks in the log are errors, unless the store's trouble explains them."""

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
        if not isinstance(error, StorageError | ServiceError):
            self._errors.append(f"{record.getMessage()} {error!r}")

    def _of_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, StorageError | ServiceError):
            self._errors.append(f"{context.get('message')} {error!r}")
