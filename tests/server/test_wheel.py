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
    deploy = "whistlestop/deploy"
    assert {f"{deploy}/template.yaml", f"{deploy}/requirements.lock"} - names == set()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that holds the wheel and what it depends on, and nothing of the dev group."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(environment, with_pip=False)
    # By the pip that is here, and nothing compiled that is not run: half the time of this test would go into that.
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", str(wheel)], check=True)
    return environment / "bin"


def clean_environ() -> dict[str, str]:
    """Return the environment of somebody who has no checkout, no credentials and no region."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "AWS_", "TEMPORAL_", "WHISTLESTOP_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    return {
        **kept,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


_IMPORT_ALL = """
import importlib, pathlib, whistlestop
folder = pathlib.Path(list(whistlestop.__path__)[0])
paths = [path.relative_to(folder.parent).with_suffix("") for path in sorted(folder.rglob("*.py"))]
names = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__"]
for name in names:
    importlib.import_module(name)
from whistlestop.deploy import template
print(len(names), len(template.load()["Resources"]))
"""


def test_every_module_can_be_imported(installed: Path, tmp_path: Path) -> None:
    """Without the packages that only developers install; the template of `deploy aws` is read as well."""
    done = subprocess.run(
        [installed / "python", "-c", _IMPORT_ALL], capture_output=True, text=True, check=False, env=clean_environ(),
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    modules, resources = map(int, done.stdout.split())
    assert modules > 300
    assert resources > 20


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("server start --database-url mysql://x", "--database-url must begin with postgresql://"),
        ("db status --db-filename none.db", "there is no file none.db"),
        ("db check --db-filename none.db", "there is no file none.db"),
        ("workflow list --address 127.0.0.1:1", "no server answers at 127.0.0.1:1"),
        ("workflow show x --address 127.0.0.1:1", "no server answers at 127.0.0.1:1"),
        ("task-queue describe q --address 127.0.0.1:1", "no server answers at 127.0.0.1:1"),
        ("cluster members --db-filename none.db", "there is no file none.db"),
        ("deploy aws --dry-run", "no region is named"),
        ("deploy aws --dry-run --region eu-central-1 --database-url postgresql://h/x", "no AWS credentials were found"),
        ("destroy aws --dry-run", "no region is named"),
        ("destroy aws --dry-run --region eu-central-1", "no AWS credentials were found"),
        ("bridge", "--target"),
    ],
)
def test_the_first_step_of_every_command(installed: Path, tmp_path: Path, arguments: str, complaint: str) -> None:
    """Each ends with a line that says what to do, and with no traceback."""
    done = subprocess.run(
        [installed / "whistlestop", *arguments.split()], capture_output=True, text=True, check=False,
        env=clean_environ(), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_clean_environment_runs_it(installed: Path, tmp_path: Path) -> None:
    """`pip install` and then the command: its version, and a server that comes up and goes down."""
    command = installed / "whistlestop"
    clean = clean_environ()
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
        assert server.wait(300) == 0
    finally:
        if server.poll() is None:
            server.kill()
        server.communicate()


def _announced_port(server: subprocess.Popen[bytes]) -> int:
    assert server.stdout is not None
    text, deadline = b"", time.monotonic() + 300
    while time.monotonic() < deadline:
        if select.select([server.stdout], [], [], 1)[0]:
            chunk = os.read(server.stdout.fileno(), 65536)
            assert chunk, f"the server ended: {text!r}"
            text += chunk
        found = re.search(rb"gRPC: .*:(\d+)\n[^$]*State:", text)
        if found:
            return int(found[1])
    raise AssertionError(f"nothing announced: {text!r}")
