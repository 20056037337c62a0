"""The way to the target: what is sent, and what its answers become."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import gzip
import ipaddress
import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from botocore.credentials import Credentials  # type: ignore[import-untyped]  # carries no types
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from tests.patience import PATIENCE_S
from whistlestop.bridge import BridgeConfig, RunningBridge
from whistlestop.bridge.auth import CALLER_AUTHORIZATION, SigV4
from whistlestop.bridge.grpc_server import headers_of
from whistlestop.bridge.running import _tls
from whistlestop.bridge.target import ConnectTarget
from whistlestop.common.errors import Code, ServiceError
from whistlestop.net.grpc.head import Head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\n"


class Origin:
    """An HTTP server that answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: list[tuple[bytes, bytes]] = []
        self.connections = 0
        self.asked, self.gone = asyncio.Event(), asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append((head, await reader.readexactly(size)))
                self.asked.set()
                answer = self.answers.pop(0) if self.answers else OK + b"content-length: 0\r\n\r\n"
                if not answer:
                    await reader.read()  # until the client leaves
                    self.gone.set()
                    return
                writer.write(answer)
                if answer.endswith(b"CLOSE"):
                    return
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    made = Origin()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()


def answer(status: int, content_type: str, body: bytes, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", f"content-length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def failure(target: ConnectTarget, timeout_s: float | None = 5) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        await target.call("/a.B/C", b"", {}, timeout_s)
    return raised.value


async def test_a_call_is_unary_connect(origin: Origin) -> None:
    target = ConnectTarget(origin.url + "/stage")
    origin.answers.append(answer(200, "application/proto", b"reply"))
    assert await target.call("/a.B/C", b"request", {"x-team": "trains"}, 2.5) == b"reply"
    head, body = origin.requests[0]
    assert body == b"request"
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /stage/a.B/C HTTP/1.1"
    assert {
        "content-type: application/proto", "connect-protocol-version: 1", "connect-timeout-ms: 2500", "x-team: trains"
    } <= set(lines)  # fmt: skip
    target.close()


async def test_large_requests_are_zipped_and_zipped_answers_understood(origin: Origin) -> None:
    target = ConnectTarget(origin.url)
    origin.answers.append(answer(200, "application/proto", gzip.compress(b"y" * 5000), "content-encoding: gzip"))
    assert await target.call("/a.B/C", b"x" * 5000, {}, 5) == b"y" * 5000
    head, body = origin.requests[0]
    assert b"content-encoding: gzip\r\n" in head
    assert gzip.decompress(body) == b"x" * 5000
    target.close()


async def test_chunked_answers_are_understood(origin: Origin) -> None:
    target = ConnectTarget(origin.url)
    origin.answers.append(OK + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nx: y\r\n\r\n")
    assert await target.call("/a.B/C", b"", {}, 5) == b"abcdefg"
    assert await target.call("/a.B/C", b"", {}, 5) == b""
    assert origin.connections == 1
    target.close()


async def test_a_connection_that_was_closed_while_idle_is_replaced(origin: Origin) -> None:
    target = ConnectTarget(origin.url)
    origin.answers.append(OK + b"content-length: 5\r\n\r\nCLOSE")
    assert await target.call("/a.B/C", b"", {}, 5) == b"CLOSE"
    assert await target.call("/a.B/C", b"", {}, 5) == b""
    assert origin.connections == 2
    target.close()


async def test_errors_keep_code_message_and_details(origin: Origin) -> None:
    target = ConnectTarget(origin.url)
    detail = details_pb.WorkflowExecutionAlreadyStartedFailure(run_id="r")
    shown = {
        "code": "already_exists", "message": "there is one",
        "details": [
            {
                "type": detail.DESCRIPTOR.full_name,
                "value": base64.b64encode(detail.SerializeToString()).decode().rstrip("="),
            },
            {"type": "unknown.Type", "value": ""},
        ],
    }  # fmt: skip
    origin.answers.append(answer(409, "application/json", json.dumps(shown).encode()))
    error = await failure(target)
    assert (error.code, error.message, error.details) == (Code.ALREADY_EXISTS, "there is one", (detail,))
    target.close()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, Code.PERMISSION_DENIED), (404, Code.UNIMPLEMENTED), (413, Code.RESOURCE_EXHAUSTED),
        (429, Code.UNAVAILABLE), (502, Code.UNAVAILABLE), (504, Code.UNAVAILABLE), (500, Code.UNKNOWN),
    ],
)  # fmt: skip
async def test_answers_of_gateways_become_statuses(origin: Origin, status: int, code: Code) -> None:
    """A function that crashed or is throttled, a refused signature, an address with no server of ours."""
    target = ConnectTarget(origin.url)
    origin.answers.append(answer(status, "application/json", b'{"Message":"so it is"}'))
    assert (await failure(target)).code is code
    target.close()


