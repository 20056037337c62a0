"""Completions and heartbeats: what is too large fails the activity instead of bouncing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.enums.v1.query_pb2 import QueryResultType
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken

if TYPE_CHECKING:
    from tests.api.fixtures import World

_BIG = b"x" * (2 * 1024 * 1024 + 1)


async def _token(world: World) -> bytes:
    namespace = await world.frontend.ports.namespaces.by_name("default")
    assert namespace is not None
    return TaskToken(namespace_id=namespace.namespace_id, workflow_id="w").SerializeToString()


async def _ask(world: World, request: Any) -> Any:
    return await world.call(type(request).DESCRIPTOR.name.removesuffix("Request"), request)


def _reached(world: World) -> tuple[str, Any]:
    [(method, request, _)] = world.history.calls
    return method, request


@pytest.mark.parametrize(
    ("kind", "part", "reason"),
    [
        (service_pb.RespondActivityTaskCompletedRequest, "result", "Complete result exceeds size limit."),
        (service_pb.RespondActivityTaskCanceledRequest, "details", "Cancel details exceed size limit."),
        (service_pb.RecordActivityTaskHeartbeatRequest, "details", "Heartbeat details exceed size limit."),
    ],
)
async def test_too_large_by_token(world: World, kind: Any, part: str, reason: str) -> None:
    """The token goes along."""
    token = await _token(world)
    request = kind(task_token=token, identity="me")
    getattr(request, part).payloads.add(data=_BIG)
    response = await _ask(world, request)
    method, failed = _reached(world)
    assert (method, failed.task_token, failed.identity) == ("RespondActivityTaskFailed", token, "me")
    assert failed.failure.message == reason
    assert failed.failure.server_failure_info.non_retryable
    if kind is service_pb.RecordActivityTaskHeartbeatRequest:
        assert response.cancel_requested


async def test_too_large_by_id(world: World) -> None:
    """The ids go along."""
    request = service_pb.RespondActivityTaskCompletedByIdRequest(
        namespace="default", workflow_id="w", run_id="", activity_id="a"
    )
    request.result.payloads.add(data=_BIG)
    await _ask(world, request)
    method, failed = _reached(world)
    assert (method, failed.workflow_id, failed.activity_id) == ("RespondActivityTaskFailedById", "w", "a")


async def test_a_failure_that_is_too_large_is_cut(world: World) -> None:
    """The worker is told, history gets the beginning of the message: as much as is stored without a warning."""
    request = service_pb.RespondActivityTaskFailedRequest(task_token=await _token(world))
    request.failure.message = "m" * 3_000_000
    request.failure.application_failure_info.type = "T"
    request.last_heartbeat_details.payloads.add(data=_BIG)
    response = await _ask(world, request)
    method, failed = _reached(world)
    assert method == "RespondActivityTaskFailed"
    assert failed.failure.message == "Failure exceeds size limit."
    assert failed.failure.cause.application_failure_info.type == "T"
    assert 510_000 < len(failed.failure.cause.message) < 512 * 1024
    assert not failed.HasField("last_heartbeat_details")
    assert [each.message for each in response.failures] == [
        "Heartbeat details exceed size limit.",
        "Failure exceeds size limit.",
    ]


async def test_requests_within_the_limit_pass_unchanged(world: World) -> None:
    """The very request."""
    request = service_pb.RespondActivityTaskCompletedRequest(task_token=await _token(world))
    request.result.payloads.add(data=b"x")
    await _ask(world, request)
    assert _reached(world) == ("RespondActivityTaskCompleted", request)


async def test_only_application_failures_come_from_workers(world: World) -> None:
    """The server makes the others."""
    request: Any = service_pb.RespondActivityTaskFailedRequest(task_token=await _token(world))
    request.failure.timeout_failure_info.timeout_type = 1
    with pytest.raises(ServiceError, match=r"Failure must have ApplicationFailureInfo\."):
        await _ask(world, request)
    request.failure.application_failure_info.next_retry_delay.nanos = 2_000_000_000
    with pytest.raises(ServiceError, match="NextRetryDelay is not a valid duration"):
        await _ask(world, request)


async def test_a_query_answer_that_is_too_large_becomes_a_failure(world: World) -> None:
    """Of the query, not of the worker."""
    request = service_pb.RespondQueryTaskCompletedRequest(task_token=await _token(world))
    request.query_result.payloads.add(data=_BIG)
    await _ask(world, request)
    _, sent = _reached(world)
    assert (sent.completed_type, sent.error_message) == (
        QueryResultType.QUERY_RESULT_TYPE_FAILED,
        "Blob data size exceeds limit.",
    )
    assert not sent.HasField("query_result")


async def test_search_attributes_in_commands_get_their_types(world: World) -> None:
    """Clients may leave the type out; rows of visibility go by it."""
    request = service_pb.RespondWorkflowTaskCompletedRequest(task_token=await _token(world))
    command = request.commands.add()
    fields = command.upsert_workflow_search_attributes_command_attributes.search_attributes.indexed_fields
    fields["CustomInt"].metadata["encoding"] = b"json/plain"
    fields["Unknown"].data = b"1"
    await _ask(world, request)
    assert (fields["CustomInt"].metadata["type"], "type" in fields["Unknown"].metadata) == (b"Int", False)


async def test_defaults_are_filled(world: World) -> None:
    """Request id, policies, kind of task queue, retry policy, reason of a termination, stage of an update."""
    start: Any = service_pb.StartWorkflowExecutionRequest(namespace="default", workflow_id="w")
    start.workflow_type.name = "T"
    start.task_queue.name = "q"
    start.retry_policy.SetInParent()
    start.workflow_id_reuse_policy = 4
    await _ask(world, start)
    assert start.request_id
    assert (start.workflow_id_conflict_policy, start.workflow_id_reuse_policy, start.task_queue.kind) == (3, 1, 1)
    policy = start.retry_policy
    assert (policy.initial_interval.seconds, policy.maximum_interval.seconds, policy.backoff_coefficient) == (1, 100, 2)
    terminate = service_pb.TerminateWorkflowExecutionRequest(namespace="default")
    terminate.workflow_execution.workflow_id = "w"
    await _ask(world, terminate)
    assert (terminate.reason, terminate.identity) == ("terminated by user via frontend", "frontend-service")
    update = service_pb.UpdateWorkflowExecutionRequest(namespace="default")
    update.workflow_execution.workflow_id = "w"
    update.request.meta.SetInParent()
    update.request.input.name = "u"
    await _ask(world, update)
    assert update.request.meta.update_id
    assert update.wait_policy.lifecycle_stage == 3
    history = service_pb.GetWorkflowExecutionHistoryRequest(namespace="default", maximum_page_size=100_000)
    history.execution.workflow_id = "w"
    await _ask(world, history)
    assert (history.maximum_page_size, history.history_event_filter_type) == (256, 1)
