"""Which tests can notice a mutant: those that run its line, the likely and quick ones first."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.mutation.forks import Measured

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.mutation.mutants import Mutant


@dataclass(slots=True)
class Choice:
    """The map of lines to tests, and what was learned since."""

    imported: dict[str, set[int]]
    """By file, the lines that are run while modules are imported."""
    measured: Measured = field(default_factory=Measured)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    """By file, how many mutants each test has found."""

    def add(self, part: Measured) -> None:
        """Take in what one of several servers has measured."""
        self.measured.seconds.update(part.seconds)
        self.measured.failed.extend(part.failed)
        for file, lines in part.lines.items():
            known = self.measured.lines.setdefault(file, {})
            for line, names in lines.items():
                known.setdefault(line, []).extend(names)

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
            likely: set[str] = set()
        else:
            # Outside of functions nothing tells who uses it: whoever runs the file, or all.
            names = {name for each in lines.values() for name in each} or set(self.measured.seconds)
            likely = self._mentioning(place.names, home, folder)
            names |= likely
        found = self.found.get(mutant.file, Counter())
        seconds = self.measured.seconds
        ordered = sorted(
            names & seconds.keys(), key=lambda name: (-found[name], name not in likely, seconds[name], name)
        )
        chosen: list[str] = []
        total = 0.0
        for name in ordered:
            total += seconds[name]
            if chosen and total > budget_s:
                break
            chosen.append(name)
        return chosen

    def _mentioning(self, names: Iterable[str], home: Path, folder: str) -> set[str]:
        """Return the tests that run a line with one of these names."""
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b") if names else None
        found: set[str] = set()
        for file, lines in self.measured.lines.items() if pattern else ():
            for number, text in enumerate((home / file).read_text().splitlines(), 1):
                if pattern is not None and pattern.search(text):
                    found.update(lines.get(number, ()))
        return found

    def learn(self, mutant: Mutant, killer: str) -> None:
        """Let the test come early for other mutants of the file."""
        if killer in self.measured.seconds:
            self.found.setdefault(mutant.file, Counter())[killer] += 1
