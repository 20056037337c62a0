"""Who may call what: roles of keys, in one place for every RPC; tokens are in test_auth_tokens.py, doors in test_auth_endpoints.py."""

from __future__ import annotations

import datetime as dt
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.enums.v1 import command_type_pb2
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.api.fixtures import World, new_world
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.ids import CountedIds
from whistlestop.common.proto import worker_pb2 as worker_pb
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.auth.config import (
    BEHIND_A_SIGNATURE,
    AuthConfig,
    BadAuth,
    JwtConfig,
    of_function,
    of_settings,
)
from whistlestop.frontend.auth.grants import BadGrant, Role, parse_grant
from whistlestop.frontend.auth.keys import ApiKey, BadKeys, KeySet, hash_of, new_key, parse, render
from whistlestop.frontend.auth.sources import AGAIN_NS, FILE_AGE_NS, KEPT_AGE_NS, FileKeys, KeptByAws, source_of
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.endpoints.http import make_app
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.registry import OPERATOR_SERVICE, REGISTRY, WORKFLOW_SERVICE, Served
from whistlestop.frontend.service import Frontend
from whistlestop.functions.settings import CallerSettings, FrontendSettings, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from whistlestop.frontend.registry import RpcSpec

KEYS = {
    "reader": ["default:read"],
    "writer": ["default:write"],
    "worker": ["default:worker"],
    "admin": ["default:admin"],
    "elsewhere": ["other:admin"],
    "both": ["default:worker", "other:write"],
    "overseer": ["temporal-system:read"],
    "operator": ["temporal-system:admin"],
    "nobody": [],
}
# Fixed, since they are in the names of tests, which must be the same in every process.
SECRETS = {name: f"wsk_secret-of-{name}" for name in KEYS}
DOCUMENT = render(ApiKey(name, hash_of(SECRETS[name]), tuple(grants)) for name, grants in KEYS.items())
EVERYTHING = REGISTRY | OWN_REGISTRY


def as_caller(name: str) -> CallContext:
    return CallContext(headers={"authorization": f"Bearer {SECRETS[name]}"})


def guarded(world: World, auth: AuthConfig) -> World:
    """The same world, with a frontend that asks."""
    old = world.frontend
    frontend = Frontend(
        old.ports.store, world.history, world.matching, world.clock, CountedIds(), replace(FrontendConfig(), auth=auth)
    )
    return World(frontend, world.history, world.matching, world.clock)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = await new_world()
    await ensure_namespace(made.frontend.ports, "other")
    made.matching.answers["ProbeBacklog"] = worker_pb.ProbeBacklogResponse()
    yield guarded(made, AuthConfig(DOCUMENT))
    await made.frontend.ports.store.close()


def request_of(spec: RpcSpec, namespace: str = "default") -> Any:
    request: Any = spec.request_type()
    if spec.namespaced:
        request.namespace = namespace
    return request


async def refused(world: World, name: str, request: Any, context: CallContext) -> bool:
    """Whether the caller is refused; whatever else the call ends with is not of interest here."""
    try:
        await world.frontend.call(name, request, context)
    except ServiceError as error:
        told = (error.code, error.message, error.details)
        return told == (Code.PERMISSION_DENIED, "Request unauthorized.", (details_pb.PermissionDeniedFailure(),))
    return False


def methods(*, access: str) -> set[str]:
    return {spec.method for spec in EVERYTHING.values() if spec.access == access and spec.namespaced}


async def allowed_to(world: World, caller: str, namespace: str = "default") -> set[str]:
    """The methods that the caller is not refused."""
    return {
        spec.method
        for name, spec in EVERYTHING.items()
        if not await refused(world, name, request_of(spec, namespace), as_caller(caller))
    }


OPEN = {"GetSystemInfo"}

CROSSING = {
    "start_child_workflow_execution_command_attributes": command_type_pb2.COMMAND_TYPE_START_CHILD_WORKFLOW_EXECUTION,
    "signal_external_workflow_execution_command_attributes":
        command_type_pb2.COMMAND_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION,
    "request_cancel_external_workflow_execution_command_attributes":
        command_type_pb2.COMMAND_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION,
}  # fmt: skip


