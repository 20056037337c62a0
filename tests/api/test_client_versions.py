"""Clients that are too new for this server, or that say that this server does not suit them, are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from temporalio.api.errordetails.v1 import message_pb2 as details_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.api.test_nexus_over_http import QUEUE, ask
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend import client_versions
from whistlestop.frontend.registry import WORKFLOW_SERVICE

if TYPE_CHECKING:
    from tests.api.fixtures import World

CALLBACK = "/namespaces/default/nexus/callback"


def _client(version: str, servers: str = "", name: str = "temporal-go") -> dict[str, str]:
    return {"client-name": name, "client-version": version, "supported-server-versions": servers}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        _client("1.48.0", ">=1.0.0 <2.0.0"),
        _client("2.0.0-rc.1"),
        _client("2.9.0", name="temporal-ui"),
        _client("99.0.0", name="temporal-python"),
        _client("99.0.0", name="somebody"),
        _client("1.0.0+build.7", "<1.0.0 || >=1.32.0"),
        _client("1.0.0", "1.x"),
        _client("1.0.0", "1.32.x !1.32.1"),
        _client("1.0.0", ">= 1.0.0 <2.0.0"),
        _client("", "<1.0.0"),
    ],
)
async def test_supported_clients_are_served(world: World, headers: dict[str, str]) -> None:
    await world.frontend.call(
        f"{WORKFLOW_SERVICE}/GetSystemInfo", rr.GetSystemInfoRequest(), CallContext(headers=headers)
    )


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (_client("1.2"), "Unable to parse client version: No Major.Minor.Patch elements found"),
        (_client("1.2.x"), 'Unable to parse client version: Invalid character(s) found in patch number "x"'),
        (_client("01.2.3"), 'Unable to parse client version: Major number must not contain leading zeroes "01"'),
        (_client("1.2.3-"), 'Unable to parse client version: Invalid character(s) found in prerelease ""'),
        (_client("9" * 10_000 + ".0.0"), "Unable to parse client version: a version has at most 256 characters"),
        (
            _client("1.0.0", ">>1.0.0"),
            'Unable to parse supported server versions: Could not parse comparator ">>" in ">>1.0.0"',
        ),
        (
            _client("1.0.0", "new"),
            'Unable to parse supported server versions: Could not get version from string: "new"',
        ),
        (
            _client("1.0.0", "1.0.0 ||"),
            "Unable to parse supported server versions: an alternative of the range is empty",
        ),
    ],
)
async def test_a_version_that_cannot_be_parsed_is_an_invalid_argument(
    world: World, headers: dict[str, str], message: str
) -> None:
    with pytest.raises(ServiceError) as refused:
        await world.call("GetSystemInfo", rr.GetSystemInfoRequest(), CallContext(headers=headers))
    assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, message)


@pytest.mark.parametrize("version", ["2.0.0", "2.0.1-rc.1", "99.0.0"])
async def test_the_refusal_of_a_too_new_client_names_the_supported_versions(world: World, version: str) -> None:
    with pytest.raises(ServiceError) as refused:
        await world.call("GetSystemInfo", rr.GetSystemInfoRequest(), CallContext(headers=_client(version)))
    assert refused.value.code is Code.FAILED_PRECONDITION
    assert refused.value.message == (
        f"Client version {version} is not supported. Server supports temporal-go versions: <2.0.0"
    )
    assert refused.value.details == (
        details_pb.ClientVersionNotSupportedFailure(
            client_version=version, client_name="temporal-go", supported_versions="<2.0.0"
        ),
    )


@pytest.mark.parametrize("servers", ["<1.0.0", ">=2.0.0", "2.x", ">1.32.0", "!=1.32.0", "<1.32.x", ">1.x"])
async def test_the_refusal_of_a_client_for_other_servers_names_this_server(world: World, servers: str) -> None:
    with pytest.raises(ServiceError) as refused:
        await world.call("GetSystemInfo", rr.GetSystemInfoRequest(), CallContext(headers=_client("1.0.0", servers)))
    assert refused.value.code is Code.FAILED_PRECONDITION
    assert (
        refused.value.message == f"Server version 1.32.0 is not supported. Client supports server versions: {servers}"
    )
    assert refused.value.details == (
        details_pb.ServerVersionNotSupportedFailure(server_version="1.32.0", client_supported_server_versions=servers),
    )


@pytest.mark.parametrize("path", [QUEUE, CALLBACK])
async def test_nexus_names_its_client_by_the_user_agent(world: World, path: str) -> None:
    for agent in ("Nexus-go-sdk/v1.0.0", "Nexus-go-sdk/v99.0.0/v1", "Mozilla/5.0 (X11)", "temporalio/server"):
        assert (await ask(world, path, {"user-agent": agent})).status == 200
    world.history.calls.clear()
    refused = await ask(world, path, {"user-agent": "Nexus-go-sdk/v99.0.0"})
    assert refused.status == 400
    assert b"Client version 99.0.0 is not supported" in refused.body
    assert world.history.calls == []


def test_the_version_of_a_client_is_parsed_once() -> None:
    """The check stands in the way of every call."""
    headers = _client("1.47.11", ">=1.0.0 <2.0.0")
    client_versions.check(headers)
    before = client_versions._fault.cache_info()
    for _ in range(100):
        client_versions.check(headers)
    after = client_versions._fault.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (100, 0)
