"""Run seeds of the simulation: `python -m tests.simulation --first 0 --seeds 400`, or one again: `--first 17 --seeds 1 -v`.

`--hashes` prints a hash over all that happened in each seed. `--repeat 20` runs the seeds that often, each time in a
process of its own with another hash seed, beside busy loops on all processors, and compares the hashes.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
import traceback
from collections import Counter


def run(first: int, seeds: int, steps: int, *, verbose: bool, hashes: bool) -> int:
    """How many seeds failed."""
    from tests.simulation.world import Simulation

    failed: list[int] = []
    totals: Counter[str] = Counter()
    began = time.monotonic()
    for seed in range(first, first + seeds):
        simulation = Simulation(seed, steps)
        try:
            simulation.run()
        except Exception:  # noqa: BLE001 - reported, and the next seed's turn
            failed.append(seed)
            traceback.print_exc(limit=-6)
            print(f"seed {seed} failed: replay with SIM_SEED={seed} pytest tests/simulation", flush=True)
        if verbose:
            print("\n".join(simulation.log))
        if hashes:
            print(f"seed {seed}: {simulation.loop.digest}, {simulation.loop.steps} callbacks", flush=True)
        seen = simulation.seen
        totals.update({
            "started": len(seen.started), "signals": len(seen.signals), "updates": len(seen.updates),
            "activities": len(seen.activities), "queries": seen.queries, "crashes": simulation.backend.crashes,
        })
    told = ", ".join(f"{count} {name}" for name, count in totals.items())
    print(f"{seeds} seeds, {len(failed)} failed {failed}, {time.monotonic() - began:.1f} s: {told}")
    return len(failed)


def compare(first: int, seeds: int, steps: int, times: int) -> int:
    """1 when the hashes of the seeds differ between runs in loaded processes."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    found: set[str] = set()
    command = [
        sys.executable, "-m", "tests.simulation", "--hashes", "--first", str(first), "--seeds", str(seeds),
        "--steps", str(steps),
    ]  # fmt: skip
    try:
        for number in range(times):
            environment = {**os.environ, "PYTHONHASHSEED": str(number)}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            lines = [line for line in done.stdout.splitlines() if line.startswith("seed ")]
            found.add("\n".join(lines))
            print(f"run {number + 1}: {len(lines)} seeds, exit code {done.returncode}", flush=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    print("the same every time:" if len(found) == 1 else f"{len(found)} different histories:", *sorted(found), sep="\n")
    return int(len(found) != 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--hashes", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    if options.repeat > 1:
        return compare(options.first, options.seeds, options.steps, options.repeat)
    return min(
        run(options.first, options.seeds, options.steps, verbose=options.verbose, hashes=options.hashes), 1
    )


if __name__ == "__main__":
    raise SystemExit(main())