@pytest.mark.parametrize("attributes", CROSSING)
async def test_a_command_reaches_a_namespace_only_where_its_worker_may_write(world: World, attributes: str) -> None:
    """Be it in another namespace, and whatever history would say to it."""
    name = f"{WORKFLOW_SERVICE}/RespondWorkflowTaskCompleted"

    async def is_refused(caller: str, namespace: str) -> bool:
        request = service_pb.RespondWorkflowTaskCompletedRequest(namespace="default")
        getattr(request.commands.add(command_type=CROSSING[attributes]), attributes).namespace = namespace
        return await refused(world, name, request, as_caller(caller))

    for own in ("", "default"):
        assert not await is_refused("worker", own)
    for caller in ("worker", "writer", "admin"):
        assert await is_refused(caller, "other")
        assert await is_refused(caller, "nowhere")
    assert not await is_refused("both", "other")
    assert not await is_refused("operator", "other")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wsk_unknown"},
        {"authorization": SECRETS["operator"]},
        {"authorization": f"Basic {SECRETS['operator']}"},
        {"authorization": f"Bearer {hash_of(SECRETS['operator'])}"},
        {"authorization": "Bearer a.b.c"},
        {"x-api-key": SECRETS["operator"]},
    ],
)
async def test_without_a_credential_nothing_but_get_system_info(world: World, headers: dict[str, str]) -> None:
    """On every RPC, ours included, and nothing reaches history or matching."""
    for name, spec in EVERYTHING.items():
        assert await refused(world, name, request_of(spec), CallContext(headers=headers)) is (spec.method not in OPEN)
    assert [call[0] for call in world.history.calls + world.matching.calls] == []


async def test_permissions_of_each_role(world: World) -> None:
    """As in Temporal's default authorizer, where a writer may all that a worker does; the worker's role is ours."""
    read, write = methods(access="read"), methods(access="write")
    work, admin = methods(access="worker"), methods(access="admin")
    everybody = OPEN | {"ListNamespaces"}
    assert await allowed_to(world, "reader") == everybody | read
    assert await allowed_to(world, "writer") == everybody | read | write | work
    assert await allowed_to(world, "worker") == everybody | work | {"DescribeNamespace", "GetWorkflowExecutionHistory"}
    assert await allowed_to(world, "admin") == everybody | read | write | work | admin
    assert await allowed_to(world, "nobody") == everybody
    assert await allowed_to(world, "elsewhere") == everybody


async def test_roles_in_the_system_hold_everywhere(world: World) -> None:
    """And they alone reach what belongs to no namespace."""
    reading = {spec.method for spec in EVERYTHING.values() if spec.access == "read"}
    assert await allowed_to(world, "overseer", "other") == reading
    assert await allowed_to(world, "operator", "other") == {spec.method for spec in EVERYTHING.values()}
    cluster = {spec.method for spec in EVERYTHING.values() if not spec.namespaced}
    assert {"ListClusters", "CreateNexusEndpoint", "GetClusterInfo"} <= cluster
    assert await allowed_to(world, "admin") & cluster == OPEN | {"ListNamespaces"}


def test_access_levels_match_temporals() -> None:
    """Workers' RPCs are Temporal's `write`; all else is the same word."""
    expected = {
        "StartWorkflowExecution": "write", "QueryWorkflow": "read", "RegisterNamespace": "admin",
        "ListSearchAttributes": "read", "AddSearchAttributes": "admin", "DeleteNamespace": "admin",
        "ListNexusEndpoints": "admin", "ListClusters": "admin", "PollWorkflowExecutionUpdate": "read",
        "UpdateTaskQueueConfig": "write", "StopBatchOperation": "write", "FetchWorkerConfig": "read",
        "PollActivityTaskQueue": "worker", "RespondQueryTaskCompleted": "worker", "ProbeBacklog": "worker",
    }  # fmt: skip
    by_method = {spec.method: spec.access.value for spec in EVERYTHING.values()}
    assert {method: by_method[method] for method in expected} == expected


