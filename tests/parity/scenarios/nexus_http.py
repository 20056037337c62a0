"""Nexus over HTTP: requests of somebody outside for an endpoint's workers, and completions from elsewhere."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.parity.puppet import NAMESPACE, failure, payload
from tests.parity.scenarios import scenario, slow_scenario
from tests.parity.scenarios.nexus import LINK, endpoint

if TYPE_CHECKING:
    import httpx

    from tests.parity.puppet import Puppet

JSON = {"content-type": "application/json"}
KNOWS_FAILURES = {"temporal-nexus-failure-support": "true"}
HELD_BY_HTTP_CLIENTS = {"accept", "connection", "content-length", "user-agent"}


def services(p: Puppet) -> str:
    return f"/namespaces/{NAMESPACE}/task-queues/{p.task_queue}/nexus-services"


async def taken(p: Puppet) -> Any:
    """A worker's poll; what it got goes into the transcript, but for the time that is left."""
    task = await p.call("PollNexusTaskQueue", record=False, **p.poll_fields())
    request = task.request
    for name in [name for name in request.header if name.lower() in HELD_BY_HTTP_CLIENTS]:
        del request.header[name]
    for name in ("request-timeout", "Request-Timeout"):
        p.note(name, name in request.header)
        request.header.pop(name, None)
    p.note("operation timeout", request.header.pop("operation-timeout", "")[-2:])
    p.note("headers", dict(sorted(request.header.items())))
    request.header.clear()
    p.note("request", p.normalised(request))
    return task


async def complete(p: Puppet, task: Any, **start_operation: Any) -> None:
    await p.call(
        "RespondNexusTaskCompleted", task_token=task.task_token, identity="worker",
        response={"start_operation": start_operation},
    )  # fmt: skip


async def asked(
    p: Puppet,
    *responses: dict[str, Any],
    path: str = "",
    headers: dict[str, str] | None = None,
    body: bytes = b'"in"',
    fails: dict[str, Any] | None = None,
) -> httpx.Response:
    """Ask for an operation; a worker answers with a response, or refuses."""
    asking = asyncio.create_task(p.send(path or f"{services(p)}/svc/op", headers=headers or JSON, body=body))
    task = await taken(p)
    if fails is not None:
        await p.attempt("RespondNexusTaskFailed", task_token=task.task_token, identity="worker", **fails)
    for response in responses:
        await complete(p, task, **response)
    return p.answered(await asking)


# ---- starts ----------------------------------------------------------------------------------------------------------


@scenario
async def http_start_of_an_endpoint(p: Puppet) -> None:
    made = await endpoint(p)
    headers = {
        **JSON, "nexus-request-id": "request", "Trace": "1", "nexus-callback-token": "t",
        "nexus-link": f'<{LINK["url"]}>; type="{LINK["type"]}"', "operation-timeout": "10s",
    }  # fmt: skip
    path = f"/nexus/endpoints/{made.id}/services/{quote('my service')}/op?callback=http%3A%2F%2Fhere%2Fback"
    success = {"sync_success": {"payload": payload("out"), "links": [LINK, {**LINK, "type": "other"}]}}
    await asked(p, success, path=path, headers=headers)


@scenario
async def http_start_that_goes_on(p: Puppet) -> None:
    await asked(p, {"async_success": {"operation_token": "token", "links": [LINK]}})
    await asked(p, {"async_success": {"operation_id": "id"}})


@scenario
async def http_payloads_in_and_out(p: Puppet) -> None:
    nothing: dict[str, Any] = {"sync_success": {}}
    kinds: tuple[dict[str, str], ...] = (
        {},
        {"content-type": "application/octet-stream"},
        {"content-type": 'application/json; format=protobuf; message-type="a.B"'},
        {"content-type": 'application/x-protobuf; message-type="a.B"'},
        {"content-type": "application/x-protobuf"},
        {"content-type": "application/json; charset=utf-8"},
        {"content-type": "text/markdown", "content-language": "en"},
    )
    for headers in kinds:
        await asked(p, nothing, headers={"x": "y", **headers})
    await asked(p, nothing, headers={"x": "y"}, body=b"")
    metadata: tuple[dict[str, bytes], ...] = (
        {},
        {"encoding": b"binary/plain"},
        {"encoding": b"binary/null"},
        {"encoding": b"json/protobuf", "messageType": b"a.B"},
        {"encoding": b"binary/protobuf", "messageType": b"a.B"},
        {"encoding": b"json/plain", "more": b"1"},
        {"encoding": b"unknown/nexus-content", "type": b"text/plain", "language": b"en"},
    )
    for each in metadata:
        data = b"" if each.get("encoding") == b"binary/null" else b"data"
        await asked(p, {"sync_success": {"payload": {"metadata": each, "data": data}}})


@scenario
async def http_operations_that_fail(p: Puppet) -> None:
    caused = {**failure("broken"), "cause": failure("inner"), "stack_trace": "here"}
    old = {"message": "old", "metadata": {"k": "v"}, "details": b'{"a": 1}'}
    canceled: dict[str, Any] = {"message": "enough", "canceled_failure_info": {}}
    for headers in (JSON, JSON | KNOWS_FAILURES):
        await asked(p, {"failure": caused}, headers=headers)
        await asked(p, {"failure": canceled}, headers=headers)
        for state in ("failed", "canceled"):
            await asked(p, {"operation_error": {"operation_state": state, "failure": old}}, headers=headers)


