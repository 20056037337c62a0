"""Run seeds of the simulation: `python -m tests.simulation --first 0 --seeds 400`, or one again: `--first 17 --seeds 1 -v`.

The process runs without randomised hashes and addresses (it starts itself anew to get there), since sets and protobuf
maps are walked in an order that follows from them: the same seed is the same history.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import sys
import time
import traceback
from collections import Counter

ADDR_NO_RANDOMIZE = 0x0040000
_FIXED = "WHISTLESTOP_SIMULATION_FIXED"


def fix_order() -> None:
    """Start this process anew with fixed hashes and addresses, where the platform lets us."""
    if os.environ.get(_FIXED):
        return
    environment = {**os.environ, "PYTHONHASHSEED": "0", _FIXED: "1"}
    if sys.platform == "linux":
        ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)
    os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], environment)


async def run(first: int, seeds: int, steps: int, *, verbose: bool) -> int:
    """How many seeds failed."""
    from tests.simulation.world import Simulation

    failed: list[int] = []
    totals: Counter[str] = Counter()
    began = time.monotonic()
    for seed in range(first, first + seeds):
        simulation = Simulation(seed, steps)
        try:
            await simulation.run()
        except Exception:  # noqa: BLE001 - reported, and the next seed's turn
            failed.append(seed)
            traceback.print_exc(limit=-6)
            print(f"seed {seed} failed: replay with SIM_SEED={seed} pytest tests/simulation", flush=True)
        if verbose:
            print("\n".join(simulation.log))
        seen = simulation.seen
        totals.update({
            "started": len(seen.started), "signals": len(seen.signals), "updates": len(seen.updates),
            "activities": len(seen.activities), "queries": seen.queries, "crashes": simulation.backend.crashes,
        })
    told = ", ".join(f"{count} {name}" for name, count in totals.items())
    print(f"{seeds} seeds, {len(failed)} failed {failed}, {time.monotonic() - began:.1f} s: {told}")
    return len(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    fix_order()
    logging.basicConfig(level=logging.CRITICAL)
    return min(asyncio.run(run(options.first, options.seeds, options.steps, verbose=options.verbose)), 1)


if __name__ == "__main__":
    raise SystemExit(main())