async def test_refusals_do_not_reveal_whether_the_namespace_exists(world: World) -> None:
    request = service_pb.DescribeWorkflowExecutionRequest(namespace="not-there")
    for caller in ("reader", "nobody"):
        assert await refused(world, f"{WORKFLOW_SERVICE}/DescribeWorkflowExecution", request, as_caller(caller))
    with pytest.raises(ServiceError) as told:
        await world.frontend.call(f"{WORKFLOW_SERVICE}/DescribeWorkflowExecution", request, as_caller("overseer"))
    assert told.value.code is Code.NOT_FOUND


async def test_namespaces_by_id_take_a_role_in_the_system(world: World) -> None:
    """As in Temporal, where the authorizer knows names only."""
    found = await world.frontend.ports.namespaces.by_name("default")
    assert found is not None
    request = service_pb.DescribeNamespaceRequest(id=found.namespace_id)
    name = f"{WORKFLOW_SERVICE}/DescribeNamespace"
    assert await refused(world, name, request, as_caller("admin"))
    assert not await refused(world, name, request, as_caller("overseer"))


async def test_a_task_token_is_of_its_namespace(world: World) -> None:
    """With the namespace left out the token's counts; a token does not go with another namespace."""
    other = await world.frontend.ports.namespaces.by_name("other")
    default = await world.frontend.ports.namespaces.by_name("default")
    assert other is not None
    assert default is not None
    name = f"{WORKFLOW_SERVICE}/RespondActivityTaskCompleted"
    theirs = TaskToken(namespace_id=other.namespace_id, workflow_id="w").SerializeToString()
    mine = TaskToken(namespace_id=default.namespace_id, workflow_id="w").SerializeToString()
    kind = service_pb.RespondActivityTaskCompletedRequest
    worker = as_caller("worker")
    assert await refused(world, name, kind(task_token=theirs), worker)
    assert await refused(world, name, kind(task_token=theirs, namespace="other"), worker)
    with pytest.raises(ServiceError, match="a token from a different namespace"):
        await world.frontend.call(name, kind(task_token=theirs, namespace="default"), worker)
    assert await refused(world, name, kind(task_token=b"\xff nonsense"), worker)
    assert await refused(world, name, kind(), worker)
    assert world.history.calls == []
    assert not await refused(world, name, kind(task_token=mine), worker)
    assert [call[0] for call in world.history.calls] == ["RespondActivityTaskCompleted"]


async def test_a_list_of_namespaces_shows_those_of_the_caller(world: World) -> None:
    async def seen(caller: str) -> list[str]:
        request = service_pb.ListNamespacesRequest(page_size=1)
        names: list[str] = []
        while True:
            reply = await world.call("ListNamespaces", request, as_caller(caller))
            assert isinstance(reply, service_pb.ListNamespacesResponse)
            names += [each.namespace_info.name for each in reply.namespaces]
            if not reply.next_page_token:
                return names
            request.next_page_token = reply.next_page_token

    assert await seen("reader") == ["default"]
    assert await seen("worker") == ["default"]
    assert await seen("elsewhere") == ["other"]
    assert await seen("nobody") == []
    assert await seen("overseer") == ["default", "other"]


async def test_a_key_behind_a_signature(world: World) -> None:
    """AWS's signature takes the usual header; then the key stands in another one, which wins."""
    headers = {"authorization": "AWS4-HMAC-SHA256 Credential=x", BEHIND_A_SIGNATURE: f"bearer {SECRETS['reader']}"}
    name, request = (
        f"{WORKFLOW_SERVICE}/CountWorkflowExecutions",
        service_pb.CountWorkflowExecutionsRequest(namespace="default"),
    )
    assert not await refused(world, name, request, CallContext(headers=headers))
    wrong = {"authorization": f"Bearer {SECRETS['reader']}", BEHIND_A_SIGNATURE: "Bearer wsk_wrong"}
    assert await refused(world, name, request, CallContext(headers=wrong))


