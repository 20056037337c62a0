"""Build a folder per function, and with --zip a zip of it: its own code, what functions share, and pinned libraries.

The same sources and pins give the same bytes, so a bundle contains nothing of the build: no times, no paths, no
record of who installed what. Bytecode is added beside the sources (a function's folder is read-only, so it could not
be saved at the first start), which needs an interpreter of the target's version; without one, it is left out.

Only the standard library is imported here, so that a checkout can build bundles without being installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from whistlestop.deploy.target import Target

LOCK = Path(__file__).with_name("requirements.lock")
DEFAULT = Target("python3.13", "arm64")
TASK_ROOT = "/var/task"
"""Where Lambda unpacks a bundle; file names in tracebacks begin with it."""
EPOCH = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = {"__pycache__", "bin", "RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "py.typed"}
_LEFT_OUT_SUFFIXES = {".pyi", ".pyc", ".proto"}
_SERVERS_ONLY = ("net/http/protocol.py", "net/http/server.py", "net/http/state.py")
"""Modules of the packages of a bundle that need libraries which only servers have (httptools, uvicorn)."""
_COMPILE = """
import compileall, py_compile, sys
done = compileall.compile_dir(
    sys.argv[1], quiet=1, stripdir=sys.argv[1], prependdir=sys.argv[2], force=True,
    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
sys.exit(not done)
"""


class BundleError(Exception):
    """A bundle cannot be built; the message is one line."""


def cache() -> Path:
    """Return the folder where the libraries of targets are cached between builds."""
    if kept := os.environ.get("WHISTLESTOP_BUNDLE_CACHE"):
        return Path(kept)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whistlestop" / "bundle"


def bundle(function: str, target: Target, folder: Path) -> bool:
    """Build the bundle of `function` in `folder`, replacing its content; return whether it has bytecode.

    Raises BundleError.
    """
    libraries = _libraries(target)
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(libraries, folder, dirs_exist_ok=True)
    for portion in (function, "functions", "common", "net", "storage"):
        _copy(_portion(portion), folder / "whistlestop" / portion)
    for module in _SERVERS_ONLY:
        (folder / "whistlestop" / module).unlink()
    interpreter = _interpreter(target)
    if interpreter is None:
        return False
    ordered = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run([interpreter, "-I", "-c", _COMPILE, str(folder), TASK_ROOT], check=True, env=ordered)
    return True


def _portion(name: str) -> Path:
    """Return the folder of `whistlestop.<name>`, in a checkout or in an installation. Raises BundleError."""
    found = importlib.util.find_spec(f"whistlestop.{name}")
    if found is None or not found.submodule_search_locations:
        raise BundleError(f"whistlestop.{name} is not installed")
    return Path(next(iter(found.submodule_search_locations)))


def pack(folder: Path, archive: Path) -> None:
    """Zip a bundle reproducibly: sorted entries, one date and one mode."""
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
            entry.external_attr = 0o100644 << 16
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def size(folder: Path) -> int:
    """Return the size in bytes of all files in the folder, unzipped; 0 if there are none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _libraries(target: Target) -> Path:
    """Return the folder of the target's libraries, installed once for each state of the lock file and this module."""
    key = hashlib.sha256(LOCK.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    home = cache()
    kept = home / f"{target.runtime}-{target.architecture}-{key}"
    if kept.is_dir():
        return kept
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix="installing-") as scratch:
        installed, cleaned = Path(scratch, "installed"), Path(scratch, "cleaned")
        _install(target, installed)
        _strip_temporalio(installed / "temporalio")
        _copy(installed, cleaned)
        try:
            cleaned.rename(kept)
        except OSError:
            if not kept.is_dir():  # otherwise another build was faster
                raise
    return kept


def _install(target: Target, folder: Path) -> None:
    """Install the libraries with pip or, in an environment without it, with uv. Raises BundleError."""
    what = ["--no-deps", "--requirement", str(LOCK), "--target", str(folder)]
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        command += [*what, *target.pip_options()]
    elif (uv := shutil.which("uv")) is not None:
        command = [uv, "pip", "install", "--quiet", *what, *target.uv_options()]
    else:
        raise BundleError("bundles need pip in this environment (python -m ensurepip) or uv on the PATH")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise BundleError(f"the libraries of {target.runtime} on {target.architecture} can't be had: {done.stderr}")


def _strip_temporalio(package: Path) -> None:
    """Keep only the messages: the package itself would load the SDK's native library, so it is emptied."""
    for entry in package.iterdir():
        if entry.name != "api":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (package / "__init__.py").touch()


def _copy(source: Path, to: Path) -> None:
    """Copy everything that a function may read."""

    def unwanted(_: str, names: list[str]) -> set[str]:
        return {name for name in names if name in _LEFT_OUT or Path(name).suffix in _LEFT_OUT_SUFFIXES}

    shutil.copytree(source, to, ignore=unwanted, dirs_exist_ok=True)


def _interpreter(target: Target) -> str | None:
    """Return an interpreter of the target's version: this one, WHISTLESTOP_BUNDLE_PYTHON, or one on the PATH.

    Returns None when there is none.
    """
    if sys.version_info[:2] == target.version:
        return sys.executable
    found = os.environ.get("WHISTLESTOP_BUNDLE_PYTHON") or shutil.which(target.runtime)
    if found is None:
        return None
    ask = "import sys; print(sys.version_info[:2])"
    probe = subprocess.run([found, "-I", "-c", ask], check=False, capture_output=True, text=True)
    return found if probe.returncode == 0 and probe.stdout.strip() == str(target.version) else None
