"""The order saga on an embedded server that is killed halfway: `make demo`.

It starts the server on a SQLite file in a temporary folder, runs two orders with the official Temporal SDK, kills the
server with SIGKILL while both wait on a durable timer, starts it again on the same file, and shows them finish: one
order ships, one fails and is undone in reverse. The exit code is 0 only if all of that happened.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from order_saga.model import TASK_QUEUE, Order, Receipt
from order_saga.worker import make_worker
from order_saga.workflows import OrderWorkflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from temporalio.api.history.v1 import HistoryEvent
    from temporalio.client import WorkflowHandle

    Handle = WorkflowHandle[OrderWorkflow, Receipt]

OURS = [sys.executable, "-m", "whistlestop.server", "server", "start-dev", "--headless"]
READY_S = 120.0
STAGE_S = 120.0
RESULT_S = 300.0

console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


class DemoFailed(Exception):
    """An expectation of the demo was not met."""


def expect(truth: object, what: str) -> None:
    """Fail the demo unless `truth`."""
    if not truth:
        raise DemoFailed(what)


@dataclass
class Embedded:
    """A server in a process of its own, on one file and one port."""

    command: list[str]
    database: Path
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    moments: list[tuple[datetime, str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, what: str) -> None:
        """Start the server; `connected` waits until it serves."""
        arguments = ["--port", str(self.port), "--db-filename", str(self.database), "--log-level", "warn"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                [*self.command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.note(what)

    def kill(self, what: str) -> None:
        """Kill the server with SIGKILL, so that it can neither drain nor flush."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.note(what)

    def stop(self) -> int:
        """Stop the server with SIGTERM and return its exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def note(self, what: str) -> None:
        """Record a moment for the timeline, and print it."""
        self.moments.append((datetime.now(UTC), what))
        console.print(f"[bold yellow]●[/] {what}")

    async def connected(self) -> Client:
        """Return a client as soon as the server answers."""
        deadline = time.monotonic() + READY_S
        while True:
            expect(self.process is not None and self.process.poll() is None, f"the server ended; see {self.log}")
            try:
                return await Client.connect(self.address)
            except RuntimeError:
                expect(time.monotonic() < deadline, f"the server did not answer within {READY_S:.0f} s; see {self.log}")
                await asyncio.sleep(0.05)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_stage(handle: Handle, stage: str) -> None:
    """Query until the order is at `stage`."""
    deadline = time.monotonic() + STAGE_S
    progress = None
    while time.monotonic() < deadline:
        with contextlib.suppress(RPCError):
            progress = await handle.query(OrderWorkflow.progress)
            if progress.stage == stage:
                console.print(f"  query: [cyan]{handle.id}[/] is [bold]{stage}[/], done so far: {progress.steps}")
                return
        await asyncio.sleep(0.1)
    raise DemoFailed(f"{handle.id} was not at stage {stage} within {STAGE_S:.0f} s, but at {progress}")


def activity_names(events: list[HistoryEvent]) -> list[str]:
    """Return the activities in the order in which they were scheduled."""
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


def event_times(events: list[HistoryEvent], kind: EventType.ValueType) -> list[datetime]:
    """Return the times of events of a type."""
    return [event.event_time.ToDatetime(UTC) for event in events if event.event_type == kind]


def timeline(events: list[HistoryEvent], moments: list[tuple[datetime, str]], title: str) -> Table:
    """Return a table of the history, with the server's stops and starts between the events."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1))
    for column in ("seconds", "event", "what"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    began = events[0].event_time.ToDatetime(UTC)
    rows = [(event.event_time.ToDatetime(UTC), 1, *describe(events, event)) for event in events]
    rows += [(at, 0, "[bold yellow]server[/]", f"[yellow]{what}[/]") for at, what in moments if at >= began]
    for at, _, name, what in sorted(rows, key=lambda row: row[:2]):
        if name:
            table.add_row(f"{(at - began).total_seconds():.2f}", name, what)
    return table


def describe(events: list[HistoryEvent], event: HistoryEvent) -> tuple[str, str]:
    """Return a description of an event; empty for workflow tasks, which are only the means."""
    name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
    if name.startswith("WORKFLOW_TASK"):
        return "", ""
    words = name.replace("_", " ").lower()
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    fields = attributes.DESCRIPTOR.fields_by_name
    if name == "ACTIVITY_TASK_SCHEDULED":
        return words, f"[green]{attributes.activity_type.name}[/]"
    if name == "ACTIVITY_TASK_STARTED":
        failed = f" after: {attributes.last_failure.message}" if attributes.attempt > 1 else ""
        return words, f"{_activity(events, attributes)}, attempt {attributes.attempt}{failed}"
    if "scheduled_event_id" in fields:
        failure = (
            f": [red]{attributes.failure.cause.message or attributes.failure.message}[/]" if "failure" in fields else ""
        )
        return words, _activity(events, attributes) + failure
    if "signal_name" in fields:
        return words, f"[magenta]{attributes.signal_name}[/] {attributes.input.payloads[0].data.decode()}"
    if name == "TIMER_STARTED":
        return words, f"{attributes.start_to_fire_timeout.ToTimedelta().total_seconds():.0f} s, durable"
    if "failure" in fields:
        return words, f"[red]{attributes.failure.message}[/]"
    if name == "WORKFLOW_EXECUTION_COMPLETED":
        return words, attributes.result.payloads[0].data.decode()
    return words, ""


def _activity(events: list[HistoryEvent], attributes: object) -> str:
    scheduled = events[attributes.scheduled_event_id - 1]  # type: ignore[attr-defined]  # of an activity's event
    return scheduled.activity_task_scheduled_event_attributes.activity_type.name


async def history_of(handle: Handle) -> list[HistoryEvent]:
    """Return all events."""
    return [event async for event in handle.fetch_history_events()]


def check_good(events: list[HistoryEvent], receipt: Receipt, killed: datetime, restarted: datetime) -> None:
    """Check the order that ships."""
    expect(
        activity_names(events) == ["reserve_stock", "charge_card", "ship"], f"activities were {activity_names(events)}"
    )
    expect(receipt.steps == ["reserve_stock", "charge_card", "ship"], f"the receipt lists {receipt.steps}")
    expect(receipt.approved_by == "Ada", f"approved by {receipt.approved_by!r}")
    attempts = [
        event.activity_task_started_event_attributes.attempt
        for event in events
        if event.HasField("activity_task_started_event_attributes")
    ]
    expect(attempts == [3, 1, 1], f"the attempts of activities were {attempts}")
    expect(
        len(event_times(events, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)) == 1,
        "the signal is not in the history",
    )
    _check_timer(events, killed, restarted)
    expect(events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, "the order did not complete")


def check_undone(events: list[HistoryEvent], error: ApplicationError, killed: datetime, restarted: datetime) -> None:
    """Check the order that is undone."""
    wanted = ["reserve_stock", "charge_card", "ship", "refund_card", "release_stock"]
    expect(activity_names(events) == wanted, f"activities were {activity_names(events)}")
    expect(error.type == "OrderUndone", f"the failure's type is {error.type}")
    expect("Atlantis" in str(error), f"the failure says {error}")
    expect(
        len(event_times(events, EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED)) == 1,
        "the failed step is not in the history",
    )
    _check_timer(events, killed, restarted)
    expect(events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, "the order did not fail")


def _check_timer(events: list[HistoryEvent], killed: datetime, restarted: datetime) -> None:
    started = event_times(events, EventType.EVENT_TYPE_TIMER_STARTED)
    fired = event_times(events, EventType.EVENT_TYPE_TIMER_FIRED)
    expect(any(at < killed for at in started), "no timer was running when the server was killed")
    expect(any(at > restarted for at in fired), "no timer fired after the restart")
    expect([event.event_id for event in events] == list(range(1, len(events) + 1)), "the history has a gap")


@contextlib.asynccontextmanager
async def embedded(command: list[str]) -> AsyncIterator[Embedded]:
    """Yield a server in a temporary folder, and stop it in the end in any case."""
    folder = Path(tempfile.mkdtemp(prefix="whistlestop-demo-"))
    server = Embedded(command, folder / "orders.db", folder / "server.log", free_port())
    ended_well = False
    try:
        server.start("started the server on a SQLite file")
        yield server
        ended_well = True
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()
        if ended_well:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"the database and the log are in {folder}")
            console.print(server.log.read_text(errors="replace")[-4000:], markup=False)


