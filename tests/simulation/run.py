"""Running many seeds, in one process or several."""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from tests.simulation.plan import plan_of
from tests.simulation.world import Simulation

CHUNK = 20


@dataclass
class Result:
    """What some seeds came to."""

    seeds: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    totals: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        self.seeds += other.seeds
        self.failed |= other.failed
        self.totals += other.totals


def run(
    seeds: range, steps: int, *, verbose: bool = False, hashes: bool = False, first_failure: bool = False
) -> Result:
    """Run them one after another; with `first_failure`, up to the first one that fails."""
    logging.basicConfig(level=logging.CRITICAL)
    result = Result()
    for seed in seeds:
        cpu = time.process_time()
        simulation = Simulation(plan_of(seed, steps))
        try:
            simulation.run()
        except Exception:  # noqa: BLE001 - reported, and the next seed's turn
            result.failed[seed] = traceback.format_exc(limit=-6)
        if verbose:
            result.lines += simulation.log
        if hashes:
            result.lines.append(f"seed {seed}: {simulation.loop.digest}, {simulation.loop.steps} callbacks")
        seen = simulation.seen
        result.seeds += 1
        result.totals.update(
            {
                "started": len(seen.started),
                "signals": len(seen.signals),
                "updates": len(seen.updates),
                "activities": len(seen.activities),
                "queries": seen.queries,
                "crashes": len(simulation.backend.crashes_ns),
                "faults": len(simulation.backend.weather.struck),
                "calls and commits checked": simulation.backend.log.checked,
                "ms CPU": round((time.process_time() - cpu) * 1000),
            }
        )
        if first_failure and result.failed:
            break
    return result


def run_many(
    first: int, seeds: int, steps: int, jobs: int, *, verbose: bool = False, hashes: bool = False,
    until_failure: bool = False,
) -> Result:  # fmt: skip
    """Run them in so many processes, and print what failed as it comes; with `until_failure`, up to the first."""
    parts = [range(begin, min(begin + CHUNK, first + seeds)) for begin in range(first, first + seeds, CHUNK)]
    work = partial(run, steps=steps, verbose=verbose, hashes=hashes, first_failure=until_failure)
    total = Result()
    if jobs == 1:
        for part in parts:
            _tell(total, work(part))
            if until_failure and total.failed:
                break
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for result in pool.map(work, parts):
                _tell(total, result)
                if until_failure and total.failed:
                    pool.shutdown(cancel_futures=True)
                    break
    return total


def _tell(total: Result, result: Result) -> None:
    total.add(result)
    if result.lines:
        print("\n".join(result.lines))
    for seed, error in result.failed.items():
        print(error)
        print(f"seed {seed} failed: replay with SIM_SEED={seed} pytest tests/simulation", flush=True)
