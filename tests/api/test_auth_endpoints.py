"""Every endpoint authenticates: gRPC, Connect, the JSON API, Nexus and the function; none logs a secret."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from tests.api.test_auth import DOCUMENT, SECRETS
from tests.api.test_lambda_function import _Context, _event, history
from tests.server.conftest import launch, postgres_url, run_command
from whistlestop.frontend import lambda_function
from whistlestop.frontend.auth.config import AuthConfig, JwtConfig
from whistlestop.frontend.auth.keys import ApiKey, hash_of, new_key, render
from whistlestop.server.config import (
    BadConfig,
    Role,
    ServerConfig,
    StoreConfig,
    TlsConfig,
    callers,
    require_authentication,
)
from whistlestop.server.process import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

__all__ = ["history", "launch", "postgres_url", "run_command"]

SECRET = "a shared secret of more than thirty-two bytes"
TOKEN = jwt.encode({"sub": "ann", "permissions": ["default:write"]}, SECRET, "HS256")
SERVICE = "temporal.api.workflowservice.v1.WorkflowService"
PROBE = "/whistlestop.worker.v1.WorkerService/ProbeBacklog"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    auth = AuthConfig(DOCUMENT, JwtConfig(key=SECRET))
    async with Server(ServerConfig(port=0, metrics_port=None, auth=auth)) as running:
        yield running


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}") as client:
        yield client


async def connected(server: Server, key: str = "") -> Client:
    return await Client.connect(f"127.0.0.1:{server.port}", api_key=key or None, tls=False)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# gRPC


@pytest.mark.parametrize("key", [SECRETS["writer"], TOKEN])
async def test_an_sdk_with_a_key_or_a_token(server: Server, key: str) -> None:
    client = await connected(server, key)
    handle = await client.start_workflow("Order", id="order-1", task_queue="orders")
    assert (await handle.describe()).run_id == handle.first_execution_run_id


@pytest.mark.parametrize("key", ["", "wsk_unknown", SECRETS["reader"], SECRETS["elsewhere"], TOKEN + "x"])
async def test_an_sdk_that_may_not(server: Server, key: str) -> None:
    """It connects, as with Temporal: GetSystemInfo and the health check are for everybody."""
    client = await connected(server, key)
    assert await client.service_client.check_health()
    with pytest.raises(RPCError) as refused:
        await client.start_workflow("Order", id="order-1", task_queue="orders")
    assert refused.value.status is RPCStatusCode.PERMISSION_DENIED
    assert refused.value.message == "Request unauthorized."
    (detail,) = refused.value.grpc_status.details
    assert detail.type_url.endswith(details_pb.PermissionDeniedFailure.DESCRIPTOR.full_name)


# HTTP


async def test_connect_requires_a_credential(http: httpx.AsyncClient) -> None:
    path = f"/{SERVICE}/CountWorkflowExecutions"
    for headers in ({}, bearer("x"), bearer(SECRETS["elsewhere"])):
        refused = await http.post(path, json={"namespace": "default"}, headers=headers)
        assert refused.status_code == 403
        assert refused.json() == {
            "code": "permission_denied",
            "message": "Request unauthorized.",
            "details": [{"type": "temporal.api.errordetails.v1.PermissionDeniedFailure", "value": ""}],
        }
    for key in (SECRETS["reader"], TOKEN):
        assert (await http.post(path, json={"namespace": "default"}, headers=bearer(key))).json() == {}
    assert (await http.post(f"/{SERVICE}/GetSystemInfo", json={})).status_code == 200


async def test_probing_the_backlog_needs_the_worker_role(http: httpx.AsyncClient) -> None:
    probe = {"namespace": "default"}
    assert (await http.post(PROBE, json=probe)).status_code == 403
    assert (await http.post(PROBE, json=probe, headers=bearer(SECRETS["reader"]))).status_code == 403
    headers = {**bearer(SECRETS["worker"]), "connect-timeout-ms": "50"}
    assert (await http.post(PROBE, json=probe, headers=headers)).status_code != 403


async def test_the_json_api_requires_a_credential(http: httpx.AsyncClient) -> None:
    path = "/api/v1/namespaces/default"
    refused = await http.get(path)
    assert refused.status_code == 403
    assert refused.json() == {
        "code": 7,
        "message": "Request unauthorized.",
        "details": [{"@type": "type.googleapis.com/temporal.api.errordetails.v1.PermissionDeniedFailure"}],
    }
    shown = await http.get(path, headers=bearer(SECRETS["worker"]))
    assert shown.json()["namespaceInfo"]["name"] == "default"
    listed = await http.get("/api/v1/namespaces", headers=bearer(SECRETS["reader"]))
    assert [each["namespaceInfo"]["name"] for each in listed.json()["namespaces"]] == ["default"]
    assert (await http.get("/healthz")).status_code == 200


async def test_nexus_requires_a_credential(http: httpx.AsyncClient) -> None:
    """In the namespace of the address; one without a namespace takes a role in all of them."""
    queue = "/namespaces/default/task-queues/handlers/nexus-services/letters/send"
    for path, caller, status in (
        (queue, "reader", 403),
        (queue, "elsewhere", 403),
        ("/namespaces/default/nexus/callback", "reader", 403),
        ("/namespaces/default/nexus/callback", "writer", 400),
        ("/nexus/callback", "writer", 403),
        ("/nexus/callback", "operator", 400),
        ("/namespaces/unknown/task-queues/x/nexus-services/letters/send", "writer", 403),
        # That there is no such endpoint is told to those who may see all of them.
        ("/nexus/endpoints/unknown/services/letters/send", "stranger", 403),
        ("/nexus/endpoints/unknown/services/letters/send", "writer", 403),
        ("/nexus/endpoints/unknown/services/letters/send", "operator", 404),
    ):
        answer = await http.post(path, headers=bearer(SECRETS.get(caller, "nobody")))
        assert (path, caller, answer.status_code) == (path, caller, status)
        if status == 403:
            assert answer.json()["message"] == "permission denied"
            assert answer.json()["details"]["type"] == "UNAUTHORIZED"
    assert (await http.post(queue)).status_code == 403
    brief = {**bearer(SECRETS["writer"]), "request-timeout": "1ms"}
    assert (await http.post(queue, headers=brief)).status_code == 520


async def test_a_nexus_handler_does_not_get_the_callers_key(server: Server, http: httpx.AsyncClient) -> None:
    client = await connected(server, SECRETS["worker"])
    poll = service_pb.PollNexusTaskQueueRequest(namespace="default", identity="handler")
    poll.task_queue.name = "handlers"
    queue = "/namespaces/default/task-queues/handlers/nexus-services/letters/send"
    headers = {**bearer(SECRETS["writer"]), "x-mine": "kept", "x-whistlestop-authorization": f"Bearer {TOKEN}"}
    asked = asyncio.create_task(http.post(queue, headers=headers, content=b"{}"))
    task = await client.workflow_service.poll_nexus_task_queue(poll)
    assert task.request.header["x-mine"] == "kept"
    assert {"authorization", "x-whistlestop-authorization"}.isdisjoint(task.request.header)
    done = service_pb.RespondNexusTaskCompletedRequest(namespace="default", task_token=task.task_token)
    done.response.start_operation.sync_success.payload.data = b"{}"
    await client.workflow_service.respond_nexus_task_completed(done)
    assert (await asked).status_code == 200


# The function


def _call(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], headers: dict[str, str]) -> dict[str, Any]:
    for name in ("WHISTLESTOP_AUTH_MODE", "WHISTLESTOP_ALLOW_ANONYMOUS", "WHISTLESTOP_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    event = _event("function_url_connect")
    event["rawPath"] = event["requestContext"]["http"]["path"] = f"/{SERVICE}/CountWorkflowExecutions"
    event["headers"] = {"content-type": "application/json", **headers}
    event["body"], event["isBase64Encoded"] = json.dumps({"namespace": "default"}), False
    return lambda_function.handler(event, _Context())


def test_a_public_url_refuses_unauthenticated_callers(history: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is configured but AuthMode=NONE: nobody may, whatever they bring."""
    answer = _call(monkeypatch, {"WHISTLESTOP_AUTH_MODE": "NONE"}, bearer(SECRETS["operator"]))
    assert answer["statusCode"] == 403
    assert json.loads(answer["body"])["code"] == "permission_denied"


