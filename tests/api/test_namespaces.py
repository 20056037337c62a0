"""Namespaces and search attributes, through the frontend and down to the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.enums.v1 import namespace_pb2 as enums_pb
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.patience import PATIENCE_S
from whistlestop.common.clock import FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.frontend.api.namespaces import ensure_namespace, finish_deletions

if TYPE_CHECKING:
    from tests.api.fixtures import World

_DAY = {"seconds": 86_400}


def clock_of(world: World) -> FakeClock:
    assert isinstance(world.clock, FakeClock)
    return world.clock


def _register(name: str, **fields: Any) -> service_pb.RegisterNamespaceRequest:
    fields.setdefault("workflow_execution_retention_period", _DAY)
    return service_pb.RegisterNamespaceRequest(namespace=name, **fields)


async def _describe(world: World, name: str) -> Any:
    return await world.call("DescribeNamespace", service_pb.DescribeNamespaceRequest(namespace=name))


async def _refused(world: World, method: str, request: Any) -> tuple[str, str]:
    with pytest.raises(ServiceError) as caught:
        await world.call(method, request)
    return caught.value.code.name, caught.value.message


async def test_a_registered_namespace_can_be_described_and_used_at_once(world: World) -> None:
    """By name and by id."""
    await world.call("RegisterNamespace", _register("a", description="d", owner_email="o", data={"k": "v"}))
    found = await _describe(world, "a")
    info = found.namespace_info
    assert (info.name, info.description, info.owner_email, dict(info.data)) == ("a", "d", "o", {"k": "v"})
    assert info.state == enums_pb.NAMESPACE_STATE_REGISTERED
    by_id = await world.call("DescribeNamespace", service_pb.DescribeNamespaceRequest(id=info.id))
    assert by_id == found
    await world.call("CountWorkflowExecutions", service_pb.CountWorkflowExecutionsRequest(namespace="a"))


@pytest.mark.parametrize(
    ("request_fields", "expected"),
    [
        ({"workflow_execution_retention_period": {"seconds": 0}}, "A valid retention period is not set on request."),
        ({"workflow_execution_retention_period": {"seconds": 3599}}, "A valid retention period is not set on request."),
        ({"workflow_execution_retention_period": {"seconds": -5}}, "A valid retention period is not set on request."),
        ({"is_global_namespace": True}, "Cannot register global namespace when not enabled"),
        ({"active_cluster_name": "zz"}, "Invalid cluster name: zz"),
        ({"clusters": [{"cluster_name": "zz"}]}, "Invalid cluster name: zz"),
    ],
)
async def test_register_refusals(world: World, request_fields: dict[str, Any], expected: str) -> None:
    """Worded as on the real server."""
    assert await _refused(world, "RegisterNamespace", _register("n", **request_fields)) == (
        "INVALID_ARGUMENT",
        expected,
    )


async def test_a_name_is_taken_once(world: World) -> None:
    """Whoever is second hears of it."""
    assert await _refused(world, "RegisterNamespace", _register("default")) == (
        "ALREADY_EXISTS",
        'Namespace "default" already exists',
    )
    await ensure_namespace(world.frontend.ports, "default")


async def test_update_changes_what_is_set_and_leaves_the_rest(world: World) -> None:
    """Data is merged."""
    await world.call("RegisterNamespace", _register("a", data={"k": "v"}))
    update = service_pb.UpdateNamespaceRequest(namespace="a")
    update.update_info.description = "new"
    update.update_info.data["x"] = "y"
    update.config.workflow_execution_retention_ttl.seconds = 7200
    update.config.bad_binaries.binaries["sum"].reason = "bad"
    await world.call("UpdateNamespace", update)
    found = await _describe(world, "a")
    assert dict(found.namespace_info.data) == {"k": "v", "x": "y"}
    assert (found.namespace_info.description, found.config.workflow_execution_retention_ttl.seconds) == ("new", 7200)
    assert found.config.bad_binaries.binaries["sum"].reason == "bad"
    removal = service_pb.UpdateNamespaceRequest(namespace="a", delete_bad_binary="sum")
    await world.call("UpdateNamespace", removal)
    assert await _refused(world, "UpdateNamespace", removal) == (
        "INVALID_ARGUMENT",
        "Bad binary checksum sum doesn't exists.",
    )


async def test_states_only_go_forward(world: World) -> None:
    """A deprecated namespace starts nothing, and can't be registered again."""
    await world.call("RegisterNamespace", _register("a"))
    await world.call("DeprecateNamespace", service_pb.DeprecateNamespaceRequest(namespace="a"))
    assert await _refused(world, "StartWorkflowExecution", service_pb.StartWorkflowExecutionRequest(namespace="a")) == (
        "FAILED_PRECONDITION",
        "Namespace has invalid state: Deprecated. Must be Registered.",
    )
    back = service_pb.UpdateNamespaceRequest(namespace="a")
    back.update_info.state = enums_pb.NAMESPACE_STATE_REGISTERED
    assert await _refused(world, "UpdateNamespace", back) == ("INVALID_ARGUMENT", "Invalid namespace state update.")


