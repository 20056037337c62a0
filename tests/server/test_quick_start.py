"""A plain command line that starts a server is read without typer, as typer would have read it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
from typer.testing import CliRunner

from whistlestop.server.cli import server as commands
from whistlestop.server.cli.start import quick_start, starting
from whistlestop.server.release import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLES = {"start-dev": quick_start.START_DEV, "start": quick_start.START}
NOT_PLAIN = {"config_file", "help"}
VALUES: dict[str, list[tuple[str, Any]]] = {
    quick_start.TEXT: [("x y", "x y")],
    quick_start.TEXTS: [("a=1", "a=1"), ("b", "b")],
    quick_start.PORT: [("7300", 7300)],
    quick_start.SECONDS: [("2.5", 2.5)],
}


def parameters(command: str) -> dict[str, Any]:
    """Return what typer was told of each parameter."""
    group: Any = typer.main.get_command(commands.app)
    return {each.name: each for each in group.commands[command].params if each.name not in NOT_PLAIN}


def flags_of(name: str) -> list[str]:
    """Return the flags by which the table knows a parameter."""
    short = [flag for flag, named in quick_start.NAMES.items() if named == name]
    return short if name == "drain_s" else [f"--{name.replace('_', '-')}", *short]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Return what starts were asked for, by whichever reader."""
    found: list[tuple[str, dict[str, Any]]] = []

    def note(command: str) -> Any:
        def start(**flags: Any) -> int:
            found.append((command, flags))
            return 0

        return start

    monkeypatch.setattr(starting, "start_dev", note("start-dev"))
    monkeypatch.setattr(starting, "start", note("start"))
    for name in quick_start.FROM_ENVIRONMENT | {"config"}:
        monkeypatch.delenv(f"WHISTLESTOP_{name.upper()}", raising=False)
    return found


def by_typer(arguments: list[str], environment: Mapping[str, str] | None = None) -> None:
    result = CliRunner().invoke(commands.app, arguments[1:], env=dict(environment or {}))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", TABLES)
def test_the_table_has_the_flags_that_typer_has(command: str) -> None:
    told, table = parameters(command), TABLES[command]
    assert sorted(told) == sorted(table)
    for name, each in told.items():
        kind = table[name][0]
        assert sorted([*each.opts, *each.secondary_opts]) == sorted(flags_of(name)), name
        assert (kind == quick_start.TEXTS, kind == quick_start.SWITCH) == (each.multiple, each.is_flag), name
        in_environment = f"WHISTLESTOP_{name.upper()}" if name in quick_start.FROM_ENVIRONMENT else None
        assert each.envvar == in_environment, name


@pytest.mark.parametrize("command", TABLES)
def test_the_defaults_are_those_of_typer(command: str, started: list[tuple[str, dict[str, Any]]]) -> None:
    arguments = ["server", command]
    assert quick_start.run(arguments) == 0
    by_typer(arguments)
    assert started[0] == started[1]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("command", TABLES)
def test_values_are_read_as_typer_reads_them(
    command: str, joined: bool, started: list[tuple[str, dict[str, Any]]]
) -> None:
    for name, (kind, _) in TABLES[command].items():
        for flag in flags_of(name):
            arguments = ["server", command]
            for text, _ in VALUES.get(kind, [("", True)]):
                if kind == quick_start.SWITCH:
                    arguments.append(flag)
                elif joined and flag.startswith("--"):
                    arguments.append(f"{flag}={text}")
                else:
                    arguments += [flag, text]
            started.clear()
            assert quick_start.run(arguments) == 0, arguments
            by_typer(arguments)
            assert started[0] == started[1], arguments
            values = [value for _, value in VALUES.get(kind, [("", True)])]
            assert started[0][1][name] == (values if kind == quick_start.TEXTS else values[-1])


def test_the_last_of_several_values_counts(started: list[tuple[str, dict[str, Any]]]) -> None:
    arguments = ["server", "start-dev", "--port", "1", "--ip", "a", "--port=2", "--ip", "b"]
    assert quick_start.run(arguments) == 0
    by_typer(arguments)
    assert started[0] == started[1]


def test_the_environment_is_read_as_typer_reads_it(
    started: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"WHISTLESTOP_DATABASE_URL": "postgresql://x/y", "WHISTLESTOP_INTERNAL_SECRET": ""}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = ["server", "start", "--internal-secret-file", "f"]
    assert quick_start.run(arguments) == 0
    by_typer(arguments, environment)
    assert started[0] == started[1]
    assert started[0][1]["database_url"] == "postgresql://x/y"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "server",
        "server start-dev --help",
        "server start-dev -h",
        "server start-dev extra",
        "server start-dev --no-such-flag",
        "server start-dev --db_filename x",
        "server start-dev --drain-s 1",
        "server start --drain-s 1",
        "server start-dev --port",
        "server start-dev --port -1",
        "server start-dev --port 65536",
        "server start-dev --port ten",
        "server start-dev --port ٣",
        "server start-dev --headless=true",
        "server start-dev --ip --headless",
        "server start-dev -p7233",
        "server start --drain soon",
        "server start --config x",
        "server nothing",
        "workflow list",
    ],
)
def test_other_command_lines_are_left_to_typer(arguments: str) -> None:
    assert quick_start.plain(arguments.split(), {}) is None


@pytest.mark.parametrize(
    "name",
    ["WHISTLESTOP_CONFIG", "WHISTLESTOP_ALLOW_ANONYMOUS", "WHISTLESTOP_ALLOW_OUTBOUND", "WHISTLESTOP_INTERNAL_PORT"],
)
def test_an_environment_that_is_not_plain_is_left_to_typer(name: str) -> None:
    assert quick_start.plain(["server", "start"], {name: "1"}) is None


def test_the_release_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION
