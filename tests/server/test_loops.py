"""Background loops: all in one registry, and none of them ends by what a database does."""

from __future__ import annotations

import ast
import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors

from tests.api.fixtures import new_world
from tests.patience import PATIENCE_S
from whistlestop.common.clock import FakeClock
from whistlestop.common.ids import CountedIds
from whistlestop.common.notify import LocalNotifier
from whistlestop.frontend.api import namespaces
from whistlestop.frontend.batch import worker as batches
from whistlestop.history.service import History
from whistlestop.net.tasks import loops
from whistlestop.net.tasks.loops import LOOPS, Loop
from whistlestop.server import membership
from whistlestop.storage.postgres import notify
from whistlestop.storage.postgres.connection import translate
from whistlestop.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


ROOT = Path(__file__).resolve().parents[2]

STATES = (
    "08000", "08001", "08003", "08006", "57P01", "57P02", "57P03", "25006", "53300", "40001", "40P01", "57014",
)  # fmt: skip


def _trouble() -> dict[str, Exception]:
    found: dict[str, Exception] = {state: errors.lookup(state)("trouble") for state in STATES}
    found["closed socket"] = psycopg.OperationalError("server closed the connection unexpectedly")
    found["closed connection"] = psycopg.InterfaceError("the connection is closed")
    return found


TROUBLE = _trouble()


# ---- the registry ----------------------------------------------------------------------------------------------------


WITHIN_A_CALL = {
    ("bridge/pollers.py", "_run"), ("bridge/waits.py", "wait"), ("net/http/client.py", "_chunks"), ("net/http/client.py", "request"),
    ("net/tasks/loops.py", "run"), ("frontend/batch/worker.py", "run"), ("frontend/batch/worker.py", "_keep_alive"),
    ("net/http/asgi.py", "read_body"), ("history/api/histories.py", "_wait"),
    ("history/api/nexus/requests.py", "dispatch_nexus_task"), ("history/api/nexus/requests.py", "_dispatch"),
    ("history/api/queries.py", "_query_run"),
    ("history/api/queries.py", "_dispatch"), ("history/api/queries.py", "_ask_directly"),
    ("history/api/standalone.py", "wait"),
    ("history/api/time_skipping.py", "poll_workflow_execution_time_skipping"), ("history/api/updates.py", "wait"),
    ("matching/backlog_probes.py", "_wait_for_tasks"), ("matching/backlog_probes.py", "_listen"), ("matching/polls.py", "_poll_function"),
    ("matching/polls.py", "_token"), ("matching/task_queue/queues.py", "_refill"), ("server/time_skipping.py", "_next_deadline"),
    ("storage/admin.py", "_pages"), ("storage/admin.py", "_history_problem"), ("storage/postgres/connection.py", "retried"),
    ("storage/postgres/writer.py", "_alone"),
}  # fmt: skip
"""Loops that end with the call, the poll or the statement that they are of: its caller hears of what goes wrong."""

TURNS = {
    ("history/timers/processor.py", "_run_until_horizon"): "timers",
    ("server/membership.py", "_keep"): "membership",
    ("storage/postgres/notify.py", "_listen"): "notifications received",
    ("storage/postgres/notify.py", "_recheck"): "notifications received",
    ("storage/postgres/notify.py", "_send"): "notifications sent",
}
"""Loops within a turn of a registered loop, which takes what goes wrong in them."""

OF_OTHERS = {
    ("bridge/running.py", "_report"): "writes to the log of the bridge, and asks nobody",
    ("frontend/batch/worker.py", "_drive"): "of one job, which it ends with; its own handling survives everything",
    ("server/time_skipping.py", "_run"): "of the test server, in memory; its own handling survives everything",
}


def _endless(tree: ast.AST) -> set[str]:
    """Coroutines that go round without an end, and wait in between."""
    return {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.AsyncFunctionDef)
        for loop in ast.walk(function)
        if isinstance(loop, ast.While)
        and isinstance(loop.test, ast.Constant)
        and loop.test.value
        and any(isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith) for node in ast.walk(loop))
    }


def test_a_loop_outside_the_registry_is_refused() -> None:
    """Whoever writes `while True` in a coroutine says here of what it is, or gives it to a Loop."""
    found = {
        (str(path).rpartition("whistlestop/")[2], name)
        for folder in ("services", "storage")
        for path in (ROOT / folder).rglob("*.py")
        for name in _endless(ast.parse(path.read_text()))
    }
    assert found - WITHIN_A_CALL - TURNS.keys() - OF_OTHERS.keys() == set()
    assert (WITHIN_A_CALL | TURNS.keys() | OF_OTHERS.keys()) - found == set(), "gone: take them out"
    assert set(TURNS.values()) <= LOOPS.keys()