async def demo(command: list[str]) -> None:
    """Run the demo."""
    async with embedded(command) as server:
        client = await server.connected()
        console.print(f"  serving on {server.address}, state in {server.database}")
        async with make_worker(client):
            good, bad = await place_orders(client)
            for handle in (good, bad):
                await until_stage(handle, "waiting for approval")
            for handle in (good, bad):
                await handle.signal(OrderWorkflow.approve, "Ada")
            for handle in (good, bad):
                await until_stage(handle, "settling")

            server.kill("killed the server with SIGKILL; both orders wait on their timers")
            killed = server.moments[-1][0]
            await asyncio.sleep(0.5)
            server.start("started the server again on the same file")
            restarted = server.moments[-1][0]
            await server.connected()

            async with asyncio.timeout(RESULT_S):
                receipt = await good.result()
            error = await failure_of(bad)
            good_events, bad_events = await history_of(good), await history_of(bad)
        console.print()
        console.print(timeline(good_events, server.moments, f"{good.id}: ships"))
        console.print()
        console.print(
            timeline(bad_events, server.moments, f"{bad.id}: fails at its last step and is undone in reverse")
        )
        check_good(good_events, receipt, killed, restarted)
        check_undone(bad_events, error, killed, restarted)
        expect(server.stop() == 0, "the server did not end with exit code 0 on SIGTERM")
        if command == OURS:
            check_database(server.database)


