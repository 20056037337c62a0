"""The whole backend under simulated trouble, from seeds.

    pytest tests/simulation                        the seeds of CI
    SIM_SEED=17 pytest tests/simulation -s         one seed again
    SIM_SEEDS=500 pytest tests/simulation          more of them
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.world import Simulation

if "SIM_SEED" in os.environ:
    SEEDS = [int(os.environ["SIM_SEED"])]
else:
    first = int(os.environ.get("SIM_FIRST", "0"))
    SEEDS = list(range(first, first + int(os.environ.get("SIM_SEEDS", "20"))))


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_acknowledged_is_lost_and_everything_ends(seed: int) -> None:
    print(f"replay with SIM_SEED={seed}")
    simulation = Simulation(seed)
    try:
        await simulation.run()
    except BaseException:
        print("\n".join(simulation.log[-200:]))
        raise