def test_every_loop_of_the_registry_is_made_somewhere() -> None:
    """And a loop of another name can't be made."""
    text = "".join(path.read_text() for folder in ("services", "storage") for path in (ROOT / folder).rglob("*.py"))
    for name in LOOPS:
        assert f'Loop("{name}"' in text or f'_keep("{name}"' in text, name
    with pytest.raises(ValueError, match="registry"):
        Loop("something else", FakeClock())


# ---- every loop, every trouble ---------------------------------------------------------------------------------------


class Failing:
    """A store whose methods fail, until `left` is used up."""

    def __init__(self, inner: Any, left: int, error: Exception) -> None:
        self._inner = inner
        self.left = left
        self.error = error
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*given: Any, **named: Any) -> Any:
            self.calls += 1
            if self.left > 0:
                self.left -= 1
                raise translate(self.error)
            return await found(*given, **named)

        return call


async def _memory() -> SqliteStore:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    return store


class NoMatching:
    async def call(self, *given: Any) -> Any:
        raise AssertionError(given)


async def _timers(store: Any, clock: FakeClock) -> Callable[[], Awaitable[None]]:
    service = History(store, NoMatching(), clock, CountedIds(), LocalNotifier(clock))
    service.timers.start()
    return service.timers.close


async def _transfers(store: Any, clock: FakeClock) -> Callable[[], Awaitable[None]]:
    service = History(store, NoMatching(), clock, CountedIds(), LocalNotifier(clock))
    service.transfers.start()
    return service.transfers.close


async def _membership(store: Any, clock: FakeClock) -> Callable[[], Awaitable[None]]:
    member = membership.Membership(store, clock, LocalNotifier(clock), "me", ("frontend",))
    left, store.left = store.left, 0
    await member.join("127.0.0.1", 1)
    store.left = left
    return member.leave


async def _of_frontend(store: Any, clock: FakeClock, begin: Callable[[Any], None]) -> Callable[[], Awaitable[None]]:
    world = await new_world()
    begin(replace(world.frontend.ports, store=store, clock=clock))
    return world.frontend.close


async def _batches(store: Any, clock: FakeClock) -> Callable[[], Awaitable[None]]:
    return await _of_frontend(store, clock, batches.resume_batches)


async def _deletions(store: Any, clock: FakeClock) -> Callable[[], Awaitable[None]]:
    return await _of_frontend(store, clock, namespaces.resume_deletions)


BEGIN = {
    "timers": _timers, "transfers": _transfers, "membership": _membership, "batches": _batches, "deletions": _deletions,
}  # fmt: skip
FAILURES = 5


async def _until(clock: FakeClock, is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await clock.advance(1.0)


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("name", BEGIN)
async def test_a_failing_loop_survives_is_counted_and_appears_in_health(name: str, trouble: str) -> None:
    clock = FakeClock()
    inner = await _memory()
    store = Failing(inner, FAILURES, TROUBLE[trouble])
    before = loops.failures()[name]
    close = await BEGIN[name](store, clock)
    seen: list[dict[str, object]] = []

    def failed_once() -> bool:
        seen.append(loops.health())
        return loops.failures()[name] > before

    await _until(clock, failed_once)
    shown: Any = loops.health()
    assert shown["status"] == "SERVING"
    assert shown["failing"][name]["failures"] >= 1
    await _until(clock, lambda: store.left == 0)
    calls = store.calls
    await _until(clock, lambda: store.calls > calls)
    await _until(clock, lambda: name not in loops.failing())
    assert loops.failures()[name] - before >= 2
    await close()
    await inner.close()


@pytest.mark.parametrize("trouble", TROUBLE)
@pytest.mark.parametrize("name", ["notifications received", "notifications sent"])
async def test_notifications_go_on_over_another_connection(
    monkeypatch: pytest.MonkeyPatch, name: str, trouble: str
) -> None:
    """Whether it is the connection that fails, or what is done with it."""
    clock = FakeClock()
    attempts: list[str] = []

    async def connect(*given: Any, **named: Any) -> Any:
        attempts.append(trouble)
        raise TROUBLE[trouble]

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", connect)
    notifier = notify.PostgresNotifier("postgresql://nowhere", clock)
    before = loops.failures()[name]
    starting = asyncio.create_task(notifier.start())
    await _until(clock, lambda: loops.failures()[name] >= before + 3)
    assert name in loops.failing()
    starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting
    await notifier.close()
    assert name not in loops.failing()


async def test_pauses_grow_and_end() -> None:
    """No faster than the database can take, no slower than somebody would wait."""
    clock = FakeClock()
    slept: list[float] = []

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)

    clock.sleep = sleep  # type: ignore[method-assign]
    loop = Loop("timers", clock)

    async def fail() -> None:
        raise RuntimeError("a bug")

    for _ in range(12):
        assert not await loop.attempt(fail)
    assert slept[:4] == [0.2, 0.4, 0.8, 1.6]
    assert max(slept) == slept[-1] == loops.MAX_PAUSE_S
    loop.succeeded()
    assert not await loop.attempt(fail)
    assert slept[-1] == 0.2
    loop.ended()
