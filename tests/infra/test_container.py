"""The container, as far as it can be checked without building it: paths, commands, the wheel that goes into it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.patience import PATIENCE_S
from whistlestop.server.cli.app import GROUPS
from whistlestop.server.cli.server import app as server_commands

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra" / "container"
ENVIRONMENT = re.compile(r"WHISTLESTOP_[A-Z_]+")


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest) of the Dockerfile."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def of(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def copied() -> list[str]:
    """What is copied from the build context."""
    sources = []
    for rest in of("COPY"):
        *names, _ = (word for word in shlex.split(rest) if not word.startswith("--"))
        sources += [] if "--from" in rest else names
    return sources


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return found


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The flags of `whistlestop server start`, as the command understands them. Raises click's errors."""
    assert arguments[:2] == ["server", "start"]
    assert "server" in GROUPS
    return dict(_start_command().make_context("start", arguments[2:]).params)


def _start_command() -> Any:
    group: Any = typer.main.get_command(server_commands)
    return group.commands["start"]


def test_copied_files_exist() -> None:
    missing = [name for name in copied() if not (ROOT / name).exists()]
    assert (missing, len(copied()) > 3) == ([], True)


def test_the_container_does_not_run_as_root() -> None:
    """By number, so that an orchestrator can tell that it is not root."""
    assert all(rest.isdecimal() and rest != "0" for rest in of("USER"))
    last_user = max(n for n, (word, _) in enumerate(instructions()) if word == "USER")
    assert all(word not in {"RUN", "COPY"} for word, _ in instructions()[last_user:])


def test_its_command_is_one_that_the_server_takes() -> None:
    [entry], [command] = of("ENTRYPOINT"), of("CMD")
    assert yaml.safe_load(entry) == ["whistlestop"]
    assert [point.value for point in entry_points(group="console_scripts", name="whistlestop")]
    flags = parsed(yaml.safe_load(command))
    assert (flags["ip"], flags["port"], flags["http_port"], flags["metrics_port"]) == ("0.0.0.0", 7233, 7243, 9090)
    assert flags["metrics_ip"] == "0.0.0.0"


def test_the_commands_of_compose_fit_together() -> None:
    """Each URL leads to a service, at the port of its internal endpoint."""
    services = compose()["services"]
    roles = {name: parsed(each["command"]) for name, each in services.items() if "command" in each}
    assert {name: flags["services"] for name, flags in roles.items()} == {
        "frontend": "frontend", "history": "history", "matching": "matching"
    }  # fmt: skip
    for name in roles:
        environment = services[name]["environment"]
        for other in {"history", "matching"} - {name}:
            expected = f"http://{other}:{roles[other]['internal_port']}"
            assert environment[f"WHISTLESTOP_{other.upper()}_URL"] == expected
        assert environment["WHISTLESTOP_INTERNAL_SECRET"]


def test_the_environment_is_what_the_server_reads() -> None:
    """No variable is misspelt."""
    written = set(ENVIRONMENT.findall((FOLDER / "compose.yaml").read_text() + (FOLDER / "Dockerfile").read_text()))
    read = {name for option in _start_command().params for name in _names(option.envvar)}
    assert written <= read | {"WHISTLESTOP_HEALTH_URL"}


def _names(envvar: Any) -> list[str]:
    return [envvar] if isinstance(envvar, str) else list(envvar or ())


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (0, 1)])
def test_the_health_check_connects_to_the_port(status: int, code: int) -> None:
    """Status 0: nobody listens."""

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port if status else 9}/healthz"
        done = subprocess.run(
            [sys.executable, str(FOLDER / "healthy.py")], env={**os.environ, "WHISTLESTOP_HEALTH_URL": url}, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip
        server.shutdown()
        thread.join()
    assert done.returncode == code


@pytest.mark.slow
def test_the_wheel_is_built_from_what_is_copied_and_runs(tmp_path: Path) -> None:
    """As the first stage does it, without the network: the build backend of this environment, and no dependencies."""
    source, site = tmp_path / "src", tmp_path / "site"
    source.mkdir()
    for name in copied():
        if name.startswith("infra/container/"):
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)], check=True,
        timeout=PATIENCE_S,
    )  # fmt: skip
    [wheel] = tmp_path.glob("whistlestop-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True, timeout=PATIENCE_S
    )
    code = (
        "import sys, whistlestop.server.internal_endpoint as endpoint, whistlestop.bridge as bridge\n"
        "assert all(module.__file__.startswith(sys.argv[1]) for module in (endpoint, bridge)), endpoint.__file__\n"
        "from whistlestop.server.cli.app import run\n"
        "sys.exit(run(['server', 'start', '--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--internal-port" in done.stdout
