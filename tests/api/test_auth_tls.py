"""TLS and client certificates at the endpoints, alone and beside keys."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from tests.api.test_auth import DOCUMENT, SECRETS
from tests.patience import PATIENCE_S
from tests.server.test_start import Authority
from whistlestop.bridge import connect
from whistlestop.common.clock import FakeClock
from whistlestop.frontend.auth.access import AccessControl
from whistlestop.frontend.auth.config import AuthConfig
from whistlestop.frontend.registry import WORKFLOW_SERVICE
from whistlestop.net import certificates
from whistlestop.server.config import ServerConfig, TlsConfig
from whistlestop.server.process import Server
from whistlestop.storage.namespaces import NamespaceCache
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

COUNT = f"/{WORKFLOW_SERVICE}/CountWorkflowExecutions"
REQUEST = service_pb.CountWorkflowExecutionsRequest(namespace="default").SerializeToString()
KEY = f"Bearer {SECRETS['reader']}"


class Setting:
    """A server that takes certificates of one authority, and another authority."""

    def __init__(self, folder: Path) -> None:
        for name in ("ours", "theirs"):
            (folder / name).mkdir()
        self.ours, self.theirs = Authority(folder / "ours"), Authority(folder / "theirs")
        self.certificate, self.key = self.ours.issue("server")
        self.mine = self.ours.issue("client")
        self.strangers = self.theirs.issue("client")
        self.root = self.ours.path.read_bytes()

    def config(self, *, auth: bool, document: str = DOCUMENT) -> ServerConfig:
        tls = TlsConfig(str(self.certificate), str(self.key), str(self.ours.path))
        return ServerConfig(port=0, metrics_port=None, tls=tls, auth=AuthConfig(document) if auth else None)

    def credentials(self, pair: tuple[Path, Path] | None) -> grpc.ChannelCredentials:
        if pair is None:
            return grpc.ssl_channel_credentials(self.root)
        return grpc.ssl_channel_credentials(self.root, pair[1].read_bytes(), pair[0].read_bytes())

    def context(self, pair: tuple[Path, Path] | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ours.path))
        if pair is not None:
            context.load_cert_chain(*pair)
        return context


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


@pytest.fixture(params=[False, True], ids=["certificates", "certificates and keys"])
async def server(request: pytest.FixtureRequest, setting: Setting) -> AsyncIterator[Server]:
    async with Server(setting.config(auth=request.param)) as running:
        yield running


async def by_grpc(server: Server, credentials: Any, key: str = "") -> str:
    """How a call over gRPC ends."""
    metadata = (("authorization", key),) if key else ()
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials) as channel:
        call: Any = channel.unary_unary(COUNT)
        try:
            await call(REQUEST, timeout=PATIENCE_S, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            name: str = error.code().name
            return name
        return "OK"


async def test_grpc_takes_certificates_of_its_authority_alone(server: Server, setting: Setting) -> None:
    """And where keys are asked for, a certificate does not stand for one."""
    asked = server.config.auth is not None
    assert await by_grpc(server, setting.credentials(setting.mine), KEY) == "OK"
    assert await by_grpc(server, setting.credentials(setting.mine)) == ("PERMISSION_DENIED" if asked else "OK")
    for pair in (None, setting.strangers):
        assert await by_grpc(server, setting.credentials(pair), KEY) == "UNAVAILABLE"


async def test_http_takes_certificates_of_its_authority_alone(server: Server, setting: Setting) -> None:
    asked = server.config.auth is not None
    url = f"https://127.0.0.1:{server.http_port}{COUNT}"

    async def status(pair: tuple[Path, Path] | None, **headers: str) -> int:
        async with httpx.AsyncClient(verify=setting.context(pair)) as http:
            return (await http.post(url, json={"namespace": "default"}, headers=headers)).status_code

    assert await status(setting.mine, authorization=KEY) == 200
    assert await status(setting.mine) == (403 if asked else 200)
    for pair in (None, setting.strangers):
        with pytest.raises(httpx.TransportError):
            await status(pair, authorization=KEY)


CERTIFICATES = json.dumps(
    {
        "keys": [
            *json.loads(DOCUMENT)["keys"],
            {"name": "workers", "certificate": "client", "grants": ["default:read"]},
            {"name": "once", "certificate": "leaver", "grants": ["default:read"], "expires": "2020-01-01T00:00:00Z"},
        ]
    }
)


async def test_a_certificate_may_be_granted_what_a_key_is(setting: Setting) -> None:
    """By a name in it; one without a grant, or whose grant is over, opens nothing, and a bad key is no better for it."""
    pairs = {"client": setting.mine, **{name: setting.ours.issue(name) for name in ("other", "leaver")}}
    async with Server(setting.config(auth=True, document=CERTIFICATES)) as server:
        url = f"https://127.0.0.1:{server.http_port}{COUNT}"
        for name, key, status, code in (
            ("client", "", 200, "OK"),
            ("client", "Bearer wsk_stranger", 403, "PERMISSION_DENIED"),
            ("other", KEY, 200, "OK"),
            ("other", "", 403, "PERMISSION_DENIED"),
            ("leaver", "", 403, "PERMISSION_DENIED"),
        ):
            assert (name, key, await by_grpc(server, setting.credentials(pairs[name]), key)) == (name, key, code)
            headers = {"authorization": key} if key else {}
            async with httpx.AsyncClient(verify=setting.context(pairs[name])) as http:
                answer = await http.post(url, json={"namespace": "default"}, headers=headers)
                assert (name, key, answer.status_code) == (name, key, status)
        async with httpx.AsyncClient(verify=setting.context(setting.mine)) as http:
            terminate = url.replace("CountWorkflowExecutions", "TerminateWorkflowExecution")
            assert (await http.post(terminate, json={"namespace": "default"})).status_code == 403
        said = await _raw(server, setting.context(pairs["other"]), f"POST {COUNT} HTTP/1.1", ":certificate: client")
        assert b" 400 " in said or b" 403 " in said


async def _raw(server: Server, context: ssl.SSLContext, *lines: str) -> bytes:
    """The first line of an answer to a request that no client library would make."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port, ssl=context)
    writer.write(
        "\r\n".join((*lines, "host: x", "content-type: application/json", "content-length: 2", "", "{}")).encode()
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await reader.readline()
    finally:
        writer.close()


async def test_names_of_certificates_count_only_where_certificates_are_verified() -> None:
    store = SqliteStore(":memory:")
    access = AccessControl(AuthConfig(CERTIFICATES), NamespaceCache(store, FakeClock()), FakeClock())
    assert not await access.is_authenticated({certificates.HEADER: "client"})
    access = AccessControl(AuthConfig(CERTIFICATES, certificates=True), NamespaceCache(store, FakeClock()), FakeClock())
    assert await access.is_authenticated({certificates.HEADER: "nobody\nclient"})


async def test_an_sdk_and_a_bridge_with_both(setting: Setting) -> None:
    async with asyncio.timeout(PATIENCE_S), Server(setting.config(auth=True)) as server:
        certificate, key = setting.mine
        shown = TLSConfig(
            server_root_ca_cert=setting.root, client_cert=certificate.read_bytes(), client_private_key=key.read_bytes()
        )
        client = await Client.connect(f"127.0.0.1:{server.port}", tls=shown, api_key=SECRETS["reader"])
        assert (await client.count_workflows()).count == 0
        target = f"https://127.0.0.1:{server.http_port}"
        files: dict[str, Any] = {"tls_ca": str(setting.ours.path), "tls_cert": str(certificate), "tls_key": str(key)}
        async with connect(target, api_key=SECRETS["reader"], **files) as bridged:
            assert (await bridged.count_workflows()).count == 0
        async with connect(target, api_key="wsk_stranger", **files) as bridged:
            with pytest.raises(RPCError) as refused:
                await bridged.count_workflows()
            assert refused.value.status is RPCStatusCode.PERMISSION_DENIED
