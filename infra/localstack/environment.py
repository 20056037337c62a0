"""The environments of LocalStack and SAM, built under `.localstack/` and rebuilt when their lock files change.

They are separate from each other and from the project's own, because each pins an incompatible version of boto3:

    localstack/   LocalStack with the plugins of `plugin/`
    runtime/      the packages of Lambda's Python runtimes; functions run in it
    sam/          `sam` and `cfn-lint`
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("WHISTLESTOP_LOCALSTACK_HOME") or HERE.parents[1] / ".localstack")
PLUGIN = HERE / "plugin"
NAMES = ("localstack", "runtime", "sam")


def ensure(name: str) -> Path:
    """Return the folder of an environment's commands, building it if it is missing or outdated."""
    folder = HOME / name
    with _alone(name):
        if not _stands(folder / ".installed", wanted := _fingerprint(HERE / f"{name}.lock")):
            print(f"building the environment `{name}` in {folder}", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            _pip(folder, "--requirement", str(HERE / f"{name}.lock"))
            (folder / ".installed").write_text(wanted, "ascii")
        if name == "localstack":
            sources = sorted(path for path in PLUGIN.rglob("*") if path.suffix in {".py", ".toml"})
            if not _stands(folder / ".plugin", wanted := _fingerprint(*sources)):
                _pip(folder, "--force-reinstall", "--no-deps", str(PLUGIN))
                (folder / ".plugin").write_text(wanted, "ascii")
    return folder / "bin"


def _pip(folder: Path, *arguments: str) -> None:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *arguments], check=True)


def _stands(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text("ascii") == wanted


def _fingerprint(*files: Path) -> str:
    """Return a hash of the interpreter and the contents of these files."""
    digest = hashlib.sha256(f"{sys.base_prefix} {sys.version}".encode())
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Let one builder run at a time; the others then find the environment built."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
