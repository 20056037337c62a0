"""The whole backend under simulated trouble, from seeds.

    pytest tests/simulation                        the seeds of CI
    SIM_SEED=17 pytest tests/simulation -s         one seed again
    SIM_SEEDS=500 pytest tests/simulation          more of them
    python -m tests.simulation --seeds 500         the same without pytest

Each run prints the seeds that failed. The seeds run in a process of their own, see `__main__`.
"""

from __future__ import annotations

import os
import subprocess
import sys

SEED = os.environ.get("SIM_SEED", "")
FIRST = int(SEED or os.environ.get("SIM_FIRST", "0"))
SEEDS = 1 if SEED else int(os.environ.get("SIM_SEEDS", "40"))


def test_nothing_acknowledged_is_lost_and_everything_ends() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--first", str(FIRST), "--seeds", str(SEEDS)]
    if SEED:
        command.append("--verbose")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500 + 2 * SEEDS)
    print(done.stdout)
    print(done.stderr[-20_000:])
    assert done.returncode == 0, f"seeds failed: {done.stdout.splitlines()[-1:]}"
