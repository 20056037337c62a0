"""The load of the crash tests, with the official SDK: workflows, activities, and clients that remember what was acknowledged."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.common import RetryPolicy, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.crash.contention import Contention

QUEUE = "crash"
SIGNALS = 2


@activity.defn
async def quick(text: str) -> str:
    return text.upper()


async def run_quick(text: str) -> str:
    """From a workflow."""
    return await workflow.execute_activity(
        quick,
        text,
        start_to_close_timeout=timedelta(seconds=20),
        retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=1)),
    )


@activity.defn
async def from_outside(text: str) -> str:
    """Completed by the client, so that the client knows whether its completion was acknowledged."""
    activity.raise_complete_async()


@workflow.defn(sandboxed=False)
class Child:
    @workflow.run
    async def run(self, text: str) -> str:
        return await run_quick(text)


@workflow.defn(sandboxed=False)
class Order:
    """Everything that is acknowledged to somebody, in one workflow."""

    def __init__(self) -> None:
        self.signals: set[str] = set()
        self.updates: set[str] = set()

    @workflow.run
    async def run(self, name: str) -> dict[str, Any]:
        first = await run_quick(name)
        outside = asyncio.ensure_future(
            workflow.execute_activity(
                from_outside, name, activity_id="outside", start_to_close_timeout=timedelta(seconds=600)
            )
        )
        await workflow.wait_condition(lambda: len(self.signals) >= SIGNALS and bool(self.updates))
        await workflow.sleep(0.2)
        child = await workflow.execute_child_workflow(Child.run, name, id=f"{name}/child")
        return {
            "first": first,
            "outside": await outside,
            "child": child,
            "signals": sorted(self.signals),
            "updates": sorted(self.updates),
        }

    @workflow.signal
    def note(self, text: str) -> None:
        self.signals.add(text)

    @workflow.update
    async def add(self, text: str) -> str:
        await workflow.sleep(0.05)
        self.updates.add(text)
        return f"added {text}"


@dataclass
class Acknowledged:
    """What the clients were told."""

    started: dict[str, str] = field(default_factory=dict)
    """Run ids by workflow id."""
    signals: list[tuple[str, str]] = field(default_factory=list)
    updates: list[tuple[str, str]] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost_answers: int = 0

    def __str__(self) -> str:
        return (
            f"{len(self.started)} started, {len(self.signals)} signals, {len(self.updates)} updates, "
            f"{len(self.completions)} completions, {len(self.results)} results, {self.lost_answers} calls tried again"
        )


TRY_AGAIN = {
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.UNKNOWN,
    RPCStatusCode.RESOURCE_EXHAUSTED,
    RPCStatusCode.ABORTED,
}


class Load:
    """Orders that are in flight all the time, until told to stop."""

    def __init__(self, client: Client, prefix: str, parallel: int) -> None:
        self.client = client
        self.prefix = prefix
        self.parallel = parallel
        self.told = Acknowledged()
        self.stopping = False
        self._count = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._one_after_another() for _ in range(self.parallel)))

    async def _one_after_another(self) -> None:
        while not self.stopping:
            self._count += 1
            await self._order(f"{self.prefix}{self._count}")

    async def _insist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Until there is an answer: a killed server answers nobody."""
        while True:
            try:
                return await call()
            except RPCError as error:
                if error.status not in TRY_AGAIN:
                    raise
                self.told.lost_answers += 1
                await asyncio.sleep(0.1)

    async def _order(self, name: str) -> None:
        try:
            handle: Any = await self._insist(
                lambda: self.client.start_workflow(
                    Order.run,
                    name,
                    id=name,
                    task_queue=QUEUE,
                    id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                )
            )
            run_id = handle.result_run_id
        except WorkflowAlreadyStartedError as error:
            # The answer to an earlier try was lost.
            run_id = error.run_id
            handle = self.client.get_workflow_handle(name)
        self.told.started[name] = run_id or ""
        await asyncio.gather(self._signals(name, handle), self._update(name, handle), self._completion(name))
        result = await self._insist(handle.result)
        self.told.results[name] = result

    async def _signals(self, name: str, handle: Any) -> None:
        for index in range(SIGNALS):
            text = f"signal {index} of {name}"
            await self._insist(partial(handle.signal, Order.note, text))
            self.told.signals.append((name, text))

    async def _update(self, name: str, handle: Any) -> None:
        text = f"update of {name}"
        outcome = await self._insist(lambda: self._execute_update(handle, text, f"{name}-update"))
        assert outcome == f"added {text}"
        self.told.updates.append((name, text))

    @staticmethod
    async def _execute_update(handle: Any, text: str, update_id: str) -> Any:
        try:
            return await handle.execute_update(Order.add, text, id=update_id)
        except RPCError as error:
            if error.status is RPCStatusCode.FAILED_PRECONDITION:
                # Some kills in a row, and the workflow's task has timed out as often: updates are refused meanwhile.
                raise RPCError(error.message, RPCStatusCode.UNAVAILABLE, b"") from error
            raise

    async def _completion(self, name: str) -> None:
        outside = self.client.get_async_activity_handle(workflow_id=name, run_id=None, activity_id="outside")
        for attempt in itertools.count():
            try:
                await outside.complete(f"outside of {name}")
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND and error.status not in TRY_AGAIN:
                    raise
                # Not there yet, or done by a try whose answer was lost (the SDK tries again by itself, too).
                if attempt % 10 == 9 and await self._is_completed(name, f"outside of {name}"):
                    return
                await asyncio.sleep(0.1)
            else:
                self.told.completions.append(name)
                return

    async def _is_completed(self, name: str, result: str) -> bool:
        history = await self._insist(self.client.get_workflow_handle(name).fetch_history)
        return any(
            event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED and result in str(event)
            for event in history.events
        )


