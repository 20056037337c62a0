"""The command line's own help, walked to its leaves."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

from tests.parity.servers import cli

_COMMAND = re.compile(r"^ {2}([\w-]+)")
# Runs by itself, though it has a command below it.
_ALSO_RUNS = re.compile(r"^Usage:\n(?:.*\n)*? {2}temporal .*\[flags\]$", re.MULTILINE)


def leaves() -> set[str]:
    """Every command that does something, as its path."""
    found: set[str] = set()
    level: list[tuple[str, ...]] = [()]
    with ThreadPoolExecutor(4) as pool:
        while level:
            below: list[tuple[str, ...]] = []
            for path, text in zip(level, pool.map(_help, level), strict=True):
                names = _names(text)
                if path and (not names or _ALSO_RUNS.search(text)):
                    found.add(" ".join(path))
                below += [(*path, name) for name in names]
            level = below
    return found


def _help(path: tuple[str, ...]) -> str:
    return subprocess.run([cli(), *path, "--help"], capture_output=True, text=True, check=True).stdout


def _names(text: str) -> list[str]:
    """The names below "Available Commands", up to the next heading."""
    if "Available Commands:\n" not in text:
        return []
    names = []
    for line in text.split("Available Commands:\n", 1)[1].splitlines():
        if line and not line.startswith(" "):
            break
        if (found := _COMMAND.match(line)) and found.group(1) != "help":
            names.append(found.group(1))
    return names
