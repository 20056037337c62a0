"""Nexus over HTTP at its endpoint: what of a request goes on, and what is refused before anything is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.nexus_pb2 import (
    CompleteNexusOperationRequest,
    DispatchNexusTaskRequest,
    DispatchNexusTaskResponse,
)
from whistlestop.frontend.api.callbacks import check_callbacks
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.endpoints import nexus
from whistlestop.net import addresses
from whistlestop.net.http.answer import HttpAnswer, HttpRequest
from whistlestop.net.http.asgi import send_answer

if TYPE_CHECKING:
    from tests.api.fixtures import World

QUEUE = "/namespaces/default/task-queues/handlers/nexus-services/letters/send"
SIGNED = {
    "authorization": "AWS4-HMAC-SHA256 Credential=AKIA/20261124/eu-west-1/lambda/aws4_request, Signature=aa",
    "x-amz-security-token": "session", "x-amz-date": "20261124T120000Z",
}  # fmt: skip


async def ask(world: World, path: str, headers: dict[str, str]) -> HttpAnswer:
    """The answer of the endpoint; history would let the handler succeed, and take any completion."""
    answer = DispatchNexusTaskResponse()
    answer.response.start_operation.sync_success.SetInParent()
    world.history.answers |= {"DispatchNexusTask": answer, "CompleteNexusOperation": answer}
    found = await nexus.serve(
        world.frontend, world.clock, HttpRequest("POST", path, "", headers, b""), can_long_poll=True
    )
    assert found is not None
    return found


async def test_a_signature_of_aws_is_not_forwarded(world: World) -> None:
    """By it AWS has asked who calls; another credential is the handler's to check where the server asks nobody."""
    for path in (QUEUE, "/namespaces/default/nexus/callback"):
        for headers in (SIGNED, {"authorization": "Bearer mine"}):
            assert (await ask(world, path, {"x-mine": "kept", **headers})).status == 200
    seen = [
        dict(request.request.header if isinstance(request, DispatchNexusTaskRequest) else request.headers)
        for _, request, _ in world.history.calls
        if isinstance(request, DispatchNexusTaskRequest | CompleteNexusOperationRequest)
    ]
    assert seen == 2 * [{"x-mine": "kept"}, {"x-mine": "kept", "authorization": "Bearer mine"}]
    assert not any("x-amz-security-token" in context.headers for _, _, context in world.history.calls)


@pytest.mark.parametrize("limit", ["9" * 400 + "m", "9223372036855ms", "1e3s", "x"])
async def test_a_time_limit_without_end_is_a_bad_request(world: World, limit: str) -> None:
    assert (await ask(world, QUEUE, {"request-timeout": limit})).status == 400


async def test_a_header_that_a_worker_names_ends_no_answer() -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = {"Content-x": "1\r\nset-cookie: a=b", "Content-a: b": "1", "Content-\u20ac": "1", "Content-y": "\u20ac"}
    await send_answer(send, HttpAnswer(200, b"", headers))
    assert sent[0]["headers"] == [(b"Content-y", b"?"), (b"content-length", b"0")]


@pytest.mark.parametrize(
    ("url", "pattern", "allowed"),
    [
        ("https://hooks.example.com/x", "*.example.com", True),
        ("https://hooks.example.com:8443/x", "*.example.com", False),
        ("https://hooks.example.com:8443/x", "*.example.com:*", True),
        ("https://[::1]:80/", "[::1]:*", True),
        ("https://hooksXexample.com/", "hooks.example.com", False),
        ("https://ab/", "a?", False),
        # Where the request would go is what counts, and not a user's name before it.
        ("https://localhost:x@elsewhere.example/", "localhost:*", False),
        ("https://user@hooks.example.com/", "*.example.com", True),
    ],
)
async def test_address_patterns_match_as_in_temporal(world: World, url: str, pattern: str, *, allowed: bool) -> None:
    assert addresses.matches(urlsplit(url), pattern) is allowed
    callback = common_pb.Callback(nexus=common_pb.Callback.Nexus(url=url))
    rules = replace(world.frontend._checks.rules, config=FrontendConfig(callback_allowed_addresses=((pattern, False),)))
    if allowed:
        check_callbacks([callback], rules)
        return
    with pytest.raises(ServiceError, match="does not match any configured callback address") as refused:
        check_callbacks([callback], rules)
    assert refused.value.code is Code.INVALID_ARGUMENT