@pytest.mark.parametrize(
    ("env", "headers", "status"),
    [
        ({"WHISTLESTOP_AUTH_MODE": "AWS_IAM"}, {}, 200),
        ({"WHISTLESTOP_AUTH_MODE": "NONE", "WHISTLESTOP_ALLOW_ANONYMOUS": "true"}, {}, 200),
        ({"WHISTLESTOP_AUTH_MODE": "NONE", "WHISTLESTOP_API_KEYS": DOCUMENT}, {}, 403),
        ({"WHISTLESTOP_AUTH_MODE": "NONE", "WHISTLESTOP_API_KEYS": DOCUMENT}, bearer(SECRETS["reader"]), 200),
        ({"WHISTLESTOP_AUTH_MODE": "AWS_IAM", "WHISTLESTOP_API_KEYS": DOCUMENT}, {}, 403),
        (
            {"WHISTLESTOP_AUTH_MODE": "AWS_IAM", "WHISTLESTOP_API_KEYS": DOCUMENT},
            {"authorization": "AWS4-HMAC-SHA256 x", "x-whistlestop-authorization": f"Bearer {SECRETS['reader']}"},
            200,
        ),
    ],
)
def test_settings_that_allow_unauthenticated_callers_of_a_function(
    history: object, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], headers: dict[str, str], status: int
) -> None:
    assert _call(monkeypatch, env, headers)["statusCode"] == status


