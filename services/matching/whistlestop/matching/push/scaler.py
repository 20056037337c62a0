"""Decide how many workers to start and when to check again: pure arithmetic.

The rules follow Temporal's `no-sync` algorithm where it has one:
- Waiting tasks ask for workers; workers that are alive or starting count against that.
- Between two starts lies the cool-off.
- A start that failed, or whose workers never polled, delays the next one: twice as long each time.

The state is stored, so times are the wall clock's. After the clock was set back they are moved near, so that nothing
waits longer than it would have.

Temporal starts one worker per signal; here a burst starts as many as the backlog needs at once, up to a cap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import invalid_argument
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.timing.backoff import backoff

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.proto.deployment_pb2 import PushState

NO_SYNC = "no-sync"
"""The only algorithm for workers that end by themselves, as all workers started here do."""

_MS = 1_000_000
_FIRST_BACKOFF_NS = SECOND_NS
_MAX_BACKOFF_NS = 300 * SECOND_NS
_LEAST: Mapping[str, int] = {
    "scale_up_cooloff_ms": 0,
    "scale_up_backlog_threshold": 0,
    "max_worker_lifetime_ms": 0,
    "scale_up_dispatch_rate_epsilon": 0,
    "metrics_poll_interval_ms": 10_000,
    "max_workers": 1,
    "backlog_per_worker": 1,
    "worker_start_timeout_ms": 1000,
}
"""Settings and their minimum values, checked in this order. The last three are ours."""


@dataclass(frozen=True, slots=True)
class Scaler:
    """The settings of one scaling group. Field names are the keys in the scaler's details."""

    scale_up_cooloff_ms: int = 100
    """The least time between two starts."""
    scale_up_backlog_threshold: int = 0
    """On a repeated check without new tasks: start only if more tasks than this wait."""
    max_worker_lifetime_ms: int = 600_000
    """Tasks that wait this long after the last start get another worker, even if others are alive. 0: never."""
    scale_up_dispatch_rate_epsilon: float = 0
    """Accepted for the sake of Temporal's configurations; dispatch rates are not used."""
    metrics_poll_interval_ms: int = 60_000
    """How often waiting tasks are checked again while no task is added."""
    max_workers: int = 10
    """The maximum of workers that are alive or starting."""
    backlog_per_worker: int = 10
    """The number of waiting tasks for which one worker is started."""
    worker_start_timeout_ms: int = 30_000
    """A started worker that has not polled by then is considered lost."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Start `count` workers now (0: none), and check again at `again_ns` (0: not needed)."""

    count: int
    again_ns: int


def parse(details: Mapping[str, object], *, backlog_per_worker: int = 10) -> Scaler:
    """Parse a scaler's details. Raise INVALID_ARGUMENT with Temporal's wording."""
    for name in details:
        if name not in _LEAST:
            raise invalid_argument(f'unknown config key "{name}" for no-sync scaling algorithm')
    given = {name: details[name] for name in _LEAST if details.get(name) is not None}
    numbers = {name: _number(name, value, _LEAST[name]) for name, value in given.items()}
    scaler = Scaler(**{"backlog_per_worker": backlog_per_worker, **numbers})  # type: ignore[arg-type]
    if 0 < scaler.scale_up_cooloff_ms > scaler.metrics_poll_interval_ms:
        raise invalid_argument(
            f"metrics_poll_interval_ms ({scaler.metrics_poll_interval_ms}) must be >= scale_up_cooloff_ms "
            f"({scaler.scale_up_cooloff_ms}), otherwise metric-driven scale-ups will never fire"
        )
    return scaler


def _number(name: str, value: object, least: int) -> float:
    is_float = name == "scale_up_dispatch_rate_epsilon"
    kind = "a number" if is_float else "an integer"
    if isinstance(value, str):
        try:
            value = float(value) if is_float else int(value)
        except ValueError:
            value = None
        if value is None or value < least:
            raise invalid_argument(f"{name} must be {kind} and at least {least}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid_argument(f"{name} must be {kind} and at least {least}")
    if value < least:
        raise invalid_argument(f"{name} must be at least {least}")
    return value if is_float else int(value)


def decide(scaler: Scaler, state: PushState, backlog: int, alive: int, now_ns: int, *, again: bool) -> Decision:
    """Return how many workers to start for `backlog` waiting tasks, and record in `state` which workers have arrived.

    With `again` this is a repeated check: no task was added.
    """
    _settle(scaler, state, backlog, alive, now_ns)
    if backlog <= 0:
        return Decision(0, 0)
    recheck_ns = now_ns + scaler.metrics_poll_interval_ms * _MS
    if state.starting:
        recheck_ns = min(recheck_ns, state.starting_until_ns)
    if again and backlog <= scaler.scale_up_backlog_threshold:
        return Decision(0, recheck_ns)
    expected = alive + state.starting
    wanted = min(-(-backlog // scaler.backlog_per_worker), scaler.max_workers)
    count = wanted - expected
    if count <= 0:
        lifetime_ns = scaler.max_worker_lifetime_ms * _MS
        if not lifetime_ns or not state.started_ns or now_ns - state.started_ns < lifetime_ns:
            return Decision(0, recheck_ns)
        count = min(1, scaler.max_workers - expected)
        if count <= 0:
            return Decision(0, recheck_ns)
    ready_ns = max(state.not_before_ns, state.started_ns + scaler.scale_up_cooloff_ms * _MS if state.started_ns else 0)
    if now_ns < ready_ns:
        return Decision(0, ready_ns)
    return Decision(count, 0)


def _settle(scaler: Scaler, state: PushState, backlog: int, alive: int, now_ns: int) -> None:
    """Update the state with the workers started last that have arrived or are lost."""
    _bring_near(scaler, state, now_ns)
    if not backlog:
        # The waiting tasks were taken by some worker.
        state.starting = 0
        worker_polled(state)
    arrived = min(max(alive - state.alive_before, 0), state.starting)
    if arrived:
        state.starting -= arrived
        state.alive_before += arrived
        worker_polled(state)
    if not state.starting or now_ns < state.starting_until_ns:
        return
    lost, state.starting = state.starting, 0
    if not alive:
        failed(state, f"workers were started and did not poll in time: {lost}", now_ns)


def _bring_near(scaler: Scaler, state: PushState, now_ns: int) -> None:
    state.started_ns = min(state.started_ns, now_ns)
    state.starting_until_ns = min(state.starting_until_ns, now_ns + scaler.worker_start_timeout_ms * _MS)
    state.not_before_ns = min(state.not_before_ns, now_ns + backoff(_FIRST_BACKOFF_NS, state.failures, _MAX_BACKOFF_NS))


def started(scaler: Scaler, state: PushState, count: int, alive: int, now_ns: int) -> None:
    """Record that `count` workers are being started.

    `alive` is the number of pollers now; `now_ns` is nanoseconds since the Unix epoch.
    """
    state.started_ns = now_ns
    state.starting += count
    state.starting_until_ns = now_ns + scaler.worker_start_timeout_ms * _MS
    state.alive_before = alive
    state.checked_ns = now_ns


def worker_polled(state: PushState) -> None:
    """Record that the target works: forget its failures and the delay after them."""
    state.failures = 0
    state.not_before_ns = 0
    state.error = ""


def failed(state: PushState, error: str, now_ns: int) -> None:
    """Record that the target failed: it is not used again before the back-off ends."""
    state.failures += 1
    state.not_before_ns = now_ns + backoff(_FIRST_BACKOFF_NS, state.failures, _MAX_BACKOFF_NS)
    state.error = error[:1000]
    state.checked_ns = now_ns
