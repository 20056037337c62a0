"""Run seeds of the simulation: `python -m tests.simulation --first 0 --seeds 400`, or one again: `--first 17 --seeds 1 -v`.

`--jobs 2` shares the seeds among processes. `--shrink` makes each seed that fails small and prints it as a test.
`--hashes` prints a hash over all that happened in each seed. `--repeat 20` runs the seeds that often, each time in a
process of its own with another hash seed, beside busy loops on all processors, and compares the hashes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.simulation.plan import as_test, plan_of
from tests.simulation.run import run_many
from tests.simulation.shrink import shrink


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


def show_small(seed: int, steps: int) -> None:
    """Print a failing seed as a test of few operations."""
    plan, error = shrink(plan_of(seed, steps))
    print(f"seed {seed}, {plan.operations()} operations left:\n{error[:3000]}\n\n{as_test(plan, error)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=0, help="instead of what each seed says")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--hashes", action="store_true")
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--until-failure", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    if options.repeat > 1:
        return compare(options.first, options.seeds, options.steps, options.repeat)
    began = time.monotonic()
    total = run_many(
        options.first, options.seeds, options.steps, options.jobs, verbose=options.verbose, hashes=options.hashes,
        until_failure=options.until_failure,
    )  # fmt: skip
    if options.shrink:
        for seed in total.failed:
            show_small(seed, options.steps)
    cpu_ms = total.totals.pop("ms CPU")
    told = ", ".join(f"{count} {name}" for name, count in total.totals.items())
    print(
        f"{total.seeds} seeds, {len(total.failed)} failed {sorted(total.failed)}, {time.monotonic() - began:.1f} s, "
        f"{cpu_ms / max(total.seeds, 1):.0f} ms of CPU each: {told}"
    )
    return min(len(total.failed), 1)


if __name__ == "__main__":
    raise SystemExit(main())