@scenario
async def http_handlers_that_refuse(p: Puppet) -> None:
    kinds = (
        "BAD_REQUEST", "REQUEST_TIMEOUT", "CONFLICT", "UNAUTHENTICATED", "UNAUTHORIZED", "NOT_FOUND",
        "RESOURCE_EXHAUSTED", "INTERNAL", "NOT_IMPLEMENTED", "UNAVAILABLE", "UPSTREAM_TIMEOUT", "ODD",
    )  # fmt: skip
    for kind in kinds:
        await asked(p, fails={"failure": {"message": "no", "nexus_handler_failure_info": {"type": kind}}})
    for headers in (JSON, JSON | KNOWS_FAILURES):
        for behavior in ("RETRYABLE", "NON_RETRYABLE"):
            info = {"type": "INTERNAL", "retry_behavior": f"NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_{behavior}"}
            refusal = {"message": "no", "cause": failure("why"), "nexus_handler_failure_info": info}
            await asked(p, fails={"failure": refusal}, headers=headers)
            old = {"error_type": "NOT_FOUND", "retry_behavior": info["retry_behavior"], "failure": {"message": "gone"}}
            await asked(p, fails={"error": old}, headers=headers)


@scenario
async def http_answers_that_say_nothing(p: Puppet) -> None:
    await asked(p, {})


# ---- cancellations ---------------------------------------------------------------------------------------------------


@scenario
async def http_cancellations(p: Puppet) -> None:
    made = await endpoint(p)
    base = f"/nexus/endpoints/{made.id}/services/svc/op"
    ways: tuple[tuple[str, dict[str, str]], ...] = (
        (f"{base}/cancel", {"nexus-operation-token": "token"}),
        (f"{base}/cancel?token=token", {}),
        (f"{base}/token/cancel", {}),
    )
    for path, headers in ways:
        asking = asyncio.create_task(p.send(path, headers=headers))
        task = await taken(p)
        response: dict[str, Any] = {"cancel_operation": {}}
        await p.call("RespondNexusTaskCompleted", task_token=task.task_token, identity="worker", response=response)
        p.answered(await asking)
    refusal = {"message": "no", "nexus_handler_failure_info": {"type": "NOT_FOUND"}}
    await asked(p, path=f"{base}/cancel?token=token", fails={"failure": refusal})
    await p.post(f"{base}/cancel")


# ---- what is refused -------------------------------------------------------------------------------------------------


@scenario
async def http_requests_that_are_refused(p: Puppet) -> None:
    made = await endpoint(p)
    base = f"/nexus/endpoints/{made.id}/services"
    outside = {"name": p.id("outside"), "target": {"external": {"url": "https://example.com/nexus"}}}
    external = (await p.call("CreateNexusEndpoint", record=False, spec=outside)).endpoint
    await p.post(f"/nexus/endpoints/{uuid.uuid4()}/services/svc/op", headers=JSON)
    await p.post(f"/nexus/endpoints/{external.id}/services/svc/op", headers=JSON)
    await p.post(f"/namespaces/nowhere/task-queues/{p.task_queue}/nexus-services/svc/op", headers=JSON)
    await p.post(f"/namespaces/{'n' * 1001}/task-queues/{p.task_queue}/nexus-services/svc/op", headers=JSON)
    await p.post(f"{base}/svc/op", method="GET")
    for rest in ("svc", "svc/op/more", "svc/op/token/stop", "svc/op/token/more/cancel"):
        await p.post(f"{base}/{rest}", headers=JSON)
    for text in ("soon", "-1s", "1h", ""):
        headers = {"request-timeout": text or "1 s"}
        await p.post(f"{base}/svc/op", headers=headers)
    for link in ("x", "<>; type=x", "<u>", "<u>; kind=x", '<u>; type="x', "<u>; type=a b"):
        await p.post(f"{base}/svc/op", headers={"nexus-link": link})
    await p.post(f"{base}/svc/op", headers={"content-type": "application/x-temporal-payload"}, body=b"\xff")
    await p.post(f"{base}/svc/op", headers=JSON, body=b"x" * (2 * 1024 * 1024 + 1))
    await p.post(f"{base}/svc/op", headers=JSON, body=b"x" * (2 * 1024 * 1024))
    await p.post(f"{base}/svc/op", headers=JSON | {"request-timeout": "500ms"})


@slow_scenario
async def http_requests_that_nobody_answers(p: Puppet) -> None:
    await p.post(f"{services(p)}/svc/op", headers=JSON | {"request-timeout": "1500ms"})
    asking = asyncio.create_task(p.send(f"{services(p)}/svc/op", headers=JSON | {"request-timeout": "2.5s"}))
    task = await taken(p)
    p.answered(await asking)
    answered: dict[str, Any] = {"start_operation": {"sync_success": {}}}
    await p.refused("RespondNexusTaskCompleted", task_token=task.task_token, identity="worker", response=answered)


# ---- completions -----------------------------------------------------------------------------------------------------


@scenario
async def http_completions_that_are_refused(p: Puppet) -> None:
    back = f"/namespaces/{NAMESPACE}/nexus/callback"
    success = {**JSON, "nexus-operation-state": "succeeded"}
    failed = {**JSON, "nexus-operation-state": "failed"}
    await p.post(back, headers=success)
    await p.post("/nexus/callback", headers=success | {"temporal-callback-token": "junk"})
    await p.post(back, headers={})
    await p.post(back, headers=JSON | {"nexus-operation-state": "running"})
    await p.post(back, headers={"nexus-operation-state": "failed"}, body=b"{}")
    await p.post(back, headers=failed, body=b"{")
    await p.post(back, headers=failed, body=b'"text"')
    await p.post(back, headers=success | {"nexus-operation-start-time": "yesterday"})
    await p.post(back, headers=success | {"nexus-operation-close-time": "yesterday"})
    await p.post(back, headers=success | {"nexus-link": "junk"})