async def test_a_target_that_is_not_there_is_unavailable() -> None:
    assert (await failure(ConnectTarget("http://127.0.0.1:9"))).code is Code.UNAVAILABLE


async def test_a_cancelled_call_closes_its_connection(origin: Origin) -> None:
    """By cancellation: so the target can stop working for nobody."""
    target = ConnectTarget(origin.url)
    origin.answers.append(b"")
    call = asyncio.create_task(target.call("/a.B/C", b"", {}, 60))
    await asyncio.wait_for(origin.asked.wait(), PATIENCE_S)
    call.cancel()
    await asyncio.wait_for(origin.gone.wait(), PATIENCE_S)


async def test_sigv4_signs_body_and_host_and_moves_the_callers_own_authorization() -> None:
    auth = SigV4("https://abc.lambda-url.eu-central-1.on.aws", credentials=Credentials("AKID", "secret", "token"))
    headers = {"content-type": "application/proto", "authorization": "Bearer mine"}
    await auth.sign("https://abc.lambda-url.eu-central-1.on.aws/a.B/C", headers, b"body")
    assert headers[CALLER_AUTHORIZATION] == "Bearer mine"
    assert headers["x-amz-security-token"] == "token"
    scope = f"Credential=AKID/{headers['x-amz-date'][:8]}/eu-central-1/lambda/aws4_request"
    assert headers["authorization"].startswith(f"AWS4-HMAC-SHA256 {scope}")
    assert "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token" in headers["authorization"]


def test_sigv4_needs_a_region() -> None:
    with pytest.raises(ValueError, match="region"):
        SigV4("https://example.com")


def authority(folder: Path) -> Callable[[str], tuple[str, str]]:
    """Makes certificates and their keys as PEM files; the authority's own is `ca.pem`."""
    now = dt.datetime.now(dt.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])

    def build(name: x509.Name, key: Any, *, is_ca: bool) -> x509.Certificate:
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return (
            x509.CertificateBuilder().subject_name(name).issuer_name(ca_name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1)).add_extension(address, critical=False)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .sign(ca_key, hashes.SHA256())
        )  # fmt: skip

    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(build(ca_name, ca_key, is_ca=True).public_bytes(pem))

    def make(name: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, is_ca=False)
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return str(folder / f"{name}.pem"), str(folder / f"{name}.key")

    return make


async def test_mtls(origin: Origin, tmp_path: Path) -> None:
    """The bridge shows its certificate, and checks the target's."""
    make = authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(*make("target"))
    context.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    certificate, key = make("bridge")
    ca = str(tmp_path / "ca.pem")
    good = BridgeConfig(url, tls_ca=ca, tls_cert=certificate, tls_key=key)
    target = ConnectTarget(url, tls=_tls(good))
    assert await target.call("/a.B/C", b"", {}, 5) == b""
    target.close()
    for bad in (BridgeConfig(url, tls_ca=ca), BridgeConfig(url, tls_cert=certificate, tls_key=key)):
        assert (await failure(ConnectTarget(url, tls=_tls(bad)))).code is Code.UNAVAILABLE
    server.close()


async def test_a_taken_port_is_an_error(origin: Origin) -> None:
    async with RunningBridge(BridgeConfig(origin.url)) as running:
        with pytest.raises(OSError, match="taken"):
            async with RunningBridge(BridgeConfig(origin.url, listen=running.address)):
                pass


def test_metadata_becomes_headers() -> None:
    """Without what is about the gRPC connection; binary values in base64 without padding."""
    head = Head("/a.B/C", None)
    head.headers = {"te": "trailers", "user-agent": "sdk", "client-name": "temporal-go", "x-team": "trains"}
    head.binary = {"trace-bin": b"\x00\x01"}
    assert headers_of(head) == {"client-name": "temporal-go", "x-team": "trains", "trace-bin": "AAE"}