async def test_list_goes_page_by_page(world: World) -> None:
    """Without one that is deleted."""
    for name in ("a", "b", "c"):
        await world.call("RegisterNamespace", _register(name))
    seen: list[list[str]] = []
    token = b""
    while True:
        page: Any = await world.call(
            "ListNamespaces", service_pb.ListNamespacesRequest(page_size=2, next_page_token=token)
        )
        seen.append([each.namespace_info.name for each in page.namespaces])
        token = page.next_page_token
        if not token:
            break
    assert seen == [["a", "b"], ["c", "default"]]


async def test_delete_frees_the_name_and_finishes_behind_the_scenes(world: World) -> None:
    """The id's first characters tell two deleted ones apart."""
    await world.call("RegisterNamespace", _register("a"))
    namespace_id = (await _describe(world, "a")).namespace_info.id
    reply: Any = await world.call(
        "DeleteNamespace", operator_pb.DeleteNamespaceRequest(namespace="a"), CallContext(can_long_poll=False)
    )
    assert reply.deleted_namespace == f"a-deleted-{namespace_id[:5]}"
    assert await _refused(world, "DescribeNamespace", service_pb.DescribeNamespaceRequest(namespace="a")) == (
        "NOT_FOUND",
        "Namespace a is not found.",
    )
    await world.call("RegisterNamespace", _register("a"))
    described: Any = await world.call("DescribeNamespace", service_pb.DescribeNamespaceRequest(id=namespace_id))
    assert described.namespace_info.state == enums_pb.NAMESPACE_STATE_DELETED
    assert await finish_deletions(world.frontend.ports) == 0
    await clock_of(world).advance(5)
    assert await finish_deletions(world.frontend.ports) == 1
    assert await finish_deletions(world.frontend.ports) == 0
    assert await world.frontend.ports.store.get_namespace(namespace_id=namespace_id) is None


async def test_a_deleted_namespace_is_kept_as_long_as_the_request_says(world: World) -> None:
    await world.call("RegisterNamespace", _register("a"))
    namespace_id = (await _describe(world, "a")).namespace_info.id
    request = operator_pb.DeleteNamespaceRequest(namespace="a")
    request.namespace_delete_delay.FromSeconds(3600)
    await world.call("DeleteNamespace", request)  # by a server, which goes on behind the scenes
    await clock_of(world).advance(3600)
    assert await world.frontend.ports.store.get_namespace(namespace_id=namespace_id) is not None
    async with asyncio.timeout(PATIENCE_S):
        while await world.frontend.ports.store.get_namespace(namespace_id=namespace_id) is not None:
            await clock_of(world).advance(5)


