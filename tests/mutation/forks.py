"""A server of test runs: it imports and collects once, and runs tests in forks of itself, each with another mutant.

It is a process of its own, in a copy of the sources (`START`), and talks to the driver
over a connection: `Measure` and `Try` in, `Measured` and `Outcome` out. In a fork the mutated function gets the code of the
mutant; the file of the copy is changed as well, for what is imported late and for processes that tests start. What is run
while modules are imported is tried by a new process instead.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import pytest

from tests.mutation.mutants import Mutant, mutants_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

COPY = Path(__file__).resolve().parents[2]
START = ("-c", "from tests.mutation.forks import main; raise SystemExit(main())")
"""Arguments of Python; the file descriptor of the connection, the folder of the target and the suites follow."""
BROKEN = "ended the run of the tests"
SEED = "simulation seed "
SERVED = ("tests/parity/", "tests/server/")
"""Whose servers are run in the process of the tests."""
MEASURING_S = 7200.0
MEMORY_BYTES = 8 << 30
LATER_S = 10
"""So much newer than its original is a mutated file, so that no compiled one is taken for it."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Run these tests one after another, and tell which lines of these folders each of them runs."""

    folders: Sequence[str]
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Measured:
    """What tests run, and for how long."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Of those that passed."""
    failed: list[str] = field(default_factory=list)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    """By file and line, the tests that run it."""


