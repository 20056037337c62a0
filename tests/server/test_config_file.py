"""`server start --config`: flags from a file, under the environment and the command line, checked as a whole."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from whistlestop.server.cli import config as config_commands
from whistlestop.server.cli import server as commands
from whistlestop.server.cli.errors import CommandError
from whistlestop.server.cli.start import starting
from whistlestop.server.cli.start.server_file import ServerFile
from whistlestop.server.settings.dynamic_config import HONOURED, SECTIONS, DynamicConfig

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


def test_all_mistakes_are_reported_at_once_without_secrets(tmp_path: Path, started: list[ServerConfig]) -> None:
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


# ---- whistlestop config show -----------------------------------------------------------------------------------------

DYNAMIC = """
limit.maxIDLength: [{value: 255}]
limit.blobSize.warn: [{value: 1}]
frontend.enableSchedules: [{value: false, constraints: {namespace: orders}}]
history.enableChasm: [{value: true}]
"""


def shown(*arguments: str, env: dict[str, str] | None = None) -> dict[str, list[dict[str, Any]]]:
    result = CliRunner().invoke(config_commands.app, ["show", "-o", "json", *arguments], env=env)
    assert result.exit_code == 0, result.output
    found: dict[str, list[dict[str, Any]]] = json.loads(result.stdout)
    return found


def test_each_value_is_printed_with_its_source(tmp_path: Path) -> None:
    """Secrets are not."""
    config, dynamic = tmp_path / "whistlestop.toml", tmp_path / "dynamic.yaml"
    dynamic.write_text(DYNAMIC)
    config.write_text(f'{FULL}\ndynamic_config_file = "{dynamic}"\n')
    config.chmod(0o600)
    file = f"--config {config}"
    found = shown("--config", str(config), env={"WHISTLESTOP_INTERNAL_SECRET": "hush", "WHISTLESTOP_METRICS_IP": "::1"})
    flags = {each["flag"]: (each["value"], each["source"]) for each in found["flags"]}
    assert flags["--port"] == (7300, file)
    assert flags["--database-url"] == ("postgresql://u@db/name", file)
    assert flags["--drain"] == (2.0, file)
    assert flags["--internal-secret"] == ("(secret)", "WHISTLESTOP_INTERNAL_SECRET")
    assert flags["--metrics-ip"] == ("::1", "WHISTLESTOP_METRICS_IP")
    assert "--tls-cert" not in flags
    values = {(each["key"], each["namespace"]): (each["value"], each["source"]) for each in found["dynamic_config"]}
    assert values == {
        ("limit.maxIDLength", ""): (200, file),
        ("limit.blobSize.warn", ""): (1, str(dynamic)),
        ("frontend.enableSchedules", "orders"): (False, str(dynamic)),
        ("history.enableChasm", ""): (True, f"{dynamic} (changes nothing)"),
    }


def test_unset_values_are_printed_with_their_defaults() -> None:
    found = shown("--all", "--dynamic-config-value", "LIMIT.maxidlength=5")
    assert {each["source"] for each in found["flags"]} == {"default"}
    values = {each["key"]: (each["value"], each["source"]) for each in found["dynamic_config"]}
    assert values["limit.maxIDLength"] == (5, "--dynamic-config-value")
    assert values["history.longPollExpirationInterval"] == ("20s", "default")
    assert values["worker.protectedNamespaces"] == ([], "default")
    assert len(values) == len(HONOURED)


def test_a_default_is_written_as_it_would_be_given() -> None:
    """So that what is shown can be copied into a file."""
    given = [f"{each['key']}={json.dumps(each['value'])}" for each in shown("--all")["dynamic_config"]]
    dynamic = DynamicConfig.parse(given)
    for settings_of, keys in SECTIONS:
        assert dynamic.apply(settings_of()(), keys) == settings_of()()


def test_a_table_for_people() -> None:
    result = CliRunner().invoke(config_commands.app, ["show", "--dynamic-config-value", "a.b=1"])
    assert result.exit_code == 0
    assert "a.b" in result.stdout
    assert "--dynamic-config-value (changes nothing)" in result.stdout


def test_a_dynamic_file_reaches_the_server(tmp_path: Path, started: list[ServerConfig]) -> None:
    """From the flag and from the config file."""
    dynamic, config = tmp_path / "dynamic.yaml", tmp_path / "whistlestop.toml"
    dynamic.write_text("limit.maxIDLength: [{value: 7}]")
    config.write_text(f'dynamic_config_file = "{dynamic}"')
    for arguments in (["--dynamic-config-file", str(dynamic)], ["--config", str(config)]):
        assert CliRunner().invoke(commands.app, ["start", *arguments]).exit_code == 0
    assert [each.dynamic.values for each in started] == [{"limit.maxidlength": 7}] * 2
    assert {each.dynamic_source.path for each in started if each.dynamic_source is not None} == {str(dynamic)}
    dynamic.write_text("a: [")
    result = CliRunner().invoke(commands.app, ["start", "--dynamic-config-file", str(dynamic)])
    assert isinstance(result.exception, CommandError)
    assert "is not YAML" in str(result.exception)
