"""Planting defects into a copy of the sources, and looking who finds them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
ROOTS = ("services", "storage", "tests")
SUITE_S = 1800


class Stale(AssertionError):
    """A defect names a text that the sources do not have (once) any more: write it anew."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One text that takes the place of another."""

    file: str
    old: str
    new: str

    def apply(self, folder: Path) -> None:
        path = folder / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise Stale(f"{self.file} has {text.count(self.old)} times, not once: {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True, slots=True)
class Defect:
    """Something wrong to be found by the simulation, or by a named suite."""

    name: str
    edits: tuple[Edit, ...]
    suite: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What found it, and what it said."""

    defect: Defect
    found_by: str
    seeds: int
    """That were run until one failed (or none)."""
    seconds: float
    said: str

    def row(self) -> str:
        """For the table."""
        by = self.found_by or "**nothing**"
        return f"| {self.defect.name} | {by} | {self.seeds or ''} | {self.seconds:.0f} s | {self.said} |"


def defects() -> list[Defect]:
    """All of `defects.toml`."""
    data = tomllib.loads(Path(__file__).with_name("defects.toml").read_text())
    return [
        Defect(each["name"], tuple(Edit(**edit) for edit in each["edits"]), each.get("suite", ""))
        for each in data["defect"]
    ]


def copy_sources(folder: Path) -> None:
    """What is edited and run, without what was built from it."""
    ignored = shutil.ignore_patterns("__pycache__", "node_modules", "*.db")
    for root in ROOTS:
        shutil.copytree(HOME / root, folder / root, ignore=ignored, symlinks=True)
    shutil.copy(HOME / "pyproject.toml", folder)


def environment(folder: Path) -> dict[str, str]:
    """Imports come from the copy."""
    roots = [folder / "storage", *sorted(path for path in (folder / "services").iterdir() if path.is_dir())]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [folder, *roots])), "PYTHONDONTWRITEBYTECODE": "1"}


def hunt(defect: Defect, folder: Path, first: int, most_seeds: int, jobs: int) -> Finding:
    """Plant it in the copy in `folder`, look for it, and take it out again."""
    before = {edit.file: (folder / edit.file).read_text() for edit in defect.edits}
    began = time.monotonic()
    try:
        for edit in defect.edits:
            edit.apply(folder)
        if defect.suite:
            found_by, seeds, said = _by_suite(defect, folder)
        else:
            found_by, seeds, said = _by_simulation(folder, first, most_seeds, jobs)
    finally:
        for file, text in before.items():
            (folder / file).write_text(text)
    return Finding(defect, found_by, seeds, time.monotonic() - began, said)


def _by_simulation(folder: Path, first: int, most_seeds: int, jobs: int) -> tuple[str, int, str]:
    command = [
        sys.executable, "-m", "tests.simulation", "--first", str(first), "--seeds", str(most_seeds), "--jobs", str(jobs),
        "--until-failure",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    failed = re.search(r"^seed (\d+) failed", done.stdout, re.MULTILINE)
    ran = re.search(r"^(\d+) seeds, ", done.stdout, re.MULTILINE)
    if failed is None:
        assert ran is not None, done.stderr[-2000:]
        return "", int(ran.group(1)), ""
    said = re.search(r"^(?:\w+\.)*(?:AssertionError|\w+Error|Stuck): (.*)$", done.stdout, re.MULTILINE)
    seed = int(failed.group(1))
    return f"simulation, seed {seed}", seed - first + 1, _short(said.group(1) if said else "")


def _by_suite(defect: Defect, folder: Path) -> tuple[str, int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *defect.suite.split()]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=SUITE_S
    )
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return (f"`{failed.group(1)}`" if failed else ""), 0, ""


def _short(text: str) -> str:
    """A line for the table: without ids."""
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "…", text).replace("|", "/")[:110]