@dataclass(frozen=True, slots=True)
class Try:
    """Run these tests with a mutant until one fails."""

    file: str
    number: int
    tests: dict[str, float]
    """And how many seconds each of them takes."""
    is_imported: bool
    """Whether the mutated line is run by an import."""
    patience_s: float = 20.0
    """At least, for a test to end; it has 20 times what it took when it was measured."""
    cpu_s: float = 10.0
    """At least, of processor time; it has 10 times what it took."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """By which test the mutant was found; empty when by none."""

    killer: str = ""
    how: str = ""


class ForkServer:
    """A plugin of pytest that serves requests in the place of running what was collected."""

    def __init__(self, connection: Connection, imported: Any) -> None:
        self._connection = connection
        self._imported = imported
        self._items: dict[str, pytest.Item] = {}
        self._functions: dict[tuple[str, int, str], list[FunctionType]] = {}
        self._mutants: dict[str, list[Mutant]] = {}
        self._failed = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        if any(name.startswith(SERVED) for name in self._items):
            from tests.mutation.here import serve_here

            serve_here()
        self._imported.stop()
        self._functions = _functions_by_place()
        if any("postgres" in name for name in self._items):
            _prepare_postgres()
        gc.collect()
        gc.freeze()  # so that collections in a fork leave the pages shared
        self._connection.send((list(self._items), _lines_of(self._imported)))
        with suppress(EOFError):
            while (request := self._connection.recv()) is not None:
                answer = self._measure(request) if isinstance(request, Measure) else self._try(request)
                self._connection.send(answer)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed = report.nodeid

    def _run(self, name: str, following: str | None) -> bool:
        """Run a test in this process; return whether it passed."""
        if name.startswith(SEED):
            from tests.simulation.run import run

            seed = int(name.removeprefix(SEED))
            return not run(range(seed, seed + 1), 0).failed
        self._failed = ""
        item, next_item = self._items[name], self._items.get(following or "")
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
        return not self._failed

    # ---- which test runs which lines ----

    def _measure(self, request: Measure) -> Measured:
        def work(tell: Callable[[Any], None]) -> None:
            import coverage

            found = Measured()
            tracer = coverage.Coverage(data_file=None, config_file=False, source=_in_copy(request.folders))
            tracer.set_option("run:disable_warnings", ["no-data-collected"])
            tracer.start()
            for name, following in zip(request.names, [*request.names[1:], None], strict=True):
                tracer.switch_context(name)
                began = time.monotonic()
                if self._run(name, following):
                    found.seconds[name] = time.monotonic() - began
                else:
                    found.failed.append(name)
            tracer.stop()
            data = tracer.get_data()
            for file in data.measured_files():
                lines = {line: [each for each in by if each] for line, by in data.contexts_by_lineno(file).items()}
                found.lines[str(Path(file).relative_to(COPY))] = lines
            tell(found)

        with _fork(work) as answers:
            found = _received(answers, MEASURING_S)
        assert isinstance(found, Measured), found
        return found

    # ---- which test finds a mutant ----

    def _try(self, request: Try) -> Outcome:
        if request.file not in self._mutants:
            self._mutants[request.file] = mutants_of(request.file, (COPY / request.file).read_text())
        mutant = self._mutants[request.file][request.number]
        names = list(request.tests)
        while names:
            with _written(mutant):
                is_new = request.is_imported or not self._fits(mutant)
                outcome = self._in_new_process(names) if is_new else self._in_fork(names, request, mutant)
            killer = outcome.killer
            if not killer or killer not in names or not self._in_fork([killer], request).killer:
                return outcome
            # It fails without the mutant, too: it says nothing.
            names.remove(killer)
        return Outcome()

    def _in_fork(self, names: list[str], request: Try, mutant: Mutant | None = None) -> Outcome:
        def work(tell: Callable[[Any], None]) -> None:
            if mutant is not None:
                self._install(mutant)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            for name, following in zip(names, [*names[1:], None], strict=True):
                cpu_s = time.process_time() + request.cpu_s + 10 * request.tests[name]
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_s), resource.RLIM_INFINITY))
                tell(name)
                if not self._run(name, following):
                    tell(Outcome(name, "failed"))
                    return
            tell(Outcome())

        now = ""
        with _fork(work) as answers:
            while True:
                answer = _received(answers, max(request.patience_s, 20 * request.tests.get(now, 0)))
                if isinstance(answer, Outcome):
                    return Outcome(now, answer.how) if answer.how == BROKEN else answer
                if answer is None:
                    return Outcome(now or names[0], "did not end")
                now = answer

    def _install(self, mutant: Mutant) -> None:
        """Give the function around the mutation its new code."""
        for function, code in self._replaced(mutant):
            function.__code__ = code

    def _fits(self, mutant: Mutant) -> bool:
        """Return whether the function can get the new code: not if it has other free variables, as without `super()`."""
        return all(function.__code__.co_freevars == code.co_freevars for function, code in self._replaced(mutant))

    def _replaced(self, mutant: Mutant) -> Iterator[tuple[FunctionType, CodeType]]:
        """Yield the functions around the mutation, each with its new code."""
        function_place = mutant.place.function
        if function_place is None:
            return
        path = str(COPY / mutant.file)
        name, first = function_place.name, function_place.first
        for code in _codes_in(compile(mutant.tree(), path, "exec", dont_inherit=True)):
            if (code.co_firstlineno, code.co_name) == (first, name):
                for function in self._functions.get((path, first, name), ()):
                    yield function, code

    def _in_new_process(self, names: list[str]) -> Outcome:
        seeds = [int(name.removeprefix(SEED)) for name in names if name.startswith(SEED)]
        tests = [name for name in names if not name.startswith(SEED)]
        commands = []
        if tests:
            commands.append(["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "120", *tests])
        if seeds:
            seed_range = ["--first", str(min(seeds)), "--seeds", str(max(seeds) - min(seeds) + 1)]
            commands.append(["-m", "tests.simulation", *seed_range, "--until-failure"])
        for command in commands:
            try:
                done = subprocess.run(
                    [sys.executable, *command], cwd=COPY, capture_output=True, text=True, check=False, timeout=1800
                )
            except subprocess.TimeoutExpired:
                return Outcome(command[1], "did not end")
            if done.returncode:
                said = [
                    line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))
                ]
                return Outcome(said[0] if said else command[1], "failed")
        return Outcome()


@contextmanager
def _written(mutant: Mutant) -> Iterator[None]:
    """Put the mutant into the file of the copy for a while."""
    path = COPY / mutant.file
    before, times = path.read_text(), path.stat()
    try:
        path.write_text(mutant.source())
        os.utime(path, (times.st_atime, times.st_mtime + LATER_S))
        yield
    finally:
        path.write_text(before)
        os.utime(path, (times.st_atime, times.st_mtime))


@contextmanager
def _fork(work: Callable[[Callable[[Any], None]], None]) -> Iterator[Connection]:
    """Run `work` in a fork of this process; what it tells is received from the connection."""
    answers, telling = Pipe(duplex=False)
    child = os.fork()
    if not child:
        try:
            os.setpgid(0, 0)
            answers.close()
            work(telling.send)
        except BaseException:  # noqa: BLE001 - the mutant may raise anything
            traceback.print_exc()
            with suppress(OSError):
                telling.send(Outcome("", BROKEN))
        finally:
            os._exit(0)
    with suppress(OSError):
        os.setpgid(child, child)
    telling.close()
    try:
        yield answers
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        answers.close()


def _received(answers: Connection, within_s: float) -> Any:
    """Return what comes next; None when nothing does, or the other end died."""
    try:
        return answers.recv() if answers.poll(within_s) else None
    except EOFError:
        return None


def _functions_by_place() -> dict[tuple[str, int, str], list[FunctionType]]:
    """Return all functions of the copy, by file, first line and name."""
    found: dict[tuple[str, int, str], list[FunctionType]] = {}
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__.co_filename.startswith(str(COPY)):
            code = each.__code__
            found.setdefault((code.co_filename, code.co_firstlineno, code.co_name), []).append(each)
    return found


def _in_copy(folders: Sequence[str]) -> list[str]:
    return [str(COPY / folder) for folder in folders]


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes_in(each)


def _lines_of(tracer: Any) -> dict[str, set[int]]:
    data = tracer.get_data()
    return {str(Path(file).relative_to(COPY)): set(data.lines(file) or ()) for file in data.measured_files()}


def _prepare_postgres() -> None:
    """Start the server of the tests, which all forks then use."""
    from tests import postgres

    async def make_template() -> None:
        async with postgres.migrated_database():
            pass

    if postgres.available():
        asyncio.run(make_template())


def main() -> int:
    connection = Connection(int(sys.argv[1]))
    import coverage

    folders, suites = sys.argv[2].split(os.pathsep), sys.argv[3:]
    imported = coverage.Coverage(data_file=None, config_file=False, source=_in_copy(folders))
    imported.set_option("run:disable_warnings", ["no-data-collected"])
    imported.start()
    arguments = ["-v", "-p", "no:cacheprovider", "-p", "no:xdist", "--timeout", "60", *suites]
    return int(pytest.main(arguments, plugins=[ForkServer(connection, imported)]))
