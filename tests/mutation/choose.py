"""Which tests can notice a mutant: those that run its line, the likely and narrow ones first."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.mutation.forks import SEED, Measured

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.mutation.mutants import Mutant


def _file(name: str) -> str:
    return "" if name.startswith(SEED) else name.split("::", maxsplit=1)[0]


def _files(names: Iterable[str]) -> list[str]:
    return sorted({_file(name) for name in names} - {""})


def _digests(home: Path, files: Iterable[str]) -> dict[str, str]:
    paths = {file: home / file for file in files}
    return {
        file: hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "" for file, path in paths.items()
    }


@dataclass(slots=True)
class Choice:
    """The map of lines to tests, and what was learned since."""

    imported: dict[str, set[int]]
    """By file, the lines that are run while modules are imported."""
    measured: Measured = field(default_factory=Measured)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    """By file, how many mutants each test has found."""
    breadth: Counter[str] = field(default_factory=Counter)
    """How many lines each test runs, once it is known."""

    def add(self, part: Measured) -> None:
        """Take in what one of several servers has measured."""
        self.measured.seconds.update(part.seconds)
        self.measured.failed.extend(part.failed)
        for file, lines in part.lines.items():
            known = self.measured.lines.setdefault(file, {})
            for line, names in lines.items():
                known.setdefault(line, []).extend(names)

    def save(self, path: Path, home: Path) -> None:
        """Write what was measured to a file, for `load`."""
        files = [*self.measured.lines, *_files(self.measured.seconds)]
        path.write_bytes(pickle.dumps((_digests(home, files), self.measured)))

    def load(self, path: Path, home: Path) -> None:
        """Take what a file says of tests, and of lines, which have not been changed since."""
        digests, measured = pickle.loads(path.read_bytes())
        current = _digests(home, digests)
        changed = {file for file, digest in digests.items() if current[file] != digest}
        if changed & measured.lines.keys():
            return
        gone = {name for name in measured.seconds if _file(name) in changed}
        for name in gone:
            del measured.seconds[name]
        for lines in measured.lines.values():
            for line, by in lines.items():
                lines[line] = [name for name in by if name not in gone]
        measured.failed.clear()
        self.measured = measured

    def keep(self, names: Iterable[str]) -> None:
        """Forget all other tests."""
        seconds = self.measured.seconds
        for name in seconds.keys() - set(names):
            del seconds[name]

    def is_imported(self, mutant: Mutant) -> bool:
        """Return whether the mutated code is run by an import: then new code for its function would come too late."""
        function = mutant.place.function
        if function is None:
            return True
        body = range(function.body, function.last + 1)
        return not self.imported.get(mutant.file, set()).isdisjoint(body)

    def tests(self, mutant: Mutant, home: Path, folder: str, budget_s: float) -> list[str]:
        """Return the tests that run the mutated line, in the order in which to run them, up to so many seconds."""
        place = mutant.place
        lines = self.measured.lines.get(mutant.file, {})
        if place.function is not None:
            names = {name for line in range(place.first, place.last + 1) for name in lines.get(line, ())}
        else:
            names = set()
        likely: set[str] = set()
        if not names and self.is_imported(mutant):
            # What only imports run tells nothing of who uses it: whoever runs the file, or all.
            names = {name for each in lines.values() for name in each} or set(self.measured.seconds)
            likely = self._mentioning(place.names, home, folder)
            names |= likely
        found = self.found.get(mutant.file, Counter())
        seconds = self.measured.seconds
        # A test that runs little else looks at what it runs.
        breadth = self._breadth()
        ordered = sorted(
            names & seconds.keys(),
            key=lambda name: (-found[name], name not in likely, breadth[name], seconds[name], name),
        )
        chosen: list[str] = []
        total = 0.0
        for name in ordered:
            total += seconds[name]
            if chosen and total > budget_s:
                break
            chosen.append(name)
        return chosen

    def _breadth(self) -> Counter[str]:
        """Return how many lines each test runs."""
        if not self.breadth:
            for lines in self.measured.lines.values():
                for names in lines.values():
                    self.breadth.update(names)
        return self.breadth

    def _mentioning(self, names: Iterable[str], home: Path, folder: str) -> set[str]:
        """Return the tests that run a line with one of these names, or whose files have one."""
        found: set[str] = set()
        if not names:
            return found
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
        for file, lines in self.measured.lines.items():
            for number, text in enumerate((home / file).read_text().splitlines(), 1):
                if pattern.search(text):
                    found.update(lines.get(number, ()))
        # A test of a constant or a default may run no line at all.
        files = {file: home / file for file in _files(self.measured.seconds)}
        naming = {file for file, path in files.items() if path.exists() and pattern.search(path.read_text())}
        return found | {name for name in self.measured.seconds if _file(name) in naming}

    def learn(self, mutant: Mutant, killer: str) -> None:
        """Let the test come early for other mutants of the file."""
        if killer in self.measured.seconds:
            self.found.setdefault(mutant.file, Counter())[killer] += 1
