"""Make mutants of the sources and look which tests notice: `python -m tests.mutation core --count 500`.

They are drawn by the hash of the commit (`--seed` for another). Each runs, in a copy of the sources, the tests that run its
line: first those of the quick suites; what survives them, those of the slow suites. Prints the survivors and the score.
`--only FILE#NUMBER` makes one again and shows it.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
import time
from ast import parse, unparse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
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
# Of the server's tests, those whose servers can be run in the process of the tests (`tests.mutation.here`).
SERVER = ("clock_jumps", "links", "pinned_runs", "repeated_requests", "resets", "size_limits")
TESTS = (
    *(f"tests/{name}" for name in ("core", "history", "storage", "visibility", "isolation", "disk", "outage", "api")),
    *(f"--ignore-glob=*/api/test_{name}*" for name in LISTENERS),
    *(f"tests/server/test_{name}.py" for name in SERVER),
    "tests/parity",
    "--parity-stores=memory",
)


@dataclass(frozen=True, slots=True)
class Target:
    """What the mutants are of, and who is to find them."""

    folder: str
    """Of the sources that the mutants are of."""
    tests: tuple[str, ...] = TESTS
    """Arguments of pytest."""
    seeds: int = 40
    """Of the simulation, from 0."""
    measured: tuple[str, ...] = (CORE, STORAGE)
    """Folders whose lines are measured: of all targets, so that one map serves them all."""


TARGETS = {"core": Target(CORE), "storage": Target(STORAGE)}


class Server:
    """A `ForkServer` in a copy of the sources."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.names, self.imported = connection.recv()

    def measure(self, folders: Sequence[str], names: Sequence[str]) -> Measured:
        """Run these tests, and return which lines each of them runs."""
        self._connection.send(Measure(folders, names))
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
def servers(target: Target, count: int) -> Iterator[list[Server]]:
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
                [sys.executable, *START, str(theirs.fileno()), os.pathsep.join(target.measured), *target.tests],
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
    """Seconds of tests for a mutant."""
    patience_s: float = 20.0
    cpu_s: float = 10.0
    """See `Try`."""
    map_file: Path | None = None
    """Where the map of lines to tests is kept from run to run."""


def run(mutants: list[Mutant], target: Target, options: Options) -> list[Mutant]:
    """Run the tests against them all; return those that nothing noticed."""
    survivors, killers = [], Counter[str]()
    with servers(target, options.jobs) as ready:
        choice = Choice(ready[0].imported)
        measure(ready, target, choice, options.map_file)
        free: SimpleQueue[Server] = SimpleQueue()
        for server in ready:
            free.put(server)

        def turn(mutant: Mutant) -> tuple[Mutant, Outcome, int, float]:
            server = free.get()
            began = time.monotonic()
            try:
                names = choice.tests(mutant, HOME, target.folder, options.budget_s)
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


def measure(ready: list[Server], target: Target, choice: Choice, map_file: Path | None) -> None:
    """Learn which tests run which lines: from the map of an earlier run, and by running those that it does not know."""
    began = time.monotonic()
    names = [*ready[0].names, *(f"{SEED}{number}" for number in range(target.seeds))]
    if map_file is not None and map_file.exists():
        choice.load(map_file, HOME)
    # Tests of one file stay together: they share what their modules set up.
    parts: dict[str, list[str]] = {}
    for name in names:
        if name not in choice.measured.seconds:
            parts.setdefault(name.split("::")[0], []).append(name)
    free: SimpleQueue[Server] = SimpleQueue()
    for server in ready:
        free.put(server)

    def turn(part: list[str]) -> Measured:
        server = free.get()
        try:
            return server.measure(target.measured, part)
        finally:
            free.put(server)

    with ThreadPoolExecutor(len(ready)) as pool:
        for measured in pool.map(turn, parts.values()):
            choice.add(measured)
            if map_file is not None:
                choice.save(map_file, HOME)
    choice.keep(names)
    seconds = choice.measured.seconds
    print(
        f"{sum(map(len, parts.values()))} of {len(seconds)} tests measured in {time.monotonic() - began:.0f} s "
        f"(all take {sum(seconds.values()):.0f} s); failed without any mutant and left out: {choice.measured.failed}",
        flush=True,
    )


def show(mutant: Mutant) -> str:
    """What it changes, as a diff (of both, as the parser writes them)."""
    before = unparse(parse((HOME / mutant.file).read_text())).splitlines()
    return "\n".join(difflib.unified_diff(before, mutant.source().splitlines(), lineterm="", n=2))


def chosen(given: argparse.Namespace, folder: str) -> list[Mutant]:
    """Return the mutants to run: those that are named, or what the seed draws."""
    only = list(given.only)
    if given.survivors_of:
        found = re.findall(r"^SURVIVED \d.*? s: (\S+):\d+ (#\d+):", given.survivors_of.read_text(), re.MULTILINE)
        only += [f"{file}{number}" for file, number in found]
    if only or given.survivors_of:
        places = [each.partition("#") for each in only]
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
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of tests for a mutant")
    parser.add_argument("--map", type=Path, help="file that keeps which tests run which lines, from run to run")
    parser.add_argument("--measure", action="store_true", help="only make the map")
    parser.add_argument("--least", type=int, default=0, help="percent to be killed, or the exit code is 1")
    parser.add_argument(
        "--tests", help="arguments of pytest, in the place of the target's; the score is of these alone"
    )
    parser.add_argument("--seeds", type=int, help="of the simulation, in the place of the target's")
    parser.add_argument("--survivors-of", type=Path, help="the output of an earlier run: only those that survived it")
    parser.add_argument("--only", action="append", default=[], metavar="FILE#NUMBER")
    given = parser.parse_args()
    began = time.monotonic()
    target = TARGETS[given.target]
    if given.tests is not None:
        target = replace(target, tests=tuple(given.tests.split()))
    if given.seeds is not None:
        target = replace(target, seeds=given.seeds)
    options = Options(given.jobs, given.budget, map_file=given.map)
    mutants = [] if given.measure else chosen(given, target.folder)
    survivors = run(mutants, target, options)
    for mutant in survivors:
        print(f"SURVIVED ALL: {mutant}\n{show(mutant)}")
    score = 100 * (len(mutants) - len(survivors)) / (len(mutants) or 1)
    print(
        f"{len(mutants)} mutants, {len(survivors)} survived: {score:.1f} % killed in {time.monotonic() - began:.0f} s"
    )
    return int(score < given.least)


if __name__ == "__main__":
    raise SystemExit(main())
