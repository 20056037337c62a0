"""Make mutants of the sources and look which tests notice: `python -m tests.mutation core --count 500`.

They are drawn by the hash of the commit (`--seed` for another). Each runs, in a copy of the sources, the tests that run its
line: first those of the quick suites; what survives them, those of the slow suites. Prints the survivors and the score.
`--only FILE#NUMBER` makes one again and shows it.
"""

from __future__ import annotations

import argparse
import difflib
import os
import subprocess
import sys
import tempfile
import time
from ast import parse, unparse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from tests.mutation.choose import Choice
from tests.mutation.forks import SEED, START, Measure, Measured, Outcome, Try
from tests.mutation.mutants import Mutant, draw, mutants_of
from tests.planted.plant import HOME, copy_sources, environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection


@dataclass(frozen=True, slots=True)
class Phase:
    """Suites that are collected, measured and run together."""

    suites: tuple[str, ...]
    seeds: int = 0
    """Of the simulation, from 0."""
    folder: str = ""
    """Of the sources that the mutants are of."""


CORE = "services/history/whistlestop/history/core"
STORAGE = "storage/whistlestop/storage"
# Of the API's tests, those that do not stop at a listener's checks.
LISTENERS = (
    "auth",
    "browsers",
    "bundle",
    "client_versions",
    "connect",
    "grpc",
    "http",
    "json",
    "lambda",
    "openapi",
    "transports",
)
API = ("tests/api", *(f"--ignore-glob=*/api/test_{name}*" for name in LISTENERS))
PARITY = ("tests/parity", "--parity-stores", "memory")
TARGETS = {
    "core": (
        Phase(("tests/core",), 60, CORE),
        Phase(("tests/history", *API), 0, CORE),
        Phase(PARITY, 0, CORE),
    ),
    "storage": (
        Phase(("tests/storage", "tests/isolation", "tests/visibility"), 30, STORAGE),
        Phase(("tests/history", *API, "tests/disk", "tests/outage", "tests/upgrade"), 0, STORAGE),
        Phase(PARITY, 0, STORAGE),
    ),
}


