"""Somebody sets the wall clock: what a process remembers grows old by the time that passes, and back-offs are kept."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.history.test_worker_notifications import NEAR, FakeSqs
from whistlestop.common import clock as clocks
from whistlestop.common.clock import SECOND_NS, FakeClock, FunctionClock, SkippingClock, sleep_until
from whistlestop.common.context import CallContext
from whistlestop.common.notify import LocalNotifier, RecheckNotifier
from whistlestop.common.timing.throttle import ThrottledWarnings
from whistlestop.frontend.auth import sources, tokens
from whistlestop.frontend.auth.config import JwtConfig
from whistlestop.frontend.auth.keys import ApiKey, hash_of, render
from whistlestop.history.nexus import circuit_breakers
from whistlestop.history.notifications import worker_notifications as worker_wakes
from whistlestop.net.aws import AwsError
from whistlestop.net.internal.transports import wrap
from whistlestop.net.tasks.loops import FIRST_PAUSE_S, Loop
from whistlestop.storage import deployments, membership_heartbeat, namespaces
from whistlestop.storage.postgres import notify as postgres_notify
from whistlestop.storage.records import NamespaceRecord
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

HOUR_S = 3600.0
JUMPS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
SECRET = "a shared secret of more than thirty-two bytes"


class Counting:
    """A store in memory whose calls are counted."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        return getattr(self.store, name)


@pytest.fixture
async def store() -> Any:
    made = SqliteStore(":memory:")
    await made.open()
    await made.migrate()
    await made.create_namespace(NamespaceRecord("id", "name", b"", 1))
    yield Counting(made)
    await made.close()


# Each makes something that is remembered, and tells whether it still is.


async def namespace(clock: FakeClock, store: Any, _: Path) -> Callable[[], Awaitable[bool]]:
    cache = namespaces.NamespaceCache(store, clock)
    await cache.by_name("name")

    async def is_fresh() -> bool:
        return cache.peek("name") is not None

    return is_fresh


async def worker_deployments(clock: FakeClock, store: Any, _: Path) -> Callable[[], Awaitable[bool]]:
    cache = deployments.Deployments(store, clock)
    await cache.read("id")

    async def is_fresh() -> bool:
        before = store.calls
        await cache.cached("id")
        return bool(store.calls == before)

    return is_fresh


async def instance(clock: FakeClock, store: Any, _: Path) -> Callable[[], Awaitable[bool]]:
    noted = membership_heartbeat.MembershipHeartbeat(store, clock, "i", "history")
    await noted.renew()

    async def is_fresh() -> bool:
        before = store.calls
        await noted.renew()
        return bool(store.calls == before)

    return is_fresh


async def breaker(clock: FakeClock, _: Any, __: Path) -> Callable[[], Awaitable[bool]]:
    breakers, key = circuit_breakers.CircuitBreakers(clock), ("n", "k", "d")
    for _failure in range(circuit_breakers.MOST_FAILURES + 1):
        breakers.report(key, failed=True)

    async def is_open() -> bool:
        until_ns = breakers.admit(key) if breakers.is_open(key) else 0
        # An outbox row is put off until that date.
        assert not until_ns or 0 < until_ns - clock.now_ns() <= circuit_breakers.OPEN_NS
        return breakers.is_open(key)

    return is_open


async def verified_token(clock: FakeClock, _: Any, __: Path) -> Callable[[], Awaitable[bool]]:
    verifier = tokens.TokenVerifier(JwtConfig(key=SECRET), clock)
    token = jwt.encode({"sub": "ann", "permissions": []}, SECRET, "HS256")
    assert await verifier.verify(token, "hash") is not None

    async def is_kept() -> bool:
        return verifier.peek("hash", clock.now_ns()) is not None

    return is_kept


async def jwks(clock: FakeClock, _: Any, folder: Path) -> Callable[[], Awaitable[bool]]:
    path = folder / "jwks.json"
    path.write_text('{"keys": [{"kty": "oct", "kid": "one", "k": "c2VjcmV0"}]}')
    known = tokens.Jwks(path.as_uri(), clock)
    await known.key("one")

    async def is_fresh() -> bool:
        return not known._should_fetch("one")

    return is_fresh