async def test_without_a_configuration_all_calls_are_refused(world: World) -> None:
    closed = guarded(world, AuthConfig())
    name, request = f"{WORKFLOW_SERVICE}/ListNamespaces", service_pb.ListNamespacesRequest()
    assert await refused(closed, name, request, as_caller("operator"))
    assert not await refused(
        closed, f"{WORKFLOW_SERVICE}/GetSystemInfo", service_pb.GetSystemInfoRequest(), CallContext()
    )


async def test_calls_of_the_server_itself_need_no_credential(world: World) -> None:
    request = service_pb.CountWorkflowExecutionsRequest(namespace="default")
    rpc = WorkflowService.CountWorkflowExecutions
    assert await refused(world, rpc.full_name, request, CallContext())
    await world.frontend.call_as_server(rpc, request, CallContext())


async def test_requests_that_are_no_rpc_need_a_credential(world: World) -> None:
    from whistlestop.frontend.registry import Access

    await world.frontend.admit(Access.WRITE, "default", as_caller("writer").headers)
    for caller, namespace in (("reader", "default"), ("writer", "other"), ("writer", "")):
        with pytest.raises(ServiceError, match="Request unauthorized"):
            await world.frontend.admit(Access.WRITE, namespace, as_caller(caller).headers)


@pytest.mark.parametrize(
    "path",
    [
        f"/{WORKFLOW_SERVICE}/CountWorkflowExecutions", "/api/v1/namespaces/default/workflows/w",
        "/namespaces/default/task-queues/q/nexus-services/s/o", "/nexus/callback", "/nexus/endpoints/e/services/s/o",
    ],
)  # fmt: skip
@pytest.mark.parametrize("credential", ["", "Bearer wsk_unknown"])
async def test_unauthenticated_requests_are_refused_by_their_headers(world: World, path: str, credential: str) -> None:
    """No byte of a body is asked for."""
    status, read = await asgi_call(world, path, {"authorization": credential, "content-type": "application/json"})
    assert (status, read) == (403, 0)


@pytest.mark.parametrize(
    "path", ["/", "/no/such/path", "/api/v1/nothing", f"/{WORKFLOW_SERVICE}/Nothing", "/nexus", "/x/nexus"]
)
async def test_paths_that_do_not_exist_are_refused_at_the_head(world: World, path: str) -> None:
    """Even of known callers."""
    headers = {"authorization": f"Bearer {SECRETS['writer']}", "content-type": "application/json"}
    status, read = await asgi_call(world, path, headers)
    assert (status, read) == (501 if WORKFLOW_SERVICE in path else 404, 0)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/{WORKFLOW_SERVICE}/CountWorkflowExecutions", 429),
        ("/api/v1/namespaces/default/workflows/w", 400),
        ("/namespaces/default/task-queues/q/nexus-services/s/o", 400),
    ],
)
async def test_reading_stops_soon_after_a_body_is_too_large(world: World, path: str, status: int) -> None:
    """Whether its length is announced or not. What is read is for the client, which could not read the answer else."""
    headers = {"authorization": f"Bearer {SECRETS['writer']}", "content-type": "application/json"}
    assert await asgi_call(world, path, {**headers, "content-length": str(100 * 1024 * 1024)}) == (status, 0)
    found, read = await asgi_call(world, path, {**headers, "transfer-encoding": "chunked"})
    assert found == status
    assert read < 14 * 1024 * 1024
    announced = {**headers, "content-length": str(5 * 1024 * 1024)}
    found, read = await asgi_call(world, path, announced)
    assert (found, read > 5 * 1024 * 1024, read < 14 * 1024 * 1024) == (status, True, True)
    assert await asgi_call(world, path, {**announced, "expect": "100-continue"}) == (status, 0)


async def test_unauthenticated_requests_are_limited_to_a_small_size(world: World) -> None:
    headers = {"content-type": "application/json", "transfer-encoding": "chunked"}
    status, read = await asgi_call(world, f"/{WORKFLOW_SERVICE}/GetSystemInfo", headers)
    assert status == 429
    assert read <= 60_000