class Server:
    """A `ForkServer` in a copy of the sources."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.names, self.imported = connection.recv()

    def measure(self, folder: str, names: Sequence[str]) -> Measured:
        """Run these tests, and return which lines each of them runs."""
        self._connection.send(Measure(folder, names))
        measured = self._connection.recv()
        assert isinstance(measured, Measured)
        return measured

    def outcome(self, request: Try) -> Outcome:
        """Run tests with a mutant."""
        self._connection.send(request)
        outcome = self._connection.recv()
        assert isinstance(outcome, Outcome)
        return outcome


@contextmanager
def servers(folder: str, suites: Sequence[str], count: int) -> Iterator[list[Server]]:
    """So many of them, each in a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="whistlestop-mutants-") as home, ExitStack() as stack:
        connections = []
        for number in range(count):
            copy = Path(home) / str(number)
            copy.mkdir()
            copy_sources(copy)
            ours, theirs = Pipe()
            log = stack.enter_context((Path(home) / f"{number}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, *START, str(theirs.fileno()), folder, *suites],
                cwd=copy, env=environment(copy) | {"PYTHONDONTWRITEBYTECODE": ""}, pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            theirs.close()
            stack.callback(process.wait)
            stack.callback(ours.close)
            connections.append(ours)
        try:
            yield [Server(each) for each in connections]
        except EOFError:
            texts = [log.read_text(errors="replace")[-3000:] for log in Path(home).glob("*.log")]
            raise SystemExit("a server of test runs ended:\n" + "\n".join(texts)) from None


@dataclass(frozen=True, slots=True)
class Options:
    jobs: int = 1
    budget_s: float = 1e9
    """Seconds of tests for a mutant in each phase."""
    patience_s: float = 60.0
    cpu_s: float = 15.0
    """See `Try`."""


def run(mutants: list[Mutant], phase: Phase, options: Options) -> list[Mutant]:
    """Run the tests of one phase against them all; return those that nothing noticed."""
    folder = phase.folder
    survivors, killers = [], Counter[str]()
    with servers(folder, phase.suites, options.jobs) as ready:
        choice = Choice(ready[0].imported)
        names = [*ready[0].names, *(f"{SEED}{number}" for number in range(phase.seeds))]
        _measure(ready, folder, names, choice)
        free: SimpleQueue[Server] = SimpleQueue()
        for server in ready:
            free.put(server)

        def turn(mutant: Mutant) -> tuple[Mutant, Outcome, int, float]:
            server = free.get()
            began = time.monotonic()
            try:
                names = choice.tests(mutant, HOME, folder, options.budget_s)
                tests = {name: choice.measured.seconds[name] for name in names}
                is_imported = choice.is_imported(mutant)
                request = Try(mutant.file, mutant.number, tests, is_imported, options.patience_s, options.cpu_s)
                outcome = server.outcome(request) if tests else Outcome()
                choice.learn(mutant, outcome.killer)
                return mutant, outcome, len(tests), time.monotonic() - began
            finally:
                free.put(server)

        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, outcome, tests, seconds in pool.map(turn, mutants):
                if outcome.killer:
                    killers[outcome.killer.split("::")[0].split(SEED)[0] or "the simulation"] += 1
                    how = "" if outcome.how == "failed" else f" ({outcome.how})"
                    print(f"killed by {outcome.killer}{how} in {seconds:.1f} s: {mutant}", flush=True)
                else:
                    survivors.append(mutant)
                    print(f"SURVIVED {tests} tests, {seconds:.1f} s: {mutant}", flush=True)
    for killer, count in killers.most_common():
        print(f"{count:5} killed by {killer}")
    return survivors


def _measure(ready: list[Server], folder: str, names: list[str], choice: Choice) -> None:
    began = time.monotonic()
    # Tests of one file stay together: they share what their modules set up.
    files = sorted({name.split("::")[0] for name in names})
    parts = [
        [name for name in names if files.index(name.split("::")[0]) % len(ready) == number]
        for number in range(len(ready))
    ]
    with ThreadPoolExecutor(len(ready)) as pool:
        for measured in pool.map(lambda server, part: server.measure(folder, part), ready, parts):
            choice.add(measured)
    seconds = choice.measured.seconds
    print(
        f"{len(seconds)} tests measured in {time.monotonic() - began:.0f} s (they take {sum(seconds.values()):.0f} s); "
        f"failed without any mutant and left out: {choice.measured.failed}",
        flush=True,
    )


def show(mutant: Mutant) -> str:
    """What it changes, as a diff (of both, as the parser writes them)."""
    before = unparse(parse((HOME / mutant.file).read_text())).splitlines()
    return "\n".join(difflib.unified_diff(before, mutant.source().splitlines(), lineterm="", n=2))


def chosen(given: argparse.Namespace, folder: str) -> list[Mutant]:
    """Return the mutants to run: those that are named, or what the seed draws."""
    if given.only:
        places = [each.partition("#") for each in given.only]
        return [mutants_of(file, (HOME / file).read_text())[int(number)] for file, _, number in places]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HOME, capture_output=True, text=True, check=True)
    seed = given.seed or head.stdout.strip()
    mutants = draw(HOME, folder, given.first + given.count, seed)[given.first :]
    print(f"{len(mutants)} mutants of {folder}, from {given.first} on, drawn by {seed}", flush=True)
    return mutants


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--first", type=int, default=0, help="go on from this one of those that are drawn")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", default="")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--phases", type=int, default=9, help="no more than so many: 1 for the quick suites alone")
    parser.add_argument("--first-phase", type=int, default=0)
    parser.add_argument("--budget", type=float, default=1e9, help="seconds of tests for a mutant in each phase")
    parser.add_argument("--least", type=int, default=0, help="percent to be killed, or the exit code is 1")
    parser.add_argument("--only", action="append", default=[], metavar="FILE#NUMBER")
    given = parser.parse_args()
    phases = TARGETS[given.target]
    mutants = chosen(given, phases[0].folder)
    survivors = mutants
    for phase in phases[given.first_phase : given.phases]:
        if survivors:
            print(f"{len(survivors)} mutants against {' '.join(phase.suites)}, {phase.seeds} seeds", flush=True)
            survivors = run(survivors, phase, Options(given.jobs, given.budget))
    for mutant in survivors:
        print(f"SURVIVED ALL: {mutant}\n{show(mutant)}")
    score = 100 * (len(mutants) - len(survivors)) / len(mutants)
    print(f"{len(mutants)} mutants, {len(survivors)} survived: {score:.1f} % killed")
    return int(score < given.least)


if __name__ == "__main__":
    raise SystemExit(main())
