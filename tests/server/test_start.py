"""`whistlestop server start`: a file that stays, TLS, several processes over one Postgres."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from temporalio.client import Client
from temporalio.service import TLSConfig

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Launch = Callable[..., Any]


class Authority:
    """Makes certificates for a test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._certificate = self._signed(self._name, self._key, ca=True)
        self.path = self._write("ca.pem", self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key, ca=False).public_bytes(serialization.Encoding.PEM)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._write(f"{name}.pem", certificate), self._write(f"{name}.key", secret)

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path


def test_keeps_its_state_in_the_working_directory(launch: Launch, tmp_path: Path) -> None:
    """Without flags about storage: ./whistlestop.db, and it says so."""
    server = launch("server", "start", "--port", "0").until_ready()
    assert f"State:   SQLite file {tmp_path / 'whistlestop.db'}" in server.stdout
    assert server.end() == 0
    assert (tmp_path / "whistlestop.db").exists()
    assert all(json.loads(line)["level"] == "info" for line in server.stderr)


async def test_tls_with_client_certificates(launch: Launch, tmp_path: Path) -> None:
    """Who shows a certificate of the client authority is served, others are not; the HTTP door is as strict."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    flags = ("--tls-cert", str(certificate), "--tls-key", str(key), "--tls-client-ca", str(authority.path))
    server = launch("server", "start", "--port", "0", "--http-port", "0", *flags).until_ready()
    mine, secret = authority.issue("client")
    root = authority.path.read_bytes()
    shown = TLSConfig(server_root_ca_cert=root, client_cert=mine.read_bytes(), client_private_key=secret.read_bytes())
    client = await Client.connect(server.address, tls=shown)
    assert await client.service_client.check_health()
    with pytest.raises(RuntimeError):
        await Client.connect(server.address, tls=TLSConfig(server_root_ca_cert=root))
    url = f"https://127.0.0.1:{server.port('HTTP')}/healthz"
    context = ssl.create_default_context(cafile=str(authority.path))
    with pytest.raises(OSError, match=r"(?i)certificate|reset|eof|closed"):
        await asyncio.to_thread(_get, url, context)
    context.load_cert_chain(mine, secret)
    assert b"SERVING" in await asyncio.to_thread(_get, url, context)


def _get(url: str, context: ssl.SSLContext) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE_S, context=context) as answer:
        data: bytes = answer.read()
    return data


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--tls-cert", "server.pem"], 2, ["--tls-key"]),
        (["--tls-cert", "not-there.pem", "--tls-key", "not-there.key"], 1, ["not-there"]),
        (["--services", "frontend"], 2, ["matching"]),
        (["--services", "matching"], 2, ["frontend"]),
        (["--services", "kitchen"], 2, ["kitchen", "history"]),
        (["--database-url", "mysql://localhost/x"], 2, ["postgresql://"]),
        (["--database-url", "postgresql://localhost/x", "--db-filename", "x.db"], 2, ["exclude"]),
    ],
)
def test_a_configuration_that_cannot_be_served_is_reported_in_one_line(
    run_command: Launch, flags: list[str], code: int, words: list[str]
) -> None:
    """It names the flag and what to do."""
    done = run_command("server", "start", "--port", "0", "--log-level", "never", *flags)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words)


def test_an_unreachable_database_is_reported_in_one_line(run_command: Launch) -> None:
    """It names the place, never the password."""
    url = "postgresql://someone:hidden-word@127.0.0.1:1/db?connect_timeout=3"
    done = run_command("server", "start", "--port", "0", "--log-level", "never", "--database-url", url)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "hidden-word" not in done.stderr + done.stdout


async def test_roles_determine_the_endpoints(launch: Launch) -> None:
    """A process of history alone opens no gRPC door, and is a member all the same."""
    server = launch("server", "start", "--services", "history", "--db-filename", "h.db").until_ready()
    assert not [line for line in server.stdout if line.startswith("gRPC:")]
    assert await server.end_async() == 0


@pytest.mark.postgres
@pytest.mark.slow
async def test_two_processes_on_one_postgres(launch: Launch, run_command: Launch, postgres_url: str) -> None:
    """What was started on one is seen on the other; both are members until they leave."""
    first = launch("server", "start", "--port", "0", "--database-url", postgres_url).until_ready()
    second = launch("server", "start", "--port", "0", "--database-url", postgres_url).until_ready()
    handle = await (await first.client()).start_workflow("Order", id="order-1", task_queue="orders")
    described = await (await second.client()).get_workflow_handle("order-1").describe()
    assert described.run_id == handle.first_execution_run_id
    members = ("cluster", "members", "--database-url", postgres_url, "-o", "json")
    alive = json.loads((await asyncio.to_thread(run_command, *members)).stdout)
    assert {member["address"] for member in alive} == {first.address, second.address}
    assert await first.end_async() == 0
    alive = json.loads((await asyncio.to_thread(run_command, *members)).stdout)
    assert {member["address"] for member in alive} == {second.address}
    assert await second.end_async() == 0