async def test_a_token_of_another_namespace_is_refused(world: World) -> None:
    """And one of a namespace that is gone."""
    await world.call("RegisterNamespace", _register("a"))
    token = TaskToken(namespace_id=(await _describe(world, "a")).namespace_info.id).SerializeToString()
    good = service_pb.RespondActivityTaskCompletedRequest(task_token=token)
    await world.call("RespondActivityTaskCompleted", good)
    assert good.namespace == "a"
    other = service_pb.RespondActivityTaskCompletedRequest(task_token=token, namespace="default")
    assert await _refused(world, "RespondActivityTaskCompleted", other) == (
        "INVALID_ARGUMENT",
        "Operation requested with a token from a different namespace.",
    )
    gone = service_pb.RespondActivityTaskCompletedRequest(task_token=TaskToken(namespace_id="x").SerializeToString())
    assert await _refused(world, "RespondActivityTaskCompleted", gone) == ("NOT_FOUND", "Namespace x is not found.")
    nameless = service_pb.RespondActivityTaskCompletedRequest(task_token=TaskToken(attempt=1).SerializeToString())
    assert await _refused(world, "RespondActivityTaskCompleted", nameless) == (
        "INVALID_ARGUMENT",
        "Namespace not set on request.",
    )


def _add(**attributes: int) -> operator_pb.AddSearchAttributesRequest:
    request = operator_pb.AddSearchAttributesRequest(namespace="default")
    for name, kind in attributes.items():
        request.search_attributes[name] = kind  # type: ignore[assignment]  # a number stands for the enum
    return request


async def _custom(world: World) -> dict[str, int]:
    listed: Any = await world.call("ListSearchAttributes", operator_pb.ListSearchAttributesRequest(namespace="default"))
    return dict(listed.custom_attributes)


async def test_search_attributes_are_added_removed_and_listed(world: World) -> None:
    """Adding one again changes nothing, not even its type."""
    await world.call("AddSearchAttributes", _add(Mine=2))
    await world.call("AddSearchAttributes", _add(Mine=3))
    assert await _custom(world) == {"CustomInt": 3, "CustomKeyword": 2, "Mine": 2}
    aliases = (await _describe(world, "default")).config.custom_search_attribute_aliases
    assert dict(aliases) == {"Int01": "CustomInt", "Keyword01": "CustomKeyword", "Keyword02": "Mine"}
    remove = operator_pb.RemoveSearchAttributesRequest(namespace="default", search_attributes=["Mine", "nope"])
    await world.call("RemoveSearchAttributes", remove)
    assert await _custom(world) == {"CustomInt": 3, "CustomKeyword": 2}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "SearchAttributes are not set on request."),
        ({"WorkflowId": 2}, "Search attribute WorkflowId is reserved by system."),
        ({"TemporalFoo": 2}, "Search attribute TemporalFoo is reserved by system."),
        ({"a": 0}, "Unable to create search attributes: cannot have more than 0 search attribute of type Unspecified."),
        ({"a": 99}, "Unknown search attribute type: 99."),
        (
            {"a": 3, "b": 3, "c": 3},
            "Unable to create search attributes: cannot have more than 3 search attribute of type Int.",
        ),
    ],
)
async def test_search_attribute_refusals(world: World, attributes: dict[str, int], message: str) -> None:
    """And nothing is written."""
    assert await _refused(world, "AddSearchAttributes", _add(**attributes)) == ("INVALID_ARGUMENT", message)
    assert await _custom(world) == {"CustomInt": 3, "CustomKeyword": 2}


async def test_a_system_attribute_is_not_removed(world: World) -> None:
    """Named in the answer."""
    request = operator_pb.RemoveSearchAttributesRequest(namespace="default", search_attributes=["WorkflowId"])
    assert await _refused(world, "RemoveSearchAttributes", request) == (
        "INVALID_ARGUMENT",
        "Unable to remove non-custom search attributes: WorkflowId.",
    )


async def test_an_rpc_that_is_not_supported_says_why(world: World) -> None:
    """After the namespace was checked, as for any other."""
    request = service_pb.ListDeploymentsRequest(namespace="default")
    code, message = await _refused(world, "ListDeployments", request)
    assert code == Code.UNIMPLEMENTED.name
    assert message == "Deployments are deprecated and no longer supported, use Worker Deployments instead"
