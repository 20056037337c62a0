"""What may happen to one workflow id: its runs, what they took, and what callers may be told of them.

A state is the tuple of runs, oldest first; the last one is current. What callers do changes it, and so does what
happens inside (`Inside`): a run that ends by itself or by its parent, goes on as another, is started as a child,
receives another workflow's signal, accepts or completes an update. Inside events are taken from what was committed, so
a model of workers is not needed; what callers are told is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNNING, COMPLETED, FAILED, CANCELED, TERMINATED, CONTINUED, TIMED_OUT, PAUSED = 1, 2, 3, 4, 5, 6, 7, 8
OPEN = (RUNNING, PAUSED)


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as far as callers can tell."""

    run_id: str
    status: int = RUNNING
    request_id: str = ""
    signals: tuple[str, ...] = ()
    """Sorted names of those of clients; a client's signal is taken once."""
    pings: int = 0
    """Signals of other workflows."""
    updates: tuple[tuple[str, bytes | None], ...] = ()
    """Those accepted, by id: None, or the outcome."""
    continues: str = ""
    """The run that was continued as this one."""
    first: str = ""
    """The first run of its chain."""

    @property
    def is_open(self) -> bool:
        return self.status in OPEN


State: TypeAlias = tuple[Run, ...]
NOTHING: State = ()
"""Before anybody has used the workflow id."""

# ---- what callers ask, and were told. A result of None: the outcome is unknown -----------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Any RPC that starts a workflow. `signal`: with a signal."""

    request_id: str
    run_id: str | None
    """That of the reply; "": refused since the id is taken; None: the outcome is unknown."""
    candidates: tuple[str, ...] = ()
    """Where it is unknown: all runs that this request id made. Repeated after others replaced its run, it makes more."""
    terminates: bool = False
    uses_existing: bool = False
    rejects_closed: bool = False
    joins: bool = False
    """Update-with-start: an open run is as good as the one that the request made."""
    signal: str = ""

    def may_tell(self, run_id: str) -> bool:
        """Whether the caller may have been told of this run; "": of a refusal."""
        return self.run_id is None or self.run_id == run_id


@dataclass(frozen=True, slots=True)
class Signal:
    name: str
    run_id: str = ""
    found: bool | None = None


@dataclass(frozen=True, slots=True)
class Terminate:
    run_id: str = ""
    found: bool | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    run_id: str = ""
    found: bool | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    base: str
    request_id: str
    run_id: str
    """The new run; "" when the outcome is unknown."""
    candidates: tuple[str, ...] = ()
    """Where it is unknown: all runs that this request id made. Repeated after a start replaced its run, it makes another."""


@dataclass(frozen=True, slots=True)
class Updated:
    """An update is known to be accepted, or to have this outcome."""

    update_id: str
    run_id: str
    outcome: bytes | None


@dataclass(frozen=True, slots=True)
class Described:
    """`status` 0: not found."""

    status: int
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class Current:
    """A description of the current run."""

    run_id: str
    status: int


@dataclass(frozen=True, slots=True)
class Listed:
    """All runs of the workflow id, by a list."""

    runs: frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Queried:
    """How many signals a worker counted in the current run."""

    signals: int


@dataclass(frozen=True, slots=True)
class Inside:
    """What was committed of one run that no caller asked for."""

    run_id: str
    begins: bool = False
    request_id: str = ""
    continues: str = ""
    first: str = ""
    closes: int = 0
    pings: int = 0
    accepted: tuple[str, ...] = ()
    completed: tuple[tuple[str, bytes], ...] = ()
    then: Inside | None = None
    """What the same commit did to the next run."""


Operation: TypeAlias = (
    "Start | Signal | Terminate | Cancel | Reset | Updated | Described | Current | Listed | Queried | Inside"
)


def step(state: State, operation: Operation) -> Iterator[State]:
    """The states that may follow when the operation takes place now, with the result that its caller was told."""
    yield from _STEPS[type(operation)](state, operation)


def _signal(state: State, signal: Signal) -> Iterator[State]:
    run = _target(state, signal.run_id)
    if run is not None and signal.name in run.signals:
        # A request that is repeated is answered as the first time, though the run may have ended since.
        if signal.found is not False:
            yield state
    elif run is not None and run.is_open:
        if signal.found is not False:
            yield _put(state, _take(run, signal.name))
    elif signal.found is not True:
        yield state


def _terminate(state: State, terminate: Terminate) -> Iterator[State]:
    run = _target(state, terminate.run_id)
    if run is not None and run.is_open:
        if terminate.found is not False:
            yield _put(state, replace(run, status=TERMINATED))
    elif terminate.found is not True:
        yield state


def _cancel(state: State, cancel: Cancel) -> Iterator[State]:
    # Who asks a closed run to be cancelled has what he wants.
    if cancel.found is None or cancel.found == (_target(state, cancel.run_id) is not None):
        yield state


def _updated(state: State, updated: Updated) -> Iterator[State]:
    run = _target(state, updated.run_id)
    known = dict(run.updates) if run is not None else {}
    if updated.update_id in known and updated.outcome in (None, known[updated.update_id]):
        yield state


