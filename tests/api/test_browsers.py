"""Web pages and a server that asks nobody: what a browser may be made to send, to each HTTP endpoint."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.api.test_auth import DOCUMENT, SECRETS
from tests.api.test_lambda_function import _Context, _event, history
from whistlestop.frontend import lambda_function
from whistlestop.frontend.auth.config import AuthConfig
from whistlestop.frontend.endpoints.browsers import BrowserRules, hosts_of, origins_of
from whistlestop.server.config import ServerConfig
from whistlestop.server.internal_endpoint import InternalApi
from whistlestop.server.process import Server
from whistlestop.server.settings.dynamic_config import DynamicConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.api.fixtures import Remembering

__all__ = ["history"]

SERVICE = "/temporal.api.workflowservice.v1.WorkflowService"
START = '{"namespace":"default","workflowId":"w","workflowType":{"name":"W"},"taskQueue":{"name":"q"},"requestId":"x"}'
JSON = {"content-type": "application/json"}
EVIL = "https://evil.example"
ENDPOINTS = {
    "json": "/api/v1/namespaces/default/workflows/w",
    "connect": f"{SERVICE}/StartWorkflowExecution",
    "nexus": "/namespaces/default/task-queues/q/nexus-services/s/o",
    "callback": "/namespaces/default/nexus/callback",
}
ATTACKS = {
    "a form of another site": {"content-type": "text/plain", "origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    "a form, without what browsers tell": {"content-type": "text/plain;charset=UTF-8"},
    "an encoded form": {"content-type": "application/x-www-form-urlencoded"},
    "a form in parts": {"content-type": "multipart/form-data; boundary=x"},
    "a blob of another site": {"origin": EVIL},
    "a sandboxed page": {**JSON, "origin": "null"},
    "another site, by fetch's own words": {**JSON, "sec-fetch-site": "cross-site"},
    "another port of this machine": {**JSON, "origin": "http://127.0.0.1:3000"},
    "a site beside this": {**JSON, "sec-fetch-site": "same-site"},
    "a rebound name": {**JSON, "host": "evil.example:80", "origin": "http://evil.example"},
    "a rebound name, from the same origin": {**JSON, "host": "evil.example", "sec-fetch-site": "same-origin"},
    "a name that only begins like ours": {**JSON, "host": "localhost.evil.example"},
    "a name with an address in it": {**JSON, "host": "127.0.0.1.evil.example"},
    "no name": {**JSON, "host": ""},
}  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server(ServerConfig(port=0, drain_s=0.1)) as made:
        yield made


def client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30)


async def test_no_page_of_another_site_is_served(server: Server) -> None:
    """By no endpoint, in no way; nothing was started."""
    async with client(server.http_port) as http:
        for name, path in ENDPOINTS.items():
            for attack, headers in ATTACKS.items():
                sent = {key: value for key, value in headers.items() if value or key == "host"}
                answer = await http.post(path, content=START, headers=sent)
                assert answer.status_code in {400, 403, 415}, (name, attack, answer.text)
                assert "access-control-allow-origin" not in answer.headers
        for path in ("/api/v1/namespaces/default", "/healthz", "/no/such/path"):
            for headers in (
                {"host": "evil.example"}, {"origin": EVIL}, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
            ):  # fmt: skip
                assert (await http.get(path, headers=headers)).status_code == 403
        preflight = {"origin": EVIL, "access-control-request-method": "POST"}
        refused = await http.options(ENDPOINTS["json"], headers=preflight)
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (403, False)
        listed = await http.get("/api/v1/namespaces/default/workflow-count")
        assert listed.json() == {}
    async with client(server.metrics_port) as http:
        assert (await http.get("/metrics", headers={"host": "evil.example"})).status_code == 403
        assert (await http.get("/metrics", headers={"origin": EVIL})).status_code == 403
        assert (await http.get("/metrics")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        JSON, {"content-type": "Application/JSON; charset=utf-8"}, {**JSON, "host": "localhost:1"}, {**JSON, "host": "LOCALHOST."},
        {**JSON, "host": "app.localhost:1"}, {**JSON, "host": "[::1]:7243"}, {**JSON, "host": "127.8.8.8"},
        {**JSON, "host": "host.docker.internal:7243"}, {**JSON, "sec-fetch-site": "none"},
        {**JSON, "origin": "http://localhost:9", "host": "localhost:9", "sec-fetch-site": "same-origin"},
    ],
)  # fmt: skip
async def test_programs_and_pages_of_ours_are(server: Server, headers: dict[str, str]) -> None:
    async with client(server.http_port) as http:
        assert (await http.post(ENDPOINTS["json"], content=START, headers=headers)).status_code == 200
        assert (
            await http.post(ENDPOINTS["connect"], content=START.replace('"w"', '"v"'), headers=headers)
        ).status_code == 200


async def test_nexus_takes_contents_of_other_kinds(server: Server) -> None:
    """But for the three that any page may send."""
    async with client(server.http_port) as http:
        for kind in ("application/octet-stream", "application/x-protobuf", "image/png"):
            answer = await http.post(
                ENDPOINTS["nexus"], content=b"x", headers={"content-type": kind, "request-timeout": "50ms"}
            )
            assert answer.status_code == 520, answer.text


async def test_an_origin_that_is_configured_may() -> None:
    """And no other; its pages can read answers, refusals among them."""
    ui = "https://ui.example.com"
    async with (
        Server(ServerConfig(port=0, metrics_port=None, drain_s=0.1, http_cors_origins=(ui,))) as server,
        client(server.http_port) as http,
    ):
        site = {"origin": ui, "sec-fetch-site": "cross-site"}
        asked = await http.options(
            ENDPOINTS["json"],
            headers={
                **site,
                "access-control-request-method": "POST",
                "access-control-request-headers": "content-type, x-y",
            },
        )
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == ui
        assert asked.headers["access-control-allow-headers"] == "content-type, x-y"
        assert "POST" in asked.headers["access-control-allow-methods"]
        for path, status in ((ENDPOINTS["json"], 200), ("/no/such/path", 404)):
            answer = await http.post(path, content=START, headers={**site, **JSON})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, ui)
            assert answer.headers["vary"] == "origin"
        refused = await http.post(ENDPOINTS["json"], content=START, headers={**JSON, "origin": EVIL})
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (403, False)


async def test_rules_for_browsers_do_not_apply_where_credentials_are_required() -> None:
    """So the address and origin of whoever shows one do not matter."""
    config = ServerConfig(port=0, metrics_port=None, drain_s=0.1, auth=AuthConfig(DOCUMENT))
    async with Server(config) as server, client(server.http_port) as http:
        headers = {**JSON, "origin": EVIL, "host": "temporal.example.com"}
        assert (await http.post(ENDPOINTS["json"], content=START, headers=headers)).status_code == 403
        shown = {**headers, "authorization": f"Bearer {SECRETS['writer']}"}
        assert (await http.post(ENDPOINTS["json"], content=START, headers=shown)).status_code == 200


async def test_hosts_can_be_named_as_with_temporal() -> None:
    """`frontend.httpAllowedHosts`, with its wording."""
    dynamic = DynamicConfig.parse(['frontend.httpAllowedHosts=["temporal.example.com:*"]'])
    async with (
        Server(ServerConfig(port=0, metrics_port=None, drain_s=0.1, dynamic=dynamic)) as server,
        client(server.http_port) as http,
    ):
        good = await http.get("/api/v1/namespaces/default", headers={"host": "temporal.example.com:7243"})
        bad = await http.get("/api/v1/namespaces/default", headers={"host": "localhost"})
    assert (good.status_code, bad.status_code) == (200, 403)
    assert bad.json() == {"code": 7, "message": "Host not allowed"}


def test_processes_behind_are_no_way_in() -> None:
    """The internal endpoint on loopback asks for no secret."""
    api = InternalApi({}, asyncio, "")  # type: ignore[arg-type]  # no clock is needed for a refusal
    api._by_path = {"/history": None}  # type: ignore[dict-item]  # nor a service
    good = {**JSON, "host": "127.0.0.1:7244"}
    assert api.refusal("POST", "/history", good, "127.0.0.1") is None
    for attack, headers in ATTACKS.items():
        refused = api.refusal(
            "POST", "/history", {"host": "127.0.0.1:7244", "content-length": "2", **headers}, "127.0.0.1"
        )
        assert refused is not None, attack


def test_a_function_that_is_open_is_served_to_its_own_pages_alone(
    history: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is public, so its name is not looked at."""
    monkeypatch.setenv("WHISTLESTOP_AUTH_MODE", "NONE")
    monkeypatch.setenv("WHISTLESTOP_ALLOW_ANONYMOUS", "true")
    event = _event("function_url_json_api")
    assert lambda_function.handler(event, _Context())["statusCode"] == 200
    for headers in ({"origin": EVIL}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        attacked = event | {"headers": event["headers"] | headers}
        assert lambda_function.handler(attacked, _Context())["statusCode"] == 403


@pytest.mark.parametrize(
    "text", ["ui.example.com", "https://", "https://a/b", "ftp://a", "https://u@a", "*", "null", "https://a?b"]
)
def test_values_that_are_no_origin_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an origin"):
        origins_of([text])


def test_rules_are_data() -> None:
    assert origins_of(["https://UI.example.com/", "http://a:1"]) == {"https://ui.example.com", "http://a:1"}
    rules = replace(BrowserRules(), hosts=hosts_of(["*.example.com", "a"]))
    assert rules.refusal({"host": "x.example.com"}) is None
    assert rules.refusal({"host": "example.com"}) is not None
    assert hosts_of(None) is None
