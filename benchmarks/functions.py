"""Measure what the three functions do for a workflow and while idle: counted, and at list prices.

    python benchmarks/functions.py workflows [--count 20]     # invocations, GB-seconds, statements, AWS calls
    python benchmarks/functions.py pushed [--count 20]        # the same, with workers that are started on demand
    python benchmarks/functions.py idle [--minutes 10]        # an idle worker, and timers far ahead

The handlers run as processes over Postgres (`tests/functions/line.py`), and the official SDK uses them through the
bridge. Invocations, statements and calls are exact. Time is an estimate (`tests/functions/small_lambda.py`): the CPU
used here, divided by the share of a processor that 512 MB have on Lambda, and waits as they are within a region. The
output is a table in Markdown, and with --json the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg
from benchmarks.pushed import HOOKED, Workers, hooked, pushed
from temporalio import activity, workflow
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.worker import Worker
from tests import postgres
from tests.bridge import programs
from tests.functions.line import built

from whistlestop.deploy import prices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.functions.line import Line

INSTANCES = {1: 4, 10: 30}
"""Instances of each function, by the number of concurrent workflows: updates occupy one while they wait."""
IDLE_S = 60.0
MEMORY_MB = 512
SETTLE_S = 1.0
QUEUE = "cost"


@activity.defn
async def shout(text: str) -> str:
    """Return the text in upper case."""
    return text.upper()


@workflow.defn(sandboxed=False)
class Echo:
    """Runs one activity."""

    @workflow.run
    async def run(self, text: str) -> str:
        return await workflow.execute_activity(shout, text, start_to_close_timeout=timedelta(seconds=30))


@workflow.defn(sandboxed=False)
class Hooked:
    """Runs one activity, which is sent to a webhook."""

    @workflow.run
    async def run(self, text: str) -> str:
        return await workflow.execute_activity(
            shout, text, task_queue=HOOKED, start_to_close_timeout=timedelta(seconds=30)
        )


@workflow.defn(sandboxed=False)
class Nap:
    """Sleeps for two seconds, after which a message wakes history."""

    @workflow.run
    async def run(self) -> str:
        await asyncio.sleep(2)
        return "awake"


@dataclass(slots=True)
class Measured:
    """Averages per workflow."""

    name: str
    mode: str
    invocations: float
    gb_seconds: float
    statements: float
    sqs: float
    http: float
    seconds: float
    paths: dict[str, float] = field(default_factory=dict)
    worker_gb_seconds: float = 0.0
    """The part of `gb_seconds` used by workers that are functions."""

    @property
    def usage(self) -> prices.Usage:
        return prices.Usage(
            invocations=self.invocations, gb_seconds=self.gb_seconds, sqs_requests=self.sqs, statements=self.statements
        )


@dataclass(frozen=True, slots=True)
class Counted:
    """Counters at one instant."""

    invocations: int
    billed_us: int
    statements: int
    sqs: int
    http: int
    paths: Counter[str]

    @classmethod
    def now(cls, line: Line) -> Counted:
        total = line.platform.total()
        sqs = sum(count for name, count in line.aws.counts.items() if name.startswith("sqs."))
        paths = Counter(line.front.paths)
        return cls(total.calls, total.billed_us, total.statements, sqs, len(line.front.paths), paths)

    def since(self, before: Counted, name: str, mode: str, count: int, seconds: float) -> Measured:
        return Measured(
            name, mode,
            (self.invocations - before.invocations) / count,
            (self.billed_us - before.billed_us) / count / 1e6 * MEMORY_MB / 1024,
            (self.statements - before.statements) / count,
            (self.sqs - before.sqs) / count,
            (self.http - before.http) / count,
            seconds / count,
            {path: number / count for path, number in sorted((self.paths - before.paths).items())},
        )  # fmt: skip


# ---- workflows -------------------------------------------------------------------------------------------------------


async def echo(client: Client, name: str) -> None:
    """Start the workflow, and wait for its result."""
    assert await client.execute_workflow(Echo.run, "tea", id=name, task_queue=QUEUE) == "TEA"


async def saga(client: Client, name: str) -> None:
    """Run a workflow with an activity that retries, a timer, a signal, an update, a query and a child."""
    handle = await client.start_workflow(programs.Order.run, "tea", id=name, task_queue=QUEUE)
    await handle.signal(programs.Order.note, "by train")
    await handle.execute_update(programs.Order.address, "Paddington")
    await handle.result()
    assert await handle.query(programs.Order.state) == "charged tea"


async def echo_by_webhook(client: Client, name: str) -> None:
    """Start the workflow with a webhook for its activity, and wait for its result."""
    assert await client.execute_workflow(Hooked.run, "tea", id=name, task_queue=QUEUE) == "tea"


async def nap(client: Client, name: str) -> None:
    """Start the workflow, and wait for its result."""
    assert await client.execute_workflow(Nap.run, id=name, task_queue=QUEUE) == "awake"


Workload = Callable[[Client, str], Awaitable[None]]
WORKLOADS: dict[str, Workload] = {"echo": echo, "saga": saga, "timer": nap}


async def measure(
    line: Line, client: Client, name: str, mode: str, count: int, together: int, work: Workload | None = None
) -> Measured:
    """Run `count` workflows, `together` at a time."""
    work = work or WORKLOADS[name]
    await work(client, f"warm-{name}-{mode}-{together}")
    await asyncio.sleep(SETTLE_S)
    before, began = Counted.now(line), time.perf_counter()
    names = [f"{name}-{mode}-{together}-{number}" for number in range(count)]
    while names:
        now, names = names[:together], names[together:]
        await asyncio.gather(*(work(client, each) for each in now))
    seconds = time.perf_counter() - began
    return Counted.now(line).since(before, f"{name}, {together} at once", mode, count, seconds)


async def measure_schedule(line: Line, client: Client, mode: str, actions: int) -> Measured:
    """Measure, per action, a schedule that starts an echo every second."""
    await asyncio.sleep(SETTLE_S)
    before, began = Counted.now(line), time.perf_counter()
    handle = await client.create_schedule(
        f"schedule-{mode}",
        Schedule(
            action=ScheduleActionStartWorkflow(Echo.run, "tea", id=f"scheduled-{mode}", task_queue=QUEUE),
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=1))]),
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.ALLOW_ALL),
        ),
    )
    await asyncio.sleep(actions)
    await handle.delete()
    seconds = time.perf_counter() - began
    after = Counted.now(line)
    done = 0
    async for _ in client.list_workflows(f"WorkflowId STARTS_WITH 'scheduled-{mode}'"):
        done += 1
    return after.since(before, f"schedule, {done} actions", mode, max(done, 1), seconds)


async def workflows(count: int) -> list[Measured]:
    """Measure all workloads, for each way in which workers are notified."""
    found = []
    for mode, notification_queue in (("pulled", ""), ("pulled, woken", "auto")):
        for together, instances in INSTANCES.items():
            async with (
                postgres.migrated_database() as url,
                built(url, notification_queue=notification_queue, instances=instances) as line,
            ):
                client = await Client.connect(line.bridge.address)
                async with Worker(
                    client, task_queue=QUEUE, workflows=[Echo, Nap, programs.Order, programs.Parcel],
                    activities=[shout, programs.charge],
                ):  # fmt: skip
                    for name in WORKLOADS:
                        found.append(await measure(line, client, name, mode, count, together))
                        show(found[-1])
                    if together == 1:
                        found.append(await measure_schedule(line, client, mode, count))
                        show(found[-1])
                        found.append(await measure_silence(line, client, mode))
                        show(found[-1])
    return found


async def on_demand(count: int, lives_s: float, max_idle_s: float) -> list[Measured]:
    """Measure workers that are Lambda functions, and a webhook.

    A worker's life serves one workflow, or `count` of them.
    """
    found = []
    async with postgres.migrated_database() as url, built(url, notification_queue="", instances=INSTANCES[1]) as line:
        client = await Client.connect(line.bridge.address)
        async with pushed(line, Workers(QUEUE, lives_s, max_idle_s)) as workers:
            for name in WORKLOADS:
                for each in (1, count):
                    found.append(await measure_pushed(line, client, workers, name, each))
                    show(found[-1])
    async with postgres.migrated_database() as url, built(url, notification_queue="", instances=INSTANCES[1]) as line:
        client = await Client.connect(line.bridge.address)
        async with hooked(line) as tasks, Worker(client, task_queue=QUEUE, workflows=[Hooked]):
            found.append(await measure(line, client, "echo", "webhook", count, 1, echo_by_webhook))
            assert len(tasks) == count + 1
            show(found[-1])
    return found


async def measure_pushed(line: Line, client: Client, workers: Workers, name: str, count: int) -> Measured:
    """Measure from a time without workers to the next, which includes their starts, empty polls and ends."""
    before, started, billed_s = Counted.now(line), workers.started, workers.billed_s
    began = time.perf_counter()
    for number in range(count):
        await WORKLOADS[name](client, f"pushed-{name}-{count}-{number}")
    seconds = time.perf_counter() - began
    await workers.gone()
    lives = workers.started - started
    made = Counted.now(line).since(before, f"{name}, {count} in {lives} lives", "pushed", count, seconds)
    made.invocations += lives / count
    made.worker_gb_seconds = (workers.billed_s - billed_s) / count * MEMORY_MB / 1024
    made.gb_seconds += made.worker_gb_seconds
    return made


async def measure_silence(line: Line, client: Client, mode: str) -> Measured:
    """Measure an echo, and the checks for tasks until the worker is idle."""
    await asyncio.sleep(SETTLE_S)
    before, began = Counted.now(line), time.perf_counter()
    await echo(client, f"last-{mode}")
    await asyncio.sleep(IDLE_S)
    seconds = time.perf_counter() - began
    return Counted.now(line).since(before, f"echo, and {IDLE_S:g} s of silence", mode, 1, seconds)


def show(one: Measured) -> None:
    """Print a row of the table."""
    cents = prices.bill(replace(one.usage, statements=0.0) * 1_000_000, free_tier=False).total
    print(
        f"| {one.name} | {one.mode} | {one.invocations:.1f} | {one.gb_seconds:.3f} | {one.statements:.1f} |"
        f" {one.sqs:.1f} | {one.http:.1f} | {one.seconds:.2f} | {cents:.2f} |",
        flush=True,
    )


# ---- idle ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Idle:
    """Counters of some minutes without work."""

    mode: str
    minutes: float
    invocations: int
    http: int
    statements: int
    quiet_s: float
    """How long ago any client of the database began a statement, as Postgres reported at the end."""
    sqs: int
    aws: dict[str, int]
    paths: dict[str, int]


async def idle(minutes: float, modes: Sequence[str]) -> list[Idle]:
    """Measure timers far ahead: without a worker, with an idle one, and with one that is notified."""
    found = []
    for mode in modes:
        async with postgres.fresh_database() as url:
            notification_queue = "auto" if mode == "a worker, woken" else ""
            async with built(url, notification_queue=notification_queue) as line:
                client = await Client.connect(line.bridge.address)
                for number in range(20):
                    await line.cloud.start(
                        f"far-{number}", workflow_start_delay={"seconds": 3 * 24 * 3600}, task_queue={"name": QUEUE}
                    )
                async with contextlib.AsyncExitStack() as stack:
                    if mode != "nobody":
                        await stack.enter_async_context(
                            Worker(client, task_queue=QUEUE, workflows=[Echo], activities=[shout])
                        )
                        await echo(client, "before")
                    await asyncio.sleep(120 if mode != "nobody" else 15)
                    found.append(await _nothing_happens(line, url, mode, minutes))
                    print(json.dumps(_shown(found[-1])), flush=True)
    return found


async def _nothing_happens(line: Line, url: str, mode: str, minutes: float) -> Idle:
    before = Counted.now(line)
    aws = Counter(line.aws.counts)
    await asyncio.sleep(minutes * 60)
    after = Counted.now(line)
    return Idle(
        mode, minutes, after.invocations - before.invocations, after.http - before.http,
        after.statements - before.statements, await _quiet_s(url), after.sqs - before.sqs, dict(line.aws.counts - aws),
        dict(after.paths - before.paths),
    )  # fmt: skip


async def _quiet_s(url: str) -> float:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        row = await (
            await connection.execute(
                "SELECT extract(epoch FROM clock_timestamp() - max(query_start)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ).fetchone()
    assert row is not None
    return round(float(row[0] or 0), 1)


def _shown(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def main() -> None:
    """Measure, and print the results."""
    logging.getLogger("temporalio.activity").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["workflows", "pushed", "idle"])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--lives", type=float, default=120, help="seconds, the time-out of pushed workers")
    parser.add_argument("--max-idle", type=float, default=10, help="seconds, of pushed workers")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--modes", default="nobody,a worker,a worker; woken", help="of idle")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.what != "idle":
        print("| workflow | workers | invocations | GB-s | statements | SQS | HTTP calls | s | $ per million |")
        print("|---|---|---|---|---|---|---|---|---|")
        pushes = given.what == "pushed"
        of_all = on_demand(given.count, given.lives, given.max_idle) if pushes else workflows(given.count)
        found: list[Any] = asyncio.run(of_all)
    else:
        modes = [mode.replace(";", ",") for mode in given.modes.split(",")]
        found = asyncio.run(idle(given.minutes, modes))
    if given.json:
        given.json.write_text(json.dumps([_shown(one) for one in found], indent=1))


if __name__ == "__main__":
    main()