# Where a server listens


@pytest.mark.parametrize("ip", ["0.0.0.0", "192.0.2.7", "::"])
def test_endpoints_without_authentication_do_not_start_on_public_addresses(ip: str) -> None:
    with pytest.raises(BadConfig, match="--allow-anonymous"):
        require_authentication(ServerConfig(), ip)
    with pytest.raises(BadConfig, match="--allow-anonymous"):
        require_authentication(ServerConfig(tls=TlsConfig("a", "b")), ip)
    for config in (
        ServerConfig(allow_anonymous=True),
        ServerConfig(auth=AuthConfig("keys.json")),
        ServerConfig(tls=TlsConfig("a", "b", "ca")),
        ServerConfig(roles=frozenset({Role.HISTORY})),
    ):
        require_authentication(config, ip)


def test_a_server_prints_who_may_call() -> None:
    both = ServerConfig(tls=TlsConfig("a", "b", "ca.pem"), auth=AuthConfig("keys.json", JwtConfig("https://id/jwks")))
    expected = "with a certificate of ca.pem and an API key of keys.json or a JWT by https://id/jwks"
    assert callers(both, "127.0.0.1") == expected
    assert callers(ServerConfig(auth=AuthConfig(DOCUMENT)), "::") == "with an API key"
    assert callers(ServerConfig(allow_anonymous=True), "0.0.0.0") == "anybody who reaches this address"
    assert callers(ServerConfig(), "127.0.0.1") == ""


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_needs_no_authentication(ip: str) -> None:
    require_authentication(ServerConfig(), ip)


# Logs


@pytest.mark.postgres
async def test_no_secret_reaches_a_log(
    caplog: pytest.LogCaptureFixture, postgres_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """At the lowest level, of all libraries: keys, tokens, the database's password, good and bad ones."""
    caplog.set_level(logging.NOTSET)
    logging.getLogger().setLevel(logging.NOTSET)
    password, stranger = "hidden-word", new_key()
    url = postgres_url.replace("postgres:@", f"postgres:{password}@")
    assert password in url
    keys = (SECRETS["reader"], SECRETS["writer"], SECRETS["nobody"], TOKEN, stranger, "e30.e30.forged-signature")
    store = StoreConfig(database_url=url)
    config = ServerConfig(store, port=0, auth=AuthConfig(DOCUMENT, JwtConfig(key=SECRET)))
    print(config)
    async with Server(config) as server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}") as http:
        for key in keys:
            client = await connected(server, key)
            await asyncio.gather(
                client.start_workflow("Order", id="order-1", task_queue="orders"), return_exceptions=True
            )
            await http.post(f"/{SERVICE}/CountWorkflowExecutions", json={"namespace": "default"}, headers=bearer(key))
            await http.get("/api/v1/namespaces/default", headers=bearer(key))
            await http.post("/nexus/callback", headers=bearer(key))
    written = caplog.text + "".join(capfd.readouterr())
    assert "serving on" in written
    assert "may not call StartWorkflowExecution" in written
    assert [secret for secret in (*keys, SECRET, password) if secret in written] == []