def _described(state: State, described: Described) -> Iterator[State]:
    run = _target(state, described.run_id)
    if (run.status if run is not None else 0) == described.status:
        yield state


def _current(state: State, current: Current) -> Iterator[State]:
    if state and (state[-1].run_id, state[-1].status) == (current.run_id, current.status):
        yield state


def _listed(state: State, listed: Listed) -> Iterator[State]:
    if listed.runs == {(run.run_id, run.status) for run in state}:
        yield state


def _queried(state: State, queried: Queried) -> Iterator[State]:
    if state and queried.signals == len(state[-1].signals) + state[-1].pings:
        yield state


def _target(state: State, run_id: str) -> Run | None:
    if not run_id:
        return state[-1] if state else None
    return next((run for run in state if run.run_id == run_id), None)


def _put(state: State, run: Run) -> State:
    return tuple(run if each.run_id == run.run_id else each for each in state)


def _take(run: Run, name: str) -> Run:
    if not name or name in run.signals:
        return run
    return replace(run, signals=tuple(sorted((*run.signals, name))))


def _start(state: State, start: Start) -> Iterator[State]:
    current = state[-1] if state else None
    before = _made_before(state, start)
    if current is not None and current.is_open and start.joins and start.may_tell(current.run_id):
        yield state
    elif before is not None:
        # The same request again is told what it did, and does nothing.
        if start.may_tell(before.run_id):
            yield state
    elif current is not None and current.is_open and not start.terminates:
        if start.signal or start.uses_existing:
            if start.may_tell(current.run_id):
                yield _put(state, _take(current, start.signal))
        elif start.may_tell(""):
            yield state
    elif current is not None and not current.is_open and start.rejects_closed:
        if start.may_tell(""):
            yield state
    else:
        for run_id in start.candidates if start.run_id is None else (start.run_id,):
            if run_id and _target(state, run_id) is None:
                yield (*_closed(state), _take(Run(run_id, request_id=start.request_id), start.signal))


def _made_before(state: State, start: Start) -> Run | None:
    """The current run, or the first one of its chain, when that very request made it, or signalled it."""
    if not state:
        return None
    candidates = (state[-1], _target(state, state[-1].first))
    for run in candidates:
        if run is not None and start.request_id and run.request_id == start.request_id:
            return run
    return state[-1] if start.signal and start.signal in state[-1].signals else None


def _closed(state: State) -> State:
    """A run that another one takes the place of is terminated."""
    if state and state[-1].is_open:
        return (*state[:-1], replace(state[-1], status=TERMINATED))
    return state


def _reset(state: State, reset: Reset) -> Iterator[State]:
    for run_id in (reset.run_id,) if reset.run_id else reset.candidates:
        yield from _reset_to(state, reset, run_id)


def _reset_to(state: State, reset: Reset, run_id: str) -> Iterator[State]:
    if _target(state, run_id) is not None:
        # Repeated: the run is there already.
        yield state
        return
    base = _target(state, reset.base)
    if base is None:
        return
    names: set[str] = set()
    pings = 0
    origin: Run | None = base
    while origin is not None:
        names.update(origin.signals)
        pings += origin.pings
        origin = next((run for run in state if run.continues == origin.run_id), None)
    run = Run(
        run_id, request_id=reset.request_id, signals=tuple(sorted(names)), pings=pings, updates=base.updates,
        first=base.first or base.run_id,
    )  # fmt: skip
    yield (*_closed(state), run)


def _inside(state: State, inside: Inside) -> Iterator[State]:
    if inside.begins:
        if _target(state, inside.run_id) is not None or (state and state[-1].is_open):
            return
        state = (
            *state,
            Run(inside.run_id, request_id=inside.request_id, continues=inside.continues, first=inside.first),
        )
    run = _target(state, inside.run_id)
    if run is None:
        return
    if inside.closes or inside.pings or inside.accepted or inside.completed:
        if not run.is_open:
            return
        outcomes = {**dict(run.updates), **dict.fromkeys(inside.accepted), **dict(inside.completed)}
        run = replace(
            run, status=inside.closes or run.status, pings=run.pings + inside.pings,
            updates=tuple(sorted(outcomes.items(), key=lambda item: item[0])),
        )  # fmt: skip
    state = _put(state, run)
    if inside.then is None:
        yield state
    else:
        yield from _inside(state, inside.then)


_STEPS: dict[type, Callable[[State, Any], Iterator[State]]] = {
    Start: _start, Signal: _signal, Terminate: _terminate, Cancel: _cancel, Reset: _reset, Updated: _updated,
    Described: _described, Current: _current, Listed: _listed, Queried: _queried, Inside: _inside,
}  # fmt: skip


def is_read(operation: Operation) -> bool:
    """It never changes anything: it only reads, or it was refused."""
    if isinstance(operation, Signal | Terminate):
        return operation.found is False
    if isinstance(operation, Start):
        return operation.run_id == ""
    return isinstance(operation, Cancel | Updated | Described | Current | Listed | Queried)


def then(first: Inside, second: Inside) -> Inside:
    """Both in one commit."""
    return replace(first, then=second)