async def asgi_call(world: World, path: str, headers: dict[str, str]) -> tuple[int, int]:
    """The status that the ASGI application answers with, and how much it read of a body of 60 MB."""
    read = 0
    statuses: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 60_000
        return {"type": "http.request", "body": b" " * 60_000, "more_body": read < 60_000_000}

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "query_string": b""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    await make_app(world.frontend, world.clock)(scope, receive, send)
    return statuses[0], read


def test_every_served_rpc_is_in_one_of_two_classes() -> None:
    """Nobody may slip through between them: the namespace field, or the cluster."""
    for spec in EVERYTHING.values():
        fields = spec.request_type.DESCRIPTOR.fields_by_name
        assert spec.namespaced == ("namespace" in fields)
        assert not spec.by_token or spec.namespaced
        if spec.service == OPERATOR_SERVICE and not spec.namespaced and spec.served is not Served.UNIMPLEMENTED:
            assert spec.access == "admin"


# The document of keys


def test_a_key_is_accepted_until_it_expires() -> None:
    secret = new_key()
    keys = KeySet([ApiKey("ci", hash_of(secret), ("default:read",), 0, 100 * SECOND_NS)])
    found = keys.find(hash_of(secret), 100 * SECOND_NS - 1)
    assert found is not None
    assert (found.subject, found.namespaces) == ("key ci", {"default": Role.READ})
    assert keys.find(hash_of(secret), 100 * SECOND_NS) is None
    assert keys.find(hash_of(new_key()), 0) is None


def test_the_document_is_read_as_it_was_written() -> None:
    written = [
        ApiKey("ci", hash_of("a"), ("default:write", "a:b:read"), 1_700_000_000 * SECOND_NS, 1_800_000_000 * SECOND_NS),
        ApiKey("forever", hash_of("b"), ()),
    ]
    text = render(written)
    assert parse(text) == written
    assert dt.datetime.fromisoformat(json.loads(text)["keys"][0]["expires"]).timestamp() == 1_800_000_000
    assert parse("") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a document"),
        ("[]", "not a document"),
        ('{"keys": [{"name": "x", "grants": []}]}', "SHA-256"),
        ('{"keys": [{"name": "x", "sha256": "abc", "grants": []}]}', "SHA-256"),
        ('{"keys": [{"name": "x", "sha256": "' + "0" * 64 + '", "grants": ["default"]}]}', "NAMESPACE:ROLE"),
        ('{"keys": [{"name": "x", "sha256": "' + "0" * 64 + '", "grants": [], "expires": "soon"}]}', "soon"),
        (render([ApiKey("x", hash_of("a"), ()), ApiKey("x", hash_of("b"), ())]), "same name"),
    ],
)
def test_an_invalid_document_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadKeys, match=words):
        parse(text)


@pytest.mark.parametrize("text", ["default", "default:", ":read", "default:owner", "", "default:none"])
def test_invalid_grants(text: str) -> None:
    with pytest.raises(BadGrant):
        parse_grant(text)