@asynccontextmanager
async def working(client: Client) -> AsyncIterator[None]:
    """Have a worker for the orders, which is started again when it ends by itself, as by a supervisor.

    One that starts while the server is away gives up at once.
    """

    async def work() -> None:
        while True:
            worker = Worker(
                client,
                task_queue=QUEUE,
                workflows=[Order, Child],
                activities=[quick, from_outside],
                max_cached_workflows=20,
                graceful_shutdown_timeout=timedelta(),
            )
            try:
                await worker.run()
            except Exception as error:  # noqa: BLE001 - whatever ended it, the next one starts
                print(f"the worker ended: {error!r}", flush=True)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        # A worker without a server would wait for it for ever.
        await asyncio.wait([task], timeout=PATIENCE_S)


async def finish(
    client: Client, traffic: Load, running: asyncio.Task[None], contention: Contention, contending: asyncio.Task[None],
    finish_s: float,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Let the clients come to their end within `finish_s` seconds, and check what they were told.

    Return what is wrong, in words, and the names of the orders that did not finish.
    """
    traffic.stopping = contention.stopping = True
    await contending
    try:
        await asyncio.wait_for(running, finish_s)
    except TimeoutError:
        unfinished = sorted(set(traffic.told.started) - set(traffic.told.results))
        return [f"not finished: {unfinished}"], unfinished
    return [*await check(client, traffic.told), *await contention.check(client)], []


async def check(client: Client, told: Acknowledged) -> list[str]:
    """Everything that was acknowledged is in history; what is missing, in words."""
    missing: list[str] = []
    for name, run_id in told.started.items():
        try:
            missing += await _check_one(client, told, name, run_id)
        except RPCError as error:
            missing.append(f"{name}: {error}")
    return missing


async def _check_one(client: Client, told: Acknowledged, name: str, run_id: str) -> list[str]:
    missing: list[str] = []
    handle = client.get_workflow_handle(name)
    history = await handle.fetch_history()
    text = str(history.events)
    if run_id and history.events[0].workflow_execution_started_event_attributes.original_execution_run_id != run_id:
        missing.append(f"{name}: another run than the acknowledged {run_id}")
    ids = [event.event_id for event in history.events]
    if ids != list(range(1, len(ids) + 1)):
        missing.append(f"{name}: event ids {ids}")
    try:
        result: dict[str, Any] = await handle.result()
    except (WorkflowFailureError, WorkflowUpdateFailedError) as error:
        return [*missing, f"{name}: {error!r} {error.__cause__!r}"]
    if told.results.get(name, result) != result:
        missing.append(f"{name}: another result than the acknowledged one")
    for of, signal in told.signals:
        if of == name and (signal not in result["signals"] or signal not in text):
            missing.append(f"{name}: signal {signal}")
    for of, update in told.updates:
        if of == name and (update not in result["updates"] or f"added {update}" not in text):
            missing.append(f"{name}: update {update}")
    if name in told.completions and result["outside"] != f"outside of {name}":
        missing.append(f"{name}: completion of its activity")
    expected = {"first": name.upper(), "child": name.upper(), "outside": f"outside of {name}"}
    missing += [f"{name}: {key} is {result[key]!r}" for key, value in expected.items() if result[key] != value]
    return missing
