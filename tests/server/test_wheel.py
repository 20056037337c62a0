"""The built wheel, installed into a clean environment, gives a working command."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release would be, without reaching for build requirements."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_portion(wheel: Path) -> None:
    """Code, migrations and type markers of all roots, and no file that would hide the namespace."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "whistlestop/__init__.py" not in names
    sources = {
        str(path.relative_to(root))
        for pattern in ("services/*", "storage")
        for root in ROOT.glob(pattern)
        for path in root.glob("whistlestop/**/*")
        if path.suffix in {".py", ".pyi", ".sql", ".typed", ".lark"} or path.name == "py.typed"
    }
    assert sources - names == set()
    # What `whistlestop deploy aws` needs besides code.
    deploy = "whistlestop/server/deploy"
    assert {f"{deploy}/template.yaml", f"{deploy}/requirements.lock"} - names == set()


def test_a_clean_environment_runs_it(wheel: Path, tmp_path: Path) -> None:
    """`pip install` and then the command: its version, and a server that comes up and goes down."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    command = environment / "bin" / "whistlestop"
    # By the pip that is here, and nothing compiled that is not run: half the time of this test would go into that.
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", str(wheel)], check=True)
    clean = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    version = subprocess.run(
        [command, "--version"], capture_output=True, text=True, check=True, env=clean, cwd=tmp_path
    )
    assert version.stdout.startswith("whistlestop ")
    server = subprocess.Popen(
        [command, "server", "start-dev", "--port", "0", "--headless", "--db-filename", str(tmp_path / "state.db")],
        stdout=subprocess.PIPE, env=clean, cwd=tmp_path,
    )  # fmt: skip
    try:
        port = _announced_port(server)
        listed = subprocess.run(
            [command, "workflow", "list", "--address", f"127.0.0.1:{port}", "-o", "json"],
            capture_output=True, text=True, check=False, env=clean, cwd=tmp_path,
        )  # fmt: skip
        assert (listed.returncode, listed.stdout.strip()) == (0, "[]"), listed.stderr
        server.terminate()
        assert server.wait(30) == 0
    finally:
        if server.poll() is None:
            server.kill()
        server.communicate()


def _announced_port(server: subprocess.Popen[bytes]) -> int:
    assert server.stdout is not None
    text, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([server.stdout], [], [], 1)[0]:
            chunk = os.read(server.stdout.fileno(), 65536)
            assert chunk, f"the server ended: {text!r}"
            text += chunk
        found = re.search(rb"gRPC: .*:(\d+)\n[^$]*State:", text)
        if found:
            return int(found[1])
    raise AssertionError(f"nothing announced: {text!r}")
