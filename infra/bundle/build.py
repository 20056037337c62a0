"""One folder per function, and with --zip a zip of it: its own root, common, storage, and the pinned libraries.

Rules of this file: the same sources and the same pins give the same bytes. So nothing of the build gets in: no times,
no paths, no record of who installed what. Bytecode is put beside the sources (a function's folder is read-only, so it
could not be kept at the first start), which takes an interpreter of the target's version; without one, it is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from infra.bundle.target import FUNCTIONS, Target

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path(__file__).with_name("requirements.lock")
CACHE = ROOT / "build" / "bundle"
DEFAULT = Target("python3.13", "arm64")
TASK_ROOT = "/var/task"
"""Where Lambda unpacks a bundle; tracebacks name files by it."""
EPOCH = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = {"__pycache__", "bin", "RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "py.typed"}
_LEFT_OUT_SUFFIXES = {".pyi", ".pyc", ".proto"}
_COMPILE = """
import compileall, py_compile, sys
done = compileall.compile_dir(
    sys.argv[1], quiet=1, stripdir=sys.argv[1], prependdir=sys.argv[2], force=True,
    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
sys.exit(not done)
"""


def bundle(function: str, target: Target, folder: Path) -> None:
    """Make `folder` the bundle of `function`; what it holds already is replaced."""
    libraries = _libraries(target)
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(libraries, folder, dirs_exist_ok=True)
    roots = (f"services/{function}", "services/common", "storage")
    for root in roots:
        _copy(ROOT / root / "whistlestop", folder / "whistlestop")
    interpreter = _interpreter(target)
    if interpreter is None:
        print(f"no {target.runtime} here: the bundle goes without bytecode, and starts more slowly", file=sys.stderr)
        return
    ordered = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run([interpreter, "-I", "-c", _COMPILE, str(folder), TASK_ROOT], check=True, env=ordered)


def pack(folder: Path, archive: Path) -> None:
    """Zip a bundle, with entries in order, one date and one mode."""
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
            entry.external_attr = 0o100644 << 16
            packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def size(folder: Path) -> int:
    """Unzipped, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _libraries(target: Target) -> Path:
    """The folder of the target's libraries, installed once for each state of the lock file and of this one."""
    key = hashlib.sha256(LOCK.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    kept = CACHE / f"{target.runtime}-{target.architecture}-{key}"
    if kept.is_dir():
        return kept
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="installing-") as scratch:
        installed, cleaned = Path(scratch, "installed"), Path(scratch, "cleaned")
        subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
                "--no-deps", "--requirement", str(LOCK), "--target", str(installed), *target.pip_options(),
            ],
            check=True,
        )  # fmt: skip
        _strip_temporalio(installed / "temporalio")
        _copy(installed, cleaned)
        try:
            cleaned.rename(kept)
        except OSError:
            if not kept.is_dir():  # else another build was first
                raise
    return kept


def _strip_temporalio(package: Path) -> None:
    """Keep the messages; the package around them would load the SDK's native library, so it becomes an empty one."""
    for entry in package.iterdir():
        if entry.name != "api":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (package / "__init__.py").touch()


def _copy(source: Path, to: Path) -> None:
    """All but what no function reads."""

    def unwanted(_: str, names: list[str]) -> set[str]:
        return {name for name in names if name in _LEFT_OUT or Path(name).suffix in _LEFT_OUT_SUFFIXES}

    shutil.copytree(source, to, ignore=unwanted, dirs_exist_ok=True)


def _interpreter(target: Target) -> str | None:
    """One of the target's version: this one, the one that WHISTLESTOP_BUNDLE_PYTHON names, or one on the path."""
    if sys.version_info[:2] == target.version:
        return sys.executable
    found = os.environ.get("WHISTLESTOP_BUNDLE_PYTHON") or shutil.which(target.runtime)
    if found is None:
        return None
    ask = "import sys; print(sys.version_info[:2])"
    probe = subprocess.run([found, "-I", "-c", ask], check=False, capture_output=True, text=True)
    return found if probe.returncode == 0 and probe.stdout.strip() == str(target.version) else None


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.bundle", description=__doc__)
    parser.add_argument("functions", nargs="*", metavar="function", help=f"of {', '.join(FUNCTIONS)}; none named: all")
    parser.add_argument("--runtime", default=DEFAULT.runtime, help="Lambda runtime (%(default)s)")
    parser.add_argument("--architecture", default=DEFAULT.architecture, help="arm64 or x86_64 (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "functions", help="folder of the bundles")
    parser.add_argument("--exactly", action="store_true", help="one function: --output itself becomes its bundle")
    parser.add_argument("--zip", action="store_true", help="also write <function>.zip")
    given = parser.parse_args(arguments)
    functions: list[str] = given.functions or list(FUNCTIONS)
    unknown = sorted(set(functions) - set(FUNCTIONS))
    if unknown:
        parser.error(f"no such function: {', '.join(unknown)}")
    if given.exactly and len(functions) != 1:
        parser.error("--exactly takes one function")
    try:
        target = Target(given.runtime, given.architecture)
    except ValueError as error:
        parser.error(str(error))
    for function in functions:
        folder: Path = given.output if given.exactly else given.output / function
        bundle(function, target, folder)
        print(f"{function}: {size(folder) / 1e6:.1f} MB in {folder}")
        if given.zip:
            pack(folder, folder.with_suffix(".zip"))
    return 0
