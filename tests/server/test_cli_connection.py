"""The CLI reaches servers with TLS, client certificates and keys, by the options and the environment of Temporal's own."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.test_auth import SECRETS
from tests.api.test_auth_tls import Setting
from tests.patience import PATIENCE_S
from tests.server.conftest import COMMAND, _environment
from whistlestop.server.cli.connection import Connection, Tls, connection_of, on_a_server
from whistlestop.server.cli.errors import CommandError
from whistlestop.server.process import Server

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS: dict[str, Any] = {
    "address": "", "namespace": "", "api_key": "", "tls": None, "tls_ca_path": "", "tls_ca_data": "",
    "tls_cert_path": "", "tls_cert_data": "", "tls_key_path": "", "tls_key_data": "", "tls_server_name": "",
    "profile": "", "config_file": "", "db_filename": "", "database_url": "",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ADDRESS", "NAMESPACE", "API_KEY", "TLS", "PROFILE"):
        monkeypatch.delenv(f"TEMPORAL_{name}", raising=False)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "none.toml"))


def connection(**given: Any) -> Connection:
    return connection_of({**OPTIONS, **given})


def test_plain_on_loopback_by_default() -> None:
    assert connection() == Connection("127.0.0.1:7233", "default", "", None, (), "", "")


@pytest.mark.parametrize(
    ("given", "encrypted"),
    [
        ({"address": "temporal.example:7233"}, False),
        ({"address": "temporal.example:7233", "api_key": "k"}, True),
        ({"address": "10.0.0.7:7233", "api_key": "k"}, True),
        ({"address": "[2001:db8::1]:7233", "api_key": "k"}, True),
        ({"address": "dns:///temporal.example:7233", "api_key": "k"}, True),
        ({"address": "localhost.example:7233", "api_key": "k"}, True),
        ({"address": "temporal.example:7233", "api_key": "k", "tls": False}, False),
        ({"address": "127.0.0.1:7233", "api_key": "k"}, False),
        ({"address": "[::1]:7233", "api_key": "k"}, False),
        ({"address": "localhost:7233", "api_key": "k"}, False),
        ({"address": "localhost:7233", "api_key": "k", "tls": True}, True),
        ({"tls_server_name": "temporal.example"}, True),
        ({"tls_ca_data": "pem"}, True),
    ],
)
def test_a_key_is_sent_over_tls_by_default(given: dict[str, Any], encrypted: bool) -> None:
    assert (connection(**given).tls is not None) == encrypted


def test_the_environment_and_options_over_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in (("CERT", "cert"), ("KEY", "key")):
        (tmp_path / name).write_text(text)
        monkeypatch.setenv(f"TEMPORAL_TLS_CLIENT_{name}_PATH", str(tmp_path / name))
    monkeypatch.setenv("TEMPORAL_TLS_SERVER_CA_CERT_DATA", "ca")
    monkeypatch.setenv("TEMPORAL_TLS_SERVER_NAME", "their.name")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example:7233")
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "trains")
    monkeypatch.setenv("TEMPORAL_API_KEY", "secret")
    found = connection(tls_server_name="my.name")
    assert found == Connection(
        "temporal.example:7233", "trains", "secret", Tls(b"ca", b"cert", b"key", "my.name"), (), "", ""
    )


def test_a_profile_of_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "temporal.toml"
    file.write_text(
        '[profile.prod]\naddress = "temporal.example:1"\nnamespace = "p"\n[profile.prod.tls]\ndisabled = true\n'
    )
    found = connection(config_file=str(file), profile="prod", api_key="k")
    assert found == Connection("temporal.example:1", "p", "k", None, (), "", "")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"tls": False, "tls_ca_data": "x"}, "--no-tls and --tls-ca-data exclude each other"),
        ({"tls_ca_data": "x", "tls_ca_path": "x"}, "--tls-ca-path and --tls-ca-data exclude each other"),
        ({"tls_cert_data": "x"}, "a client certificate and its key go together"),
        ({"tls_ca_path": "/no/such/file"}, "/no/such/file cannot be read: No such file or directory"),
        ({"profile": "nobody"}, "Profile 'nobody' not found"),
    ],
)
def test_conflicting_flags_are_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        connection(**given)


def test_every_command_on_a_server_takes_every_option() -> None:
    from whistlestop.server.cli import task_queue, workflow

    def nothing(_: Connection) -> None: ...

    names = set(inspect.signature(on_a_server(nothing)).parameters)
    assert names == OPTIONS.keys()
    commands = [each.callback for module in (workflow, task_queue) for each in module.app.registered_commands]
    assert len(commands) == 3
    for command in commands:
        assert command is not None
        assert names <= set(inspect.signature(command).parameters)


async def list_workflows(server: Server, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "workflow", "list", "-o", "json", "--address", f"127.0.0.1:{server.port}", *options]
    return await asyncio.to_thread(
        subprocess.run, command, env={**_environment(), **environ}, capture_output=True, text=True, check=False,
        timeout=PATIENCE_S,
    )  # fmt: skip


async def test_a_server_with_client_certificates_and_keys(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    certificate, key = map(str, setting.mine)
    trust = {"TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(setting.ours.path)}
    async with Server(setting.config(auth=True)) as server:
        tls = ("--tls-ca-path", str(setting.ours.path), "--tls-cert-path", certificate, "--tls-key-path", key)
        done = await list_workflows(server, *tls, "--api-key", SECRETS["reader"])
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
        done = await list_workflows(
            server, TEMPORAL_TLS_CLIENT_CERT_PATH=certificate, TEMPORAL_TLS_CLIENT_KEY_PATH=key,
            TEMPORAL_API_KEY=SECRETS["reader"], **trust,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
        done = await list_workflows(server, *tls, "--tls-server-name", "somebody.else")
        assert done.returncode == 1
        assert "no server answers" in done.stderr
        done = await list_workflows(server, "--api-key", SECRETS["reader"])
        assert done.returncode == 1
        assert "without TLS (--tls)" in done.stderr
