"""The whole backend under simulated trouble, from seeds.

    pytest tests/simulation                        the seeds of CI
    SIM_SEED=17 pytest tests/simulation -s         one seed again
    SIM_SEEDS=500 pytest tests/simulation          more of them
    python -m tests.simulation --seeds 500 --jobs 2 --shrink
                                                   the same without pytest; what fails is printed as a small test

Each run prints the seeds that failed.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.patience import PATIENCE_S

SEED = os.environ.get("SIM_SEED", "")
FIRST = int(SEED or os.environ.get("SIM_FIRST", "0"))
SEEDS = 1 if SEED else int(os.environ.get("SIM_SEEDS", "100"))


def test_nothing_acknowledged_is_lost_and_everything_ends() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--first", str(FIRST), "--seeds", str(SEEDS)]
    if SEED:
        command.append("--verbose")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500 + 2 * SEEDS)
    print(done.stdout)
    print(done.stderr[-20_000:])
    assert done.returncode == 0, f"seeds failed: {done.stdout.splitlines()[-1:]}"


def test_a_seed_is_the_same_history_under_any_hash_seed_and_load() -> None:
    """Three processes at once (so that they hinder each other), each with another order of sets and other addresses."""
    command = [sys.executable, "-m", "tests.simulation", "--first", "7", "--seeds", "3", "--hashes"]
    running = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PADDING": "x" * length},
        )
        for seed, length in (("1", 0), ("2", 3000), ("random", 70_000))
    ]
    printed = [process.communicate(timeout=PATIENCE_S)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    hashes = [[line for line in text.splitlines() if line.startswith("seed ")] for text in printed]
    assert len(hashes[0]) == 3, printed[0]
    assert hashes[0] == hashes[1] == hashes[2]
