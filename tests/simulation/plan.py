"""What a seed is to do: its operations and when they come. A plan can be made smaller, and printed as a test."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = (
    "start", "start", "signal", "signal", "signal_with_start", "update", "update", "query", "cancel", "terminate",
    "describe", "wait_for_end", "reset", "update_with_start", "replace", "list",
)  # fmt: skip
"""Methods of `clients.Client`."""
RESTARTS = 0.05
"""Of workers, per step."""
SMALL, LARGE = (6, 10, 16), 60
"""Steps of most seeds, and of one in 20."""


@dataclass(frozen=True, slots=True)
class Step:
    """What begins at one moment, and how long the next one is away."""

    operations: tuple[tuple[int, str], ...] = ()
    """Number and name. All that an operation draws follows from the seed and its number."""
    delay_s: float = 1.0
    disturbs: bool = False
    """Deliver again what may have been delivered, or fire what is not due."""
    crash: int = -1
    """Kill a process so many callbacks from now; -1: none."""
    sets_clock: bool = False
    restarts_worker: bool = False
    """A worker with a sticky queue is started anew, with another one: what waits in the old one is nobody's."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A seed, or what is left of it."""

    seed: int
    steps: tuple[Step, ...]
    spared: frozenset[int] = frozenset()
    """Numbers of strikes of the weather that are left out."""

    def operations(self) -> int:
        """How many there are."""
        return sum(len(step.operations) for step in self.steps)

    def without(self, numbers: set[int]) -> Plan:
        """The same without these operations."""
        steps = (
            replace(step, operations=tuple(each for each in step.operations if each[0] not in numbers))
            for step in self.steps
        )
        return replace(self, steps=tuple(steps))


def plan_of(seed: int, steps: int = 0) -> Plan:
    """The plan that follows from the seed; `steps` 0: as many as it says."""
    chance = random.Random(f"{seed} plan")
    clock = chance.choice([0.0, 0.0, 0.1])
    numbers = iter(range(1, 1_000_000))
    count = steps or (LARGE if chance.random() < 0.05 else chance.choice(SMALL))
    restarts = random.Random(f"{seed} restarts")
    made = (_step(chance, numbers, clock) for _ in range(count))
    return Plan(seed, tuple(replace(step, restarts_worker=restarts.random() < RESTARTS) for step in made))


def _step(chance: random.Random, numbers: Iterator[int], clock: float) -> Step:
    return Step(
        operations=tuple((next(numbers), chance.choice(OPERATIONS)) for _ in range(chance.randrange(5))),
        delay_s=chance.choice([0.001, 0.05, 0.3, 1, 4, 11]),
        disturbs=chance.random() < 0.1,
        crash=chance.randrange(400) if chance.random() < 0.07 else -1,
        sets_clock=chance.random() < clock,
    )


def as_test(plan: Plan, error: str) -> str:
    """The plan as a test to put into a file."""
    lines = [
        "from tests.simulation.plan import Plan, Step",
        "from tests.simulation.world import Simulation",
        "",
        "",
        f"def test_seed_{plan.seed}() -> None:",
        *(f"    # {line}"[:118] for line in error.splitlines()[:3]),
        "    plan = Plan(",
        f"        seed={plan.seed},",
        "        steps=(",
        *(f"            {step!r}," for step in plan.steps),
        "        ),",
        f"        spared=frozenset({sorted(plan.spared)!r}),",
        "    )",
        "    Simulation(plan).run()",
    ]
    return "\n".join(lines)
