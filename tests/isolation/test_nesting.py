"""What nests is bounded where it enters, however deep it came, and what is stored can be read in every wrapping."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.message import DecodeError
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.isolation.backend import at, chain, field
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.messages import nesting
from whistlestop.common.messages.nesting import CUT_OFF, MAX_CAUSES
from whistlestop.common.messages.nexus_content import failure_json
from whistlestop.frontend.endpoints.payload_json import to_json
from whistlestop.frontend.registry import REGISTRY
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.net.decode import parse_request

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.isolation.backend import Backend

FAILURES = {
    kind.DESCRIPTOR.full_name: kind.DESCRIPTOR.fields_by_name["cause"].number
    for kind in (failure_pb.Failure, nexus_pb.Failure)
}
DEPTHS = [1, 2, MAX_CAUSES, MAX_CAUSES + 1, MAX_CAUSES + 2, 90, 97, 98, 99, 100, 101, 500, 5000]


def causes(failure: Any) -> list[str]:
    found = []
    while failure.HasField("cause"):
        failure = failure.cause
        found.append(failure.message)
    return found


def entered(kind: type[Message], data: bytes) -> Any:
    """As the endpoints and the frontend let a request in."""
    request = parse_request(kind, data)
    bound = nesting.bound_of(kind)
    if bound is not None:
        bound(request)
    return request


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_failure_keeps_so_many_causes_and_says_where_there_were_more(depth: int) -> None:
    found = causes(entered(rr.RespondActivityTaskFailedRequest, field(2, chain(depth))).failure)
    if depth - 1 <= MAX_CAUSES:
        assert found == ["x"] * (depth - 1)
    else:
        assert found == ["x"] * (MAX_CAUSES - 1) + [CUT_OFF]


def test_every_request_that_may_hold_a_failure_is_bounded() -> None:
    """A new field of the API is found by its descriptor, wherever it stands."""

    def paths(descriptor: Any, seen: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        if descriptor.full_name in FAILURES:
            return [(descriptor.full_name,)]
        if descriptor.full_name in seen:
            return []
        return [
            (each.number, *rest)
            for each in descriptor.fields
            if each.message_type is not None
            for rest in paths(each.message_type, (*seen, descriptor.full_name))
        ]

    checked = 0
    for spec in REGISTRY.values():
        for *path, kind in paths(spec.request_type.DESCRIPTOR):
            data = chain(200, cause=FAILURES[kind])
            for number in reversed(path):
                data = field(number, data)
            request = entered(spec.request_type, data)
            assert depth_of(request) <= MAX_CAUSES + 12, (spec.full_name, path)
            checked += 1
    assert checked >= 14


def depth_of(message: Any) -> int:
    deepest = 0
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.message_type.GetOptions().map_entry:
            values = [each for each in value.values() if hasattr(each, "ListFields")]
            deepest = max([deepest, 1, *(1 + depth_of(each) for each in values)])
        else:
            values = list(value) if descriptor.is_repeated else [value]
            deepest = max([deepest, *(depth_of(each) for each in values)])
    return deepest + 1


def test_a_request_that_is_no_message_is_refused_as_before() -> None:
    for data in (b"\xff\xff", field(2, chain(200))[:-3], field(2, chain(200) + b"\x0f")):
        with pytest.raises(ServiceError) as refused:
            parse_request(rr.RespondActivityTaskFailedRequest, data)
        assert refused.value.code is Code.INTERNAL


def test_many_fields_around_a_deep_failure_are_not_gone_through() -> None:
    data = b"\x18\x01" * (nesting.MAX_REQUEST_FIELDS + 1) + field(2, chain(200))
    began = time.process_time()
    with pytest.raises(ServiceError):
        parse_request(rr.RespondActivityTaskFailedRequest, data)
    few = time.process_time() - began
    began = time.process_time()
    with pytest.raises(ServiceError):
        parse_request(rr.RespondActivityTaskFailedRequest, data * 20)
    assert time.process_time() - began < few * 8 + 0.05, "the walk ends at its bound"


def test_a_state_stored_with_a_deeper_failure_is_read_with_what_is_kept() -> None:
    """As release 0.1.0 wrote it: the causes fitted into the request and not into the state."""
    activity = field(25, chain(99))
    state = field(1, b"namespace") + field(
        next(each.number for each in MutableState.DESCRIPTOR.fields if each.name == "activities"),
        b"\x08\x05" + field(2, activity),
    )
    with pytest.raises(DecodeError):
        MutableState.FromString(state)
    found = nesting.parse(MutableState, state)
    assert found.namespace_id == "namespace"
    assert len(causes(found.activities[5].last_failure)) == MAX_CAUSES + 1
    with pytest.raises(DecodeError):
        nesting.parse(MutableState, b"\xff" * 20)


def test_a_nexus_failure_and_the_causes_in_its_details_are_cut_together() -> None:
    inner = failure_pb.Failure.FromString(chain(MAX_CAUSES))
    details = nexus_pb.Failure(message="x", metadata={"type": "temporal.api.failure.v1.Failure"})
    details.details = json.dumps(failure_json(inner)["details"]).encode()
    source = nexus_pb.Failure(message="x")
    source.CopyFrom(details)
    for _ in range(MAX_CAUSES - 1):
        around = nexus_pb.Failure(message="x")
        around.cause.CopyFrom(source)
        source = around
    assert len(causes(nexus_failures.to_temporal(source))) == MAX_CAUSES


def test_a_long_chain_over_http_grows_with_its_bytes_and_not_with_their_square() -> None:
    def size(depth: int) -> int:
        return len(json.dumps(failure_json(failure_pb.Failure.FromString(chain(depth, b"\x1a\xff\x0f" + b"s" * 2047)))))

    assert size(60) < size(15) * 6


@pytest.mark.parametrize("text", ["[" * 201 + "]" * 201, '{"a":' * 100_000, "NaN", "[Infinity]", '{"a":-Infinity}'])
def test_json_of_others_that_nests_too_deeply_or_is_not_finite_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"too deeply|is not JSON|Expecting"):
        nesting.load_json(text)


def test_brackets_in_strings_are_no_nesting() -> None:
    text = '["' + "[{" * 500 + '\\"["' + ",[]" * 500 + "]"
    assert len(nesting.load_json(text)) == 501


@pytest.mark.parametrize("depth", [98, 300])
@pytest.mark.parametrize(
    "what", ["start", "activity", "retried activity", "workflow task", "fail", "continue as new", "marker"]
)
async def test_every_accepted_message_can_be_read_again(backend: Backend, what: str, depth: int) -> None:
    failure = chain(depth)
    name = "deep"
    if what == "start":
        request = rr.StartWorkflowExecutionRequest(
            namespace="default", workflow_id=name, request_id="r",
            workflow_type=common_pb.WorkflowType(name="W"), task_queue=queue_pb.TaskQueue(name=name),
        )  # fmt: skip
        deep = at(rr.StartWorkflowExecutionRequest, "continued_failure", failure)
        await backend.send("StartWorkflowExecution", request.SerializeToString() + deep)
    else:
        await backend.start(name)
        await _fail(backend, name, what, failure)
    await backend.restart()
    execution = {"workflow_id": name}
    await backend.call("DescribeWorkflowExecution", namespace="default", execution=execution)
    for method in ("GetWorkflowExecutionHistory", "GetWorkflowExecutionHistoryReverse"):
        history = await backend.call(method, namespace="default", execution=execution)
        assert history.history.events
    if what not in ("fail", "continue as new"):
        await backend.call(
            "SignalWorkflowExecution", namespace="default", workflow_execution=execution, signal_name="s"
        )
    if what in ("start", "activity", "marker"):
        assert (await backend.poll(name)).history.events
    if what != "fail":
        await backend.call("TerminateWorkflowExecution", namespace="default", workflow_execution=execution)
    await backend.call("DeleteWorkflowExecution", namespace="default", workflow_execution=execution)


async def _fail(backend: Backend, name: str, what: str, failure: bytes) -> None:
    if what == "workflow task":
        task = await backend.poll(name)
        refused = rr.RespondWorkflowTaskFailedRequest(namespace="default", task_token=task.task_token, cause=1)  # type: ignore[arg-type]
        await backend.send(
            "RespondWorkflowTaskFailed", refused.SerializeToString() + at(type(refused), "failure", failure)
        )
        return
    if what in ("fail", "continue as new", "marker"):
        task = await backend.poll(name)
        command = command_pb.Command()
        if what == "fail":
            command.command_type = ct.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION
            attributes = "fail_workflow_execution_command_attributes"
        elif what == "continue as new":
            command.command_type = ct.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION
            attributes = "continue_as_new_workflow_execution_command_attributes"
            command.continue_as_new_workflow_execution_command_attributes.workflow_type.name = "W"
            command.continue_as_new_workflow_execution_command_attributes.task_queue.name = name
        else:
            command.command_type = ct.COMMAND_TYPE_RECORD_MARKER
            attributes = "record_marker_command_attributes"
            command.record_marker_command_attributes.marker_name = "m"
        deep = command.SerializeToString() + at(command_pb.Command, f"{attributes}.failure", failure)
        done = rr.RespondWorkflowTaskCompletedRequest(namespace="default", task_token=task.task_token)
        await backend.send("RespondWorkflowTaskCompleted", done.SerializeToString() + at(type(done), "commands", deep))
        if what == "marker":
            await backend.call(
                "SignalWorkflowExecution",
                namespace="default",
                workflow_execution={"workflow_id": name},
                signal_name="s",
            )
        return
    retry = {"initial_interval": {"seconds": 500}} if what == "retried activity" else {"maximum_attempts": 1}
    await backend.complete(
        name,
        {
            "command_type": 1,
            "schedule_activity_task_command_attributes": {
                "activity_id": "a", "activity_type": {"name": "A"}, "task_queue": {"name": name},
                "schedule_to_close_timeout": {"seconds": 600}, "retry_policy": retry,
            },
        },
    )  # fmt: skip
    activity = await backend.call("PollActivityTaskQueue", namespace="default", task_queue={"name": name})
    failed = rr.RespondActivityTaskFailedRequest(namespace="default", task_token=activity.task_token)
    await backend.send("RespondActivityTaskFailed", failed.SerializeToString() + at(type(failed), "failure", failure))


async def test_spans_and_instants_that_json_has_no_form_for_spoil_no_page(backend: Backend) -> None:
    """They are stored as they came; as JSON the nearest that has a form stands for them."""
    beat = {
        "worker_instance_key": "w", "elapsed_since_last_heartbeat": {"seconds": 2**63 - 1, "nanos": -5},
        "start_time": {"seconds": 2**62}, "workflow_poller_info": {"last_successful_poll_time": {"nanos": -1}},
    }  # fmt: skip
    await backend.call("RecordWorkerHeartbeat", namespace="default", worker_heartbeat=[beat])
    listed = await backend.call("ListWorkers", namespace="default")
    shown = json.loads(to_json(listed, shorthand=True, pretty=False))
    assert shown["workersInfo"][0]["workerHeartbeat"]["elapsedSinceLastHeartbeat"] == "315576000000s"
    assert shown["workersInfo"][0]["workerHeartbeat"]["startTime"].startswith("9999-12-31")
    await backend.call("CountWorkers", namespace="default", query="StartTime > 5")


async def test_a_backfill_beyond_all_times_is_taken_as_far_as_they_go(backend: Backend) -> None:
    action = {"start_workflow": {"workflow_id": "a", "workflow_type": {"name": "W"}, "task_queue": {"name": "a"}}}
    await backend.call(
        "CreateSchedule", namespace="default", schedule_id="s", request_id="c",
        schedule={
            "spec": {"interval": [{"interval": {"seconds": 60}}], "start_time": {"seconds": 2**62}}, "action": action,
        },
        initial_patch={"backfill_request": [{"start_time": {"seconds": -(2**62)}, "end_time": {"seconds": 2**62}}]},
    )  # fmt: skip
    await backend.call("DescribeSchedule", namespace="default", schedule_id="s")


async def test_deep_and_infinite_json_of_a_memo_spoils_no_page(backend: Backend) -> None:
    for number, data in enumerate((b"[" * 5000 + b"]" * 5000, b"NaN", b"1e999", b"\xff", b'{"a":1}')):
        payload = {"metadata": {"encoding": b"json/plain"}, "data": data}
        await backend.start(f"w{number}", memo={"fields": {"k": payload}})
    listed = await backend.call("ListWorkflowExecutions", namespace="default")
    for pretty in (True, False):
        shown = json.loads(to_json(listed, shorthand=True, pretty=pretty), parse_constant=pytest.fail)
        assert len(shown["executions"]) == 5
        assert {"a": 1} in [each["memo"]["fields"]["k"] for each in shown["executions"]]


async def test_a_paused_run_is_no_finding(backend: Backend) -> None:
    await backend.start("w")
    await backend.call("PauseWorkflowExecution", namespace="default", workflow_id="w", request_id="r")
    assert await backend.store.check(10) == []
