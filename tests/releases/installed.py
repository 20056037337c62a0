"""Install a release of an SDK into a folder, with the sample beside it, and return the command that runs the sample."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILT = HERE.parents[1] / "build" / "releases"


async def run(*words: str | Path, folder: Path, **environment: str) -> tuple[int, str]:
    """Return the exit code of a command and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *words, cwd=folder, env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode(errors="replace")


async def _do(*words: str | Path, folder: Path, **environment: str) -> None:
    code, printed = await run(*words, folder=folder, **environment)
    assert code == 0, f"{words} ended with {code}:\n{printed}"


def _minor(release: str) -> int:
    return int(release.split(".")[1])


async def install(sdk: str, release: str) -> list[str | Path]:
    """Return the command of the sample, which takes the server's address. What was installed before is kept."""
    folder = BUILT / f"{sdk}-{release}"
    folder.mkdir(parents=True, exist_ok=True)
    for source in (HERE / sdk).iterdir():
        if source.is_file():
            shutil.copy(source, folder)
    command, installing = await _INSTALLERS[sdk](folder, release)
    stamp = folder / ".installed"
    if not stamp.exists():
        for words in installing:
            await _do(*words, folder=folder)
        stamp.touch()
    if sdk == "go":
        tags = ["-tags", "current"] if _minor(release) >= _FIRST_CURRENT_GO else []
        await _do("go", "build", "-mod=mod", "-p", "2", *tags, "-o", "sample", ".", folder=folder)
    return command


_FIRST_CURRENT_GO = 28
"""The first minor release whose updates and schedules have the form that `new.go` uses."""

_FIRST_CURRENT_JAVA = 22
"""The same of Java's."""

_Plan = tuple[list[str | Path], list[list[str | Path]]]


async def _python(folder: Path, release: str) -> _Plan:
    python = folder / "venv" / "bin" / "python"
    # Code that was generated for an old protobuf does not load with a new one.
    old = ["protobuf<5"] if _minor(release) < 8 else []
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [python, "sample.py"], [[sys.executable, "-m", "venv", "venv"], [*pip, f"temporalio=={release}", *old]]


async def _typescript(folder: Path, release: str) -> _Plan:
    names = ["activity", "client", "common", "core-bridge", "proto", "worker", "workflow"]
    if _minor(release) < 5:
        names += ["internal-non-workflow-common", "internal-workflow-common"]
    package: dict[str, object] = {
        "private": True,
        "dependencies": {f"@temporalio/{name}": release for name in names},
        # The packages ask for any 1.x of each other and of this one, whose later releases hide what they import.
        "overrides": {"@opentelemetry/api": "1.1.0"} if _minor(release) < 5 else {},
    }
    (folder / "package.json").write_text(json.dumps(package))
    return ["node", "sample.js"], [["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]]


async def _go(folder: Path, release: str) -> _Plan:
    module = folder / "go.mod"
    if not module.exists():
        module.write_text("module sample\n\ngo 1.21\n")
    return [folder / "sample"], [["go", "get", f"go.temporal.io/sdk@v{release}"]]


async def _java(folder: Path, release: str) -> _Plan:
    resolve: list[str | Path] = [
        "mvn", "-q", f"-Drelease={release}", "dependency:build-classpath", "-Dmdep.outputFile=classpath"
    ]  # fmt: skip
    extras = "current" if _minor(release) >= _FIRST_CURRENT_JAVA else "old"
    # Release 1.0.0 reads a private field of Throwable, which Java 17 lets nobody do who was not named.
    run = 'exec java --add-opens=java.base/java.lang=ALL-UNNAMED -cp "classes:$(cat classpath)" Sample "$1"'
    build = f'javac -nowarn -d classes -cp "$(cat classpath)" Sample.java {HERE}/java/{extras}/Extras.java'
    return ["bash", "-c", run, "sample"], [resolve, ["bash", "-c", build]]


_INSTALLERS = {"python": _python, "typescript": _typescript, "go": _go, "java": _java}
