"""Make a failing seed small: fewer steps, fewer operations, less trouble, as long as it fails in the same way."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.simulation.world import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.simulation.plan import Plan


def failure_of(plan: Plan) -> tuple[str, Simulation]:
    """How the plan fails (empty: it does not), and what was run."""
    simulation = Simulation(plan)
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return f"{type(error).__name__}: {error}", simulation
    return "", simulation


def kind_of(error: str) -> str:
    """The first line without names and numbers: a smaller plan has others."""
    return re.sub(
        r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]+|'[^']*'|\b(waiter|pinger|canceller|looper|failing|updated|sequence"
        r"|timers|parallel|race|parent|leaver)\b\S*",
        "",
        error.splitlines()[0] if error else "",
    )[:60]


def shrink(plan: Plan, most_runs: int = 300) -> tuple[Plan, str]:
    """The smallest plan found that fails in the same way, and its error."""
    error, simulation = failure_of(plan)
    assert error, f"seed {plan.seed} does not fail"
    kind = kind_of(error)
    left = most_runs

    def fails(smaller: Plan) -> bool:
        nonlocal left
        if left <= 0:
            return False
        left -= 1
        return kind_of(failure_of(smaller)[0]) == kind

    strikes = {number for number, _ in simulation.backend.weather.struck}
    quiet = _without(sorted(strikes), lambda gone: replace(plan, spared=plan.spared | gone), fails)
    numbers = [number for step in quiet.steps for number, _ in step.operations]
    small = _without(numbers, lambda gone: quiet.without(set(gone)), fails)
    indices = list(range(len(small.steps)))
    small = _without(
        indices,
        lambda gone: replace(small, steps=tuple(step for i, step in enumerate(small.steps) if i not in gone)),
        fails,
    )
    for name, nothing in (("crash", -1), ("disturbs", False), ("sets_clock", False), ("restarts_worker", False)):
        for index, step in enumerate(small.steps):
            if getattr(step, name) != nothing:
                simpler = replace(step, **{name: nothing})  # type: ignore[arg-type]
                changed = replace(small, steps=(*small.steps[:index], simpler, *small.steps[index + 1 :]))
                small = changed if fails(changed) else small
    # What is not struck any more need not be spared.
    _, again = failure_of(small)
    last = again.backend.weather.strikes
    small = replace(small, spared=frozenset(number for number in small.spared if number <= last))
    return small, failure_of(small)[0]


def _without(items: Sequence[int], make: Callable[[frozenset[int]], Plan], fails: Callable[[Plan], bool]) -> Plan:
    """Leave out as many of the items as possible: halves first, then quarters, and so on."""
    gone: frozenset[int] = frozenset()
    size = max(len(items), 1)
    while size:
        position = 0
        left = [item for item in items if item not in gone]
        while position < len(left):
            tried = gone | frozenset(left[position : position + size])
            if fails(make(tried)):
                gone = tried
            position += size
        size //= 2
    return make(gone)
