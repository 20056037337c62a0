"""An earlier release, built as a wheel from the history of this repository.

release = build(RELEASE_0_1_0, folder)
subprocess.run([*release.command, "db", "status", ...], env=release.environment)
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RELEASE_0_1_0 = "6715726"
"""The commit that counts as release 0.1.0."""


@dataclass(frozen=True, slots=True)
class Release:
    """How to run one."""

    command: tuple[str, ...]
    """`whistlestop`."""

    python: tuple[str, ...]
    """An interpreter that imports it."""

    environment: dict[str, str]
    """What the environment has besides."""


CURRENT = Release((sys.executable, "-W", "error", "-m", "whistlestop.server"), (sys.executable,), {})
"""The code of this tree."""


def build(commit: str, folder: Path) -> Release:
    """Build the wheel of a commit and unpack it; its dependencies are those of this environment."""
    archive = subprocess.run(
        ["git", "-c", "safe.directory=*", "archive", commit], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        raise AssertionError(
            f"commit {commit} is not in this clone ({archive.stderr.decode().strip()}): the tests of upgrades need the "
            "whole history, `git fetch --unshallow` brings it"
        )
    source, wheels, site = folder / "source", folder / "wheels", folder / "site"
    tarfile.open(fileobj=io.BytesIO(archive.stdout)).extractall(source, filter="data")  # noqa: SIM115 - of memory
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    # Without `site`, nothing reads the .pth file by which this environment finds the code of this tree.
    python = (sys.executable, "-S")
    path = os.pathsep.join((str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    return Release((*python, "-m", "whistlestop.server"), python, {"PYTHONPATH": path})
