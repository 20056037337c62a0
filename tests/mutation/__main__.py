"""Make mutants of the sources and look which tests notice: `python -m tests.mutation core --count 500`.

They are drawn by the hash of the commit (`--seed` for another). Each is run against the suites of its target in turn, in a
copy of the sources, until one fails. Prints the survivors and the score. `--only FILE#NUMBER` makes one again and shows it.
"""

from __future__ import annotations

import argparse
import difflib
import subprocess
import sys
import tempfile
import time
from ast import parse, unparse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutation.mutants import Mutant, draw, mutants_of
from tests.planted.plant import HOME, copy_sources, environment

PYTEST = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "120")
TARGETS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "core": (
        "services/history/whistlestop/history/core",
        (
            (*PYTEST, "tests/core"),
            ("-m", "tests.simulation", "--seeds", "60", "--until-failure"),
            (*PYTEST, "tests/history", "tests/server", "tests/api"),
            (*PYTEST, "tests/parity", "-k", "memory"),
        ),
    ),
    "storage": (
        "storage/whistlestop/storage",
        (
            (*PYTEST, "tests/storage", "tests/isolation"),
            ("-m", "tests.simulation", "--seeds", "30", "--until-failure"),
            (*PYTEST, "tests/disk", "tests/outage", "tests/visibility", "tests/upgrade", "tests/cli"),
        ),
    ),
}
SUITE_S = 1800.0


def killed_by(mutant: Mutant, folder: Path, suites: tuple[tuple[str, ...], ...]) -> str:
    """Return the suite that notices; empty when none does."""
    path = folder / mutant.file
    before = path.read_text()
    path.write_text(mutant.source())
    try:
        return failing(folder, suites)
    finally:
        path.write_text(before)


def failing(folder: Path, suites: tuple[tuple[str, ...], ...]) -> str:
    """Return the first suite that fails in a copy of the sources; empty when none does."""
    for suite in suites:
        try:
            done = subprocess.run(
                [sys.executable, *suite], cwd=folder, env=environment(folder), capture_output=True, check=False,
                timeout=SUITE_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "time-out of " + _name(suite)
        if done.returncode:
            return _name(suite)
    return ""


def _name(suite: tuple[str, ...]) -> str:
    return " ".join(each for each in suite if each.startswith("tests")) or suite[1]


def show(mutant: Mutant) -> str:
    """What it changes, as a diff (of both, as the parser writes them)."""
    before = unparse(parse((HOME / mutant.file).read_text())).splitlines()
    return "\n".join(difflib.unified_diff(before, mutant.source().splitlines(), lineterm="", n=2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", default="")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--suites", type=int, default=9, help="no more than so many of them")
    parser.add_argument("--least", type=int, default=0, help="percent to be killed, or the exit code is 1")
    parser.add_argument("--only", default="", metavar="FILE#NUMBER")
    given = parser.parse_args()
    folder, suites = TARGETS[given.target]
    suites = suites[: given.suites]
    if given.only:
        file, _, number = given.only.partition("#")
        mutants = [mutants_of(file, (HOME / file).read_text())[int(number)]]
        print(show(mutants[0]))
    else:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HOME, capture_output=True, text=True, check=True)
        seed = given.seed or head.stdout.strip()
        mutants = draw(HOME, folder, given.count, seed)
        print(f"{len(mutants)} mutants of {folder}, drawn by {seed}", flush=True)
    survivors = run(mutants, suites, given.jobs)
    score = 100 * (len(mutants) - len(survivors)) / len(mutants)
    print(f"{len(mutants)} mutants, {len(survivors)} survived: {score:.0f} % killed")
    return int(score < given.least)


def run(mutants: list[Mutant], suites: tuple[tuple[str, ...], ...], jobs: int) -> list[Mutant]:
    """Run them all, in so many copies of the sources; return those that nothing noticed."""
    survivors, killers = [], Counter[str]()
    with tempfile.TemporaryDirectory(prefix="whistlestop-mutants-") as home:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy = Path(home) / str(number)
            copy.mkdir()
            copy_sources(copy)
            copies.put(copy)
        if wrong := failing(copy, suites):
            raise SystemExit(f"{wrong} fails without any mutant")

        def turn(mutant: Mutant) -> tuple[Mutant, str, float]:
            copy = copies.get()
            began = time.monotonic()
            try:
                return mutant, killed_by(mutant, copy, suites), time.monotonic() - began
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(jobs) as pool:
            for mutant, killer, seconds in pool.map(turn, mutants):
                killers[killer] += 1
                if killer:
                    print(f"killed by {killer} in {seconds:.0f} s: {mutant}", flush=True)
                else:
                    survivors.append(mutant)
                    print(f"SURVIVED {seconds:.0f} s: {mutant}\n{show(mutant)}", flush=True)
    print(", ".join(f"{count} by {name or 'nothing'}" for name, count in killers.most_common()))
    return survivors


if __name__ == "__main__":
    raise SystemExit(main())
