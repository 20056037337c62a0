"""Every command of the README is run by somebody: here the cheap ones, and the two make targets by CI itself."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.patience import PATIENCE_S
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"^```(\w+) (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text("utf-8")


def blocks(tag: str) -> list[str]:
    """The fenced blocks with that word behind the language."""
    return [text for _, found, text in BLOCK.findall(README) if found == tag]


def commands(tag: str) -> list[list[str]]:
    """Their commands, a continued line as one."""
    joined = "\n".join(blocks(tag)).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.strip()]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_every_block_has_a_tag_that_is_tested() -> None:
    """A new block must say who runs it."""
    fences = re.findall(r"^```(.+)$", README, re.MULTILINE)
    assert {fence.partition(" ")[2] for fence in fences} == {"make", "install", "server", "sdk", "look", "http"}


def test_the_two_commands_are_make_targets_and_ci_runs_the_test_command() -> None:
    """CI runs lint, exactly the README's test command, and what needs more than that; `make check` is the same."""
    assert commands("make") == [["make", "demo"], ["make", "test"]]
    assert {"demo", "test", "lint", "check"} <= make_targets()
    runs = re.findall(r"^(make [\w-]+) ", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert runs == ["make lint", "make test", "make test-infra", "make test-typescript"]
    assert re.search(
        r"^check: lint test test-infra test-typescript$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )


def test_links_lead_somewhere() -> None:
    """Files that the README points to are there."""
    targets = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_install_line_is_what_the_wheel_test_does() -> None:
    """tests/server/test_wheel.py builds the package and installs it into a clean environment."""
    assert commands("install") == [["pip", "install", "."]]


@pytest.fixture(scope="module")
def quick_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The README's server, on other ports than the README's, after its SDK program has run against it."""
    folder = tmp_path_factory.mktemp("readme")
    ports = {"127.0.0.1:7233": f"127.0.0.1:{free_port()}", "127.0.0.1:7243": f"127.0.0.1:{free_port()}"}
    (arguments,) = commands("server")
    arguments[arguments.index("7243")] = ports["127.0.0.1:7243"].rpartition(":")[2]
    arguments += ["--port", ports["127.0.0.1:7233"].rpartition(":")[2]]
    server = subprocess.Popen(
        [BIN / arguments[0], *arguments[1:]], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    ready, output = threading.Event(), []

    def read() -> None:
        assert server.stdout is not None
        for line in server.stdout:
            output.append(line)
            if line.startswith("State:"):
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(PATIENCE_S), output
        program = folder / "greeting.py"
        (text,) = blocks("sdk")
        program.write_text(_moved(text, ports), "utf-8")
        done = subprocess.run(
            [sys.executable, program], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        # The SDK's native threads now and then crash an interpreter that shuts down (SIGABRT, SIGSEGV).
        assert done.returncode in {0, -signal.SIGABRT, -signal.SIGSEGV}, done.stderr
        assert done.stdout == "Hello, world!\n"
        yield folder, ports
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(PATIENCE_S)
        reader.join(PATIENCE_S)
        assert server.stdout is not None
        server.stdout.close()
    assert code == 0, output


@pytest.mark.sdk
@pytest.mark.parametrize("arguments", commands("look"), ids=" ".join)
def test_inspecting_commands_of_the_readme(quick_start: tuple[Path, dict[str, str]], arguments: list[str]) -> None:
    """Each of the commands succeeds and says something."""
    folder, ports = quick_start
    environment = {**os.environ, "TEMPORAL_ADDRESS": ports["127.0.0.1:7233"]}
    done = subprocess.run(
        [BIN / arguments[0], *arguments[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.sdk
@pytest.mark.parametrize("arguments", commands("http"), ids=lambda arguments: str(arguments[2]))
def test_http(quick_start: tuple[Path, dict[str, str]], arguments: list[str]) -> None:
    """Each of the curl lines gets the workflow that the SDK program ran; without curl, as curl would ask."""
    import httpx

    _, ports = quick_start
    url = _moved(next(argument for argument in arguments if argument.startswith("http://")), ports)
    body = arguments[arguments.index("-d") + 1] if "-d" in arguments else None
    headers = dict([arguments[arguments.index("-H") + 1].split(": ")]) if "-H" in arguments else {}
    answer = httpx.request("POST" if body else "GET", url, headers=headers, content=body)
    assert answer.status_code == 200, answer.text
    if body is None:
        assert answer.json()["workflowExecutionInfo"]["execution"]["workflowId"] == "greeting-1"
    else:
        assert answer.json() == {"count": "1"}


def _moved(text: str, ports: dict[str, str]) -> str:
    for theirs, ours in ports.items():
        text = text.replace(theirs, ours)
    return text