def test_a_file_of_keys_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When it changed; when it is broken the old keys stay, and when it is gone none does."""
    clock, path, secret = FakeClock(), tmp_path / "keys.json", new_key()

    def known(source: FileKeys) -> bool:
        clock.pass_to(clock.steady_ns() + FILE_AGE_NS)
        keys = source.peek()
        return keys is not None and keys.find(hash_of(secret), 0) is not None

    path.write_text(render([ApiKey("ci", hash_of(secret), ())]))
    source = FileKeys(str(path), clock)
    assert known(source)
    path.write_text("{ broken")
    assert known(source)
    assert "stay valid" in caplog.text
    path.write_text(render([]))
    assert not known(source)
    path.write_text(render([ApiKey("again", hash_of(secret), ())]))
    assert known(source)
    path.unlink()
    assert not known(source)
    with pytest.raises(BadKeys, match="No such file"):
        FileKeys(str(path), clock)


async def test_keys_that_aws_keeps() -> None:
    """Asked once in five minutes; while AWS does not answer the keys that are known stay, and with none: UNAVAILABLE."""
    from whistlestop.net.aws import AwsError

    clock, secret = FakeClock(), new_key()
    answers: list[str | Exception] = [AwsError("Throttled", "later"), render([ApiKey("ci", hash_of(secret), ())])]
    asked: list[str] = []

    def fetch(place: str) -> str:
        asked.append(place)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    source = KeptByAws("ssm:/keys", clock, fetch)
    assert source.peek() is None
    with pytest.raises(ServiceError) as unknown:
        await source.load()
    assert unknown.value.code is Code.UNAVAILABLE
    clock.pass_to(clock.steady_ns() + AGAIN_NS)
    assert (await source.load()).find(hash_of(secret), 0) is not None
    clock.pass_to(clock.steady_ns() + KEPT_AGE_NS - 1)
    assert source.peek() is not None
    assert asked == ["ssm:/keys"] * 2
    clock.pass_to(clock.steady_ns() + 1)
    assert source.peek() is None
    answers[:] = [AwsError("Throttled", "later"), render([])]
    assert (await source.load()).find(hash_of(secret), 0) is not None
    clock.pass_to(clock.steady_ns() + AGAIN_NS)
    assert (await source.load()).find(hash_of(secret), 0) is None


def test_the_source_of_keys_follows_from_the_form_of_its_address(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(DOCUMENT)
    kinds = [
        type(source_of(place, FakeClock())).__name__ for place in (DOCUMENT, "ssm:/x", "secretsmanager:x", str(path))
    ]
    assert kinds == ["FixedKeys", "KeptByAws", "KeptByAws", "FileKeys"]


# What operators say


def test_a_function_refuses_all_callers_by_default() -> None:
    assert of_function(FrontendSettings()) == AuthConfig()
    assert of_function(FrontendSettings(auth_mode="NONE")) == AuthConfig()
    assert of_function(FrontendSettings(auth_mode="NONE", allow_anonymous=True)) is None
    assert of_function(FrontendSettings(auth_mode="AWS_IAM")) is None
    assert of_function(FrontendSettings(auth_mode="AWS_IAM", api_keys="ssm:/keys")) == AuthConfig("ssm:/keys")
    assert of_function(FrontendSettings(allow_anonymous=True, api_keys="ssm:/keys")) == AuthConfig("ssm:/keys")


def test_the_environment_names_the_issuer() -> None:
    environ = {"WHISTLESTOP_JWT_JWKS_URL": "https://x/jwks", "WHISTLESTOP_JWT_AUDIENCE": "a"}
    assert of_settings(read(CallerSettings, environ)).jwt == JwtConfig("https://x/jwks", audience="a")
    assert "a-secret-of-thirty-two-bytes-or-more" not in repr(
        AuthConfig(jwt=JwtConfig(key="a-secret-of-thirty-two-bytes-or-more"))
    )


@pytest.mark.parametrize(
    ("jwks_url", "key", "words"),
    [
        ("", "", "JWKS URL or one key"),
        ("https://x", "k" * 32, "not both"),
        ("ftp://x", "", "begin with"),
        ("", "short", "32 bytes"),
    ],
)
def test_an_issuer_that_makes_no_sense(jwks_url: str, key: str, words: str) -> None:
    with pytest.raises(BadAuth, match=words):
        JwtConfig(jwks_url, key)


async def test_logs_name_the_caller_and_no_secret(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    request = service_pb.StartWorkflowExecutionRequest(namespace="default")
    assert await refused(world, f"{WORKFLOW_SERVICE}/StartWorkflowExecution", request, as_caller("reader"))
    stranger = new_key()
    assert await refused(
        world,
        f"{WORKFLOW_SERVICE}/StartWorkflowExecution",
        request,
        CallContext(headers={"authorization": f"Bearer {stranger}"}),
    )
    assert "key reader may not call StartWorkflowExecution" in caplog.text
    assert "not valid" in caplog.text
    assert SECRETS["reader"] not in caplog.text
    assert stranger not in caplog.text
