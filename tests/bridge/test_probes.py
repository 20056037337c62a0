"""Probes by the name that the target knows."""

from __future__ import annotations

import pytest

from tests.bridge.fakes import Bench
from tests.bridge.test_pollers import ended


@pytest.mark.parametrize("is_old", [False, True])
async def test_a_bridge_serves_a_target_of_either_release(is_old: bool) -> None:
    bench = Bench()
    bench.target.is_old = is_old
    worker = bench.worker()
    await bench.advance(60)
    bench.target.add("q")
    await bench.advance(60)
    assert bench.bridge.counters.tasks == 1
    # The name that the target knows is remembered.
    assert len(bench.target.named("ProbeBacklog" if is_old else "LookForTasks")) <= 1
    assert len(bench.target.named("LookForTasks" if is_old else "ProbeBacklog")) > 1
    await ended(*worker)
    await bench.bridge.close()


async def test_a_bridge_follows_a_target_that_is_upgraded_or_rolled_back() -> None:
    bench = Bench()
    worker = bench.worker()
    for number, is_old in enumerate((True, False, True), 1):
        bench.target.is_old = is_old
        bench.target.add("q")
        await bench.advance(60)
        assert bench.bridge.counters.tasks == number
    await ended(*worker)
    await bench.bridge.close()