@pytest.mark.parametrize("level", ["debug"])
def test_the_output_of_a_server_contains_no_secret(
    run_command: Callable[..., Any], launch: Callable[..., Any], tmp_path: Path, level: str
) -> None:
    """The real command, from the keys that `key create` made."""
    keys = str(tmp_path / "keys.json")
    made = run_command("key", "create", "ci", "--grant", "default:write", "--api-keys", keys)
    secret = made.stdout.strip()
    server = launch("server", "start", "--port", "0", "--log-level", level, "--api-keys", keys).until_ready()

    async def calls() -> None:
        await Client.connect(server.address, api_key=secret, tls=False)
        client = await Client.connect(server.address, api_key=secret, tls=False)
        assert (await client.count_workflows()).count == 0
        stranger = await Client.connect(server.address, api_key="wsk_stranger", tls=False)
        with pytest.raises(RPCError, match="Request unauthorized"):
            await stranger.count_workflows()

    asyncio.run(calls())
    assert server.end() == 0
    output = "\n".join((*server.stdout, *server.stderr))
    assert f"Callers: with an API key of {keys}" in server.stdout
    assert "a call was refused" in output
    assert secret not in output
    assert "wsk_stranger" not in output


# The command line


async def test_inspecting_commands_bring_the_key_of_the_environment(server: Server) -> None:
    """TEMPORAL_API_KEY, as the `temporal` command takes it."""
    arguments = ("-m", "whistlestop.server", "workflow", "list", "--address", f"127.0.0.1:{server.port}")
    for key, code in ((SECRETS["reader"], 0), ("", 1)):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env={**os.environ, "TEMPORAL_API_KEY": key},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, complaints = await process.communicate()
        assert process.returncode == code, complaints
        assert (b"Request unauthorized. (PERMISSION_DENIED)" in complaints) is bool(code)


def test_keys_are_made_listed_and_revoked(run_command: Callable[..., Any], tmp_path: Path) -> None:
    """The secret is printed once and stands nowhere."""
    keys = tmp_path / "keys.json"
    where = ("--api-keys", str(keys))
    grants = ("--grant", "default:read", "--grant", "orders:worker")
    made = run_command("key", "create", "ci", *grants, "--expires-in", "90d", *where)
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret not in keys.read_text()
    assert hash_of(secret) in keys.read_text()
    (listed,) = json.loads(run_command("key", "list", "-o", "json", *where).stdout)
    assert (listed["name"], listed["grants"]) == ("ci", ["default:read", "orders:worker"])
    assert listed["expires"] > listed["created"]
    assert secret not in run_command("key", "list", *where).stdout
    assert run_command("key", "revoke", "ci", *where).returncode == 0
    assert json.loads(keys.read_text()) == {"keys": []}
    shown = run_command("key", "create", "w", "--grant", "orders:worker", "--certificate", "CN-of-workers", *where)
    assert (shown.returncode, shown.stdout) == (0, "")
    (entry,) = json.loads(keys.read_text())["keys"]
    assert (entry["certificate"], entry["grants"], "sha256" in entry) == ("CN-of-workers", ["orders:worker"], False)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "ci", "--grant", "default"], 2, "NAMESPACE:ROLE"),
        (["create", "ci", "--grant", "default:read", "--expires-in", "soon"], 2, "--expires-in"),
        (["create", "taken", "--grant", "default:read"], 1, "already"),
        (["revoke", "unknown"], 1, "no key"),
        (["list", "--api-keys", "not-there.json"], 1, "key create"),
        (["list", "--api-keys", "broken.json"], 1, "not a document"),
    ],
)
def test_errors_of_configuration_are_reported_in_one_line(
    run_command: Callable[..., Any], tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "whistlestop-keys.json").write_text(render([ApiKey("taken", hash_of("x"), ())]))
    (tmp_path / "broken.json").write_text("{")
    done = run_command("key", *arguments)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


@pytest.mark.parametrize("command", ["start", "start-dev"])
def test_a_public_address_is_refused_in_one_line(run_command: Callable[..., Any], command: str) -> None:
    done = run_command("server", command, "--ip", "0.0.0.0", "--port", "0")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "--allow-anonymous" in done.stderr
    assert "--api-keys" in done.stderr


def test_a_missing_file_of_keys_is_reported_in_one_line(run_command: Callable[..., Any]) -> None:
    done = run_command("server", "start", "--port", "0", "--api-keys", "not-there.json")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "not-there.json" in done.stderr