async def file_of_keys(clock: FakeClock, _: Any, folder: Path) -> Callable[[], Awaitable[bool]]:
    path = folder / "keys.json"
    path.write_text(render([ApiKey("ci", hash_of("one"), ())]))
    path.chmod(0o600)
    known = sources.FileKeys(str(path), clock)
    path.write_text(render([]))

    async def is_fresh() -> bool:
        found = known.peek()
        assert found is not None
        return found.find(hash_of("one"), 0) is not None

    return is_fresh


async def kept_by_aws(clock: FakeClock, _: Any, __: Path) -> Callable[[], Awaitable[bool]]:
    known = sources.KeptByAws("ssm:/keys", clock, lambda _: render([]))
    await known.load()

    async def is_fresh() -> bool:
        return known.peek() is not None

    return is_fresh


async def gone_wake_queue(clock: FakeClock, _: Any, __: Path) -> Callable[[], Awaitable[bool]]:
    client = FakeSqs()
    client.errors["a"] = AwsError("QueueDoesNotExist", "gone")
    wakes = worker_wakes.WorkerNotifications(NEAR, clock, client)
    wakes.notify(["a"])
    await wakes.settle()

    async def is_left_alone() -> bool:
        before = len(client.sent)
        wakes.notify(["a"])
        await wakes.settle()
        return len(client.sent) == before

    return is_left_alone


async def another_that_was_heard(clock: FakeClock, _: Any, __: Path) -> Callable[[], Awaitable[bool]]:
    notifier = postgres_notify.PostgresNotifier("postgresql://nobody", clock)
    notifier._received_ns = clock.steady_ns()

    async def is_told() -> bool:
        notifier.others = True
        notifier.mark_alone()
        return notifier.others

    return is_told


AGES: dict[str, tuple[Callable[..., Awaitable[Callable[[], Awaitable[bool]]]], int]] = {
    "a namespace": (namespace, namespaces.TTL_NS),
    "worker deployments": (worker_deployments, deployments._KEPT_NS),
    "the row of an instance": (instance, membership_heartbeat.INTERVAL_NS),
    "an open circuit breaker": (breaker, circuit_breakers.OPEN_NS),
    "a verified token": (verified_token, tokens.KEPT_NS),
    "a JWKS document": (jwks, tokens.JWKS_AGE_NS),
    "a file of API keys": (file_of_keys, sources.FILE_AGE_NS),
    "API keys at AWS": (kept_by_aws, sources.KEPT_AGE_NS),
    "a wake queue that is gone": (gone_wake_queue, worker_wakes.MISSING_NS),
    "another process that was heard": (another_that_was_heard, postgres_notify._QUIET_NS),
}


