"""`server start --config`: flags from a file, under the environment and the command line, checked as a whole."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from whistlestop.server.cli import server as commands
from whistlestop.server.cli import starting
from whistlestop.server.cli.errors import CommandError
from whistlestop.server.cli.server_file import ServerFile

if TYPE_CHECKING:
    from whistlestop.server.config import ServerConfig

FULL = """
port = 7300
http_port = 7301
database_url = "postgresql://u:hidden@db/name"
services = ["frontend", "matching"]
history_url = ["http://h1:7240", "http://h2:7240"]
namespace = ["orders"]
drain = 2
dynamic_config_value = { "limit.maxIDLength" = 200 }
search_attribute = { Customer = "Keyword" }
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """What servers would be started with."""
    found: list[ServerConfig] = []

    def run(config: ServerConfig, *_: Any) -> int:
        found.append(config)
        return 0

    monkeypatch.setattr(starting, "_run", run)
    return found


def start(tmp_path: Path, text: str, *flags: str, **environment: str) -> BaseException | None:
    path = tmp_path / "server.toml"
    path.write_text(text)
    result = CliRunner().invoke(commands.app, ["start", "--config", str(path), *flags], env=environment)
    return None if isinstance(result.exception, SystemExit) and result.exit_code == 0 else result.exception


def test_flags_come_from_the_file(tmp_path: Path, started: list[ServerConfig]) -> None:
    assert start(tmp_path, FULL) is None
    (config,) = started
    assert (config.port, config.http_port, config.metrics_port, config.drain_s) == (7300, 7301, None, 2.0)
    assert config.store.database_url == "postgresql://u:hidden@db/name"
    assert sorted(config.roles) == ["frontend", "matching"]
    assert config.history_urls == ("http://h1:7240", "http://h2:7240")
    assert config.namespaces == ("default", "orders")
    assert {key.lower(): value for key, value in config.dynamic.values.items()} == {"limit.maxidlength": 200}
    assert config.search_attributes == {"Customer": 2}


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, started: list[ServerConfig]
) -> None:
    text = "".join(line for line in FULL.splitlines(keepends=True) if not line.startswith(("services", "history_url")))
    environment = {"WHISTLESTOP_DATABASE_URL": "postgresql://env/name", "WHISTLESTOP_INTERNAL_PORT": "7310"}
    assert start(tmp_path, f"{text}\ninternal_port = 7309", "--port", "7400", **environment) is None
    (config,) = started
    assert (config.port, config.internal_port, config.store.database_url) == (7400, 7310, "postgresql://env/name")


def test_all_that_is_wrong_is_said_at_once_and_no_secret(tmp_path: Path, started: list[ServerConfig]) -> None:
    text = (
        'port = 70000\ndatabase_url = "mysql://u:hidden@db"\nservices = ["worker"]\nprot = 1\nallow_anonymous = "yes"'
    )
    error = start(tmp_path, text)
    assert isinstance(error, CommandError)
    assert error.exit_code == 2
    lines = str(error).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["port", "database_url", "services.0", "allow_anonymous", "prot"]
    assert "less than or equal to 65535" in lines[0]
    assert "hidden" not in str(error)
    assert started == []


@pytest.mark.parametrize("text", ["port = ", "[[["])
def test_a_file_that_is_not_toml(tmp_path: Path, text: str, started: list[ServerConfig]) -> None:
    error = start(tmp_path, text)
    assert isinstance(error, CommandError)
    assert "is not TOML" in str(error)


def test_the_file_takes_every_flag_of_the_command() -> None:
    """But the secret itself, which belongs in a file of its own or in the environment."""
    import typer.main

    command = typer.main.get_command(commands.app)
    flags = {parameter.name for parameter in command.commands["start"].params}  # type: ignore[attr-defined]
    assert set(ServerFile.model_fields) | {"config_file", "internal_secret", "help"} == (
        flags - {"drain_s"} | {"drain", "help"}
    )


def test_the_documented_file_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    text = page.partition("```toml\n")[2].partition("```")[0]
    assert ServerFile.model_validate(tomllib.loads(text)).namespace == ["orders"]