async def place_orders(client: Client) -> tuple[Handle, Handle]:
    """Start one order that can be shipped, and one that cannot."""
    orders = (
        Order("1001", "lamp", 4900, "Lisbon"),
        Order("1002", "lantern", 5900, "Atlantis"),
    )
    handles = [
        await client.start_workflow(OrderWorkflow.run, order, id=f"order-{order.order_id}", task_queue=TASK_QUEUE)
        for order in orders
    ]
    console.print(f"  placed {', '.join(handle.id for handle in handles)}")
    return handles[0], handles[1]


async def failure_of(handle: Handle) -> ApplicationError:
    """Return the order's failure."""
    try:
        async with asyncio.timeout(RESULT_S):
            await handle.result()
    except WorkflowFailureError as error:
        cause = error.cause
    else:
        raise DemoFailed(f"{handle.id} should have failed")
    if not isinstance(cause, ApplicationError):
        raise DemoFailed(f"it failed with {cause!r}")
    return cause


def check_database(database: Path) -> None:
    """Run the server's own check on its database."""
    check = [sys.executable, "-m", "whistlestop.server", "db", "check", "--db-filename", str(database)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    expect(done.returncode == 0, f"db check says: {done.stdout}{done.stderr}")
    console.print(f"\n[bold yellow]●[/] db check: {done.stdout.strip()}")


def main() -> int:
    """Parse the command line, run the demo, and print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server-command", help="another server, such as 'temporal server start-dev --headless'")
    chosen = parser.parse_args().server_command
    # The SDK logs each failed attempt with its traceback; here failures are expected.
    os.environ.setdefault("RUST_LOG", "off")
    import logging

    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(demo(shlex.split(chosen) if chosen else OURS))
    except DemoFailed as failure:
        console.print(Panel(str(failure), title="The demo failed", border_style="red"))
        return 1
    console.print("\n[bold green]Both orders finished although the server was killed on the way.[/]")
    return 0


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    # The SDK's native threads sometimes crash the interpreter at shutdown, so exit directly; all output is written.
    os._exit(exit_code)
