"""A failing seed becomes a small plan that fails in the same way, and a test."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation import checks, shrink
from tests.simulation.loop import SimulatedLoop, Stuck, simulate
from tests.simulation.plan import as_test, plan_of


def test_a_failing_seed_shrinks_and_prints_as_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted failure: any history in which somebody signalled."""

    def check_signals(histories: Any, tries: Any, acknowledged: Any) -> None:
        assert not acknowledged, "planted"

    monkeypatch.setattr(checks, "check_signals", check_signals)
    plan = plan_of(3)
    small, error = shrink.shrink(plan, most_runs=25)
    assert error.startswith("AssertionError: planted")
    assert small.operations() < plan.operations() / 2
    text = as_test(small, error)
    names: dict[str, Any] = {}
    exec(compile(text, "printed", "exec"), names)
    with pytest.raises(AssertionError, match="planted"):
        names["test_seed_3"]()


def test_a_simulation_that_waits_for_ever_is_reported() -> None:
    loop = SimulatedLoop()
    with pytest.raises(Stuck, match="nothing is to come"):
        simulate(_wait(loop), loop)


async def _wait(loop: SimulatedLoop) -> None:
    await loop.create_future()
