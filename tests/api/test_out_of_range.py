"""Values that protobuf's parser takes and protobuf's own types do not: bad requests, at every RPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.api.fixtures import World  # noqa: TC001 - pytest reads it
from tests.fuzz import targets
from tests.fuzz.filling import filled
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code
from whistlestop.common.messages.enum_names import enum_name
from whistlestop.common.messages.times import invalid_time
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.registry import REGISTRY
from whistlestop.net.internal.transports import invoke_envelope, wrap

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMES = {"google.protobuf.Timestamp", "google.protobuf.Duration"}
WRONG = [(2**63 - 1, 0), (-(2**63), 0), (0, 2**31 - 1), (0, -(2**31)), (10**12, 0), (5, 10**9)]
_MOST_DEPTH = 4


def paths(descriptor: Any, depth: int = 0) -> Iterator[list[Any]]:
    """Every way to a timestamp or duration, as fields."""
    for field in descriptor.fields:
        if field.message_type is None or depth > _MOST_DEPTH or field.message_type.GetOptions().map_entry:
            continue
        if field.message_type.full_name in TIMES:
            yield [field]
        elif not field.message_type.full_name.startswith("google."):
            for rest in paths(field.message_type, depth + 1):
                yield [field, *rest]


def put(message: Any, path: list[Any], seconds: int, nanos: int) -> str:
    for field in path:
        message = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
    message.seconds, message.nanos = seconds, nanos
    return ".".join(field.name for field in path)


EVERYTHING = REGISTRY | OWN_REGISTRY
WITH_TIMES = sorted(name for name, spec in EVERYTHING.items() if next(paths(spec.request_type.DESCRIPTOR), None))


@pytest.mark.parametrize("name", WITH_TIMES, ids=lambda name: name.rpartition("/")[2])
def test_a_time_out_of_range_is_no_exception(name: str) -> None:
    """Each RPC of a whole server, with each of its times: an answer or a refusal, and nothing for the log."""
    kind = EVERYTHING[name].request_type
    seen: set[str] = set()
    for number, path in enumerate(paths(kind.DESCRIPTOR)):
        key = f"{path[-1].containing_type.full_name}.{path[-1].name}"
        if key in seen:
            continue
        seen.add(key)
        request = filled(kind, b"")
        put(request, path, *WRONG[number % len(WRONG)])
        targets.call_raw(name, request.SerializeToString())
    assert seen


async def test_a_value_out_of_range_is_a_bad_request(world: World) -> None:
    """Also where another process serves it."""
    request = service_pb.StartWorkflowExecutionRequest(namespace="default", workflow_id="w")
    request.workflow_run_timeout.seconds = 2**62
    world.history.answers["StartWorkflowExecution"] = ValueError("Duration is not valid")  # type: ignore[assignment]
    envelope = wrap("StartWorkflowExecution", request, CallContext(), world.clock)
    answer = await invoke_envelope(world.history, envelope, world.clock)
    assert answer["error"]["code"] == Code.INVALID_ARGUMENT
    assert answer["error"]["message"].startswith("workflow_run_timeout is out of the range")
    request.ClearField("workflow_run_timeout")
    with pytest.raises(ValueError, match="Duration is not valid"):
        await invoke_envelope(
            world.history, wrap("StartWorkflowExecution", request, CallContext(), world.clock), world.clock
        )


@pytest.mark.parametrize("wrong", WRONG)
def test_values_that_protobuf_does_not_allow_are_found(wrong: tuple[int, int]) -> None:
    for kind in (Timestamp, Duration):
        with pytest.raises(ValueError, match="not valid"):
            kind(seconds=wrong[0], nanos=wrong[1]).ToJsonString()
    request = EVERYTHING["temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution"].request_type()
    request.retry_policy.initial_interval.seconds, request.retry_policy.initial_interval.nanos = wrong  # type: ignore[attr-defined]
    assert invalid_time(request) == "retry_policy.initial_interval"


def test_values_that_protobuf_allows_are_not_reported() -> None:
    request = EVERYTHING["temporal.api.workflowservice.v1.WorkflowService/StartWorkflowExecution"].request_type()
    for seconds, nanos in ((315_576_000_000, 999_999_999), (-315_576_000_000, -999_999_999), (-1, 0), (0, 0)):
        request.workflow_run_timeout.seconds, request.workflow_run_timeout.nanos = seconds, nanos  # type: ignore[attr-defined]
        assert invalid_time(request) == ""


def test_an_enum_value_without_a_name_is_a_number_in_json() -> None:
    assert enum_name(queue_enums.TaskQueueType, 1) == "TASK_QUEUE_TYPE_WORKFLOW"
    assert enum_name(queue_enums.TaskQueueType, 99) == "99"