@JUMPS
@pytest.mark.parametrize("name", AGES)
async def test_caches_last_as_long_as_without_a_jump(name: str, jump_s: float, store: Any, tmp_path: Path) -> None:
    make, age_ns = AGES[name]
    clock = FakeClock()
    is_fresh = await make(clock, store, tmp_path)
    clock.pass_to(clock.steady_ns() + age_ns // 4)
    clock.set_wall(jump_s)
    if name != "a file of API keys":  # A look at the file is the end of its age.
        assert await is_fresh(), "the jump ended it"
    clock.pass_to(clock.steady_ns() + age_ns // 2)
    if name != "a file of API keys":
        assert await is_fresh()
    clock.pass_to(clock.steady_ns() + age_ns // 2 + 1)
    assert not await is_fresh(), "the jump made it last"


async def test_a_token_expires_by_the_date_though_it_was_verified_lately() -> None:
    clock = FakeClock()
    verifier = tokens.TokenVerifier(JwtConfig(key=SECRET), clock)
    expires_s = clock.now_ns() / SECOND_NS + 600
    token = jwt.encode({"sub": "ann", "permissions": [], "exp": expires_s}, SECRET, "HS256")
    assert await verifier.verify(token, "hash") is not None
    clock.set_wall(HOUR_S)
    assert verifier.peek("hash", clock.now_ns()) is None
    assert await verifier.verify(token, "hash") is None


# ---- waits and back-offs --------------------------------------------------------------------------------------------


@JUMPS
async def test_a_failing_loop_pauses_for_its_logged_time(jump_s: float) -> None:
    clock = FakeClock()
    loop, turns = Loop("timers", clock), 0

    async def turn() -> None:
        nonlocal turns
        turns += 1
        raise OSError("no")

    running = asyncio.ensure_future(loop.run(turn))
    await clock.advance(FIRST_PAUSE_S / 2)
    clock.set_wall(jump_s)
    await clock.advance(FIRST_PAUSE_S / 4)
    assert turns == 1
    await clock.advance(FIRST_PAUSE_S)
    assert turns == 2
    assert loop.state()["seconds"] == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@JUMPS
@pytest.mark.parametrize("kind", [LocalNotifier, RecheckNotifier])
async def test_a_subscription_waits_until_its_deadline(kind: Any, jump_s: float) -> None:
    clock = FakeClock()
    deadline_ns = clock.steady_ns() + 10 * SECOND_NS

    async def wait() -> None:
        with kind(clock).subscribe("t") as hints:
            while await hints.wait(deadline_ns):
                pass

    waiting = asyncio.ensure_future(wait())
    await clock.advance(2)
    clock.set_wall(jump_s)
    await clock.advance(7)
    assert not waiting.done()
    await clock.advance(1.1)
    assert waiting.done()


@JUMPS
async def test_a_call_to_another_process_has_the_time_that_is_left(jump_s: float) -> None:
    clock = FakeClock()
    context = CallContext(clock.steady_ns() + 10 * SECOND_NS)
    await clock.advance(4)
    clock.set_wall(jump_s)
    assert context.remaining_s(clock, 99) == pytest.approx(6)
    envelope = wrap("PollWorkflowTaskQueue", rr.PollWorkflowTaskQueueRequest(), context, clock)
    assert envelope["context"]["timeout_ms"] == 6000


@JUMPS
async def test_warnings_are_throttled_by_the_second_that_passes(
    jump_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    warn = ThrottledWarnings(logging.getLogger("throttled"), clock, per_s=2)
    for _ in range(3):
        warn("one")
    clock.set_wall(jump_s)
    warn("two")
    await clock.advance(1)
    warn("three")
    assert [record.message for record in caplog.records] == ["one", "one", "three"]


async def test_waits_for_a_date_end_after_a_jump_beyond_it() -> None:
    clock = FakeClock()
    waiting = asyncio.ensure_future(sleep_until(clock, clock.now_ns() + int(HOUR_S) * SECOND_NS))
    await clock.advance(1)
    clock.set_wall(HOUR_S)
    await clock.advance(clocks.WALL_CHECK_S)
    assert waiting.done()


async def test_waits_for_a_date_go_on_after_the_clock_was_set_back() -> None:
    clock = FakeClock()
    waiting = asyncio.ensure_future(sleep_until(clock, clock.now_ns() + 10 * SECOND_NS))
    await clock.advance(1)
    clock.set_wall(-60)
    await clock.advance(60)
    assert not waiting.done()
    await clock.advance(9)
    assert waiting.done()


# ---- the clocks themselves ------------------------------------------------------------------------------------------


def test_a_functions_steady_clock_counts_what_it_slept_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen instance's monotonic clock may stand still, and its caches must not be taken for fresh."""
    wall, passed = [10**18], [5 * SECOND_NS]
    monkeypatch.setattr(clocks, "time_ns", lambda: wall[0])
    monkeypatch.setattr(clocks, "monotonic_ns", lambda: passed[0])
    clock = FunctionClock()
    began_ns = clock.steady_ns()
    wall[0] += 60 * SECOND_NS
    passed[0] += SECOND_NS
    assert clock.steady_ns() - began_ns == SECOND_NS, "within a call only what passes counts"
    clock.resume()
    assert clock.steady_ns() - began_ns == 60 * SECOND_NS
    wall[0] -= 3600 * SECOND_NS
    passed[0] += SECOND_NS
    clock.resume()
    assert clock.steady_ns() - began_ns == 61 * SECOND_NS, "it never goes back"


async def test_a_skip_ends_no_deadline() -> None:
    base = FakeClock()
    clock = SkippingClock(base)
    deadline_ns = clock.steady_ns() + 10 * SECOND_NS
    clock.skip_to(clock.now_ns() + 3600 * SECOND_NS)
    assert deadline_ns - clock.steady_ns() == 10 * SECOND_NS
