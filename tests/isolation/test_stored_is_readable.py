"""Whatever a request stores can be read back: by every RPC that reads, as protobuf and as JSON, and after a restart.

Any request of any RPC that writes, filled at random (see strategies.py), either is refused with a status or leaves
everything readable. What it is about (the workflow, the schedule, the task token, …) is put right, or few would get in.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.isolation.backend import Backend, full_name
from tests.isolation.strategies import messages
from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend.endpoints.payload_json import to_json
from whistlestop.frontend.registry import REGISTRY, Served
from whistlestop.storage.sqlite.store import SqliteStore

EXAMPLES = int(os.environ.get("WHISTLESTOP_EXAMPLES", "2"))
"""Of each RPC. More find more: 25 take some minutes."""
READS = ("Describe", "Get", "List", "Count", "Poll", "Query", "Scan", "Shutdown", "Validate", "Check")
BAD = (Code.INTERNAL, Code.DATA_LOSS, Code.UNKNOWN)
WRITERS = sorted(
    spec.method
    for spec in REGISTRY.values()
    if spec.namespaced and spec.served is not Served.UNIMPLEMENTED and not spec.method.startswith(READS)
    and spec.method not in ("DeleteNamespace", "DeprecateNamespace", "UpdateNamespace")
)  # fmt: skip
EXECUTION = {"workflow_id": "w"}
READERS: list[tuple[str, dict[str, Any]]] = [
    ("DescribeWorkflowExecution", {"execution": EXECUTION}),
    ("GetWorkflowExecutionHistory", {"execution": EXECUTION}),
    ("GetWorkflowExecutionHistoryReverse", {"execution": EXECUTION}),
    ("ListWorkflowExecutions", {}),
    ("CountWorkflowExecutions", {"query": "GROUP BY ExecutionStatus"}),
    ("ListSchedules", {}),
    ("DescribeSchedule", {"schedule_id": "w"}),
    ("ListScheduleMatchingTimes", {"schedule_id": "w", "start_time": {"seconds": 0}, "end_time": {"seconds": 10**9}}),
    ("ListActivityExecutions", {}),
    ("DescribeActivityExecution", {"activity_id": "w", "include_input": True, "include_outcome": True}),
    ("ListNexusOperationExecutions", {}),
    ("DescribeNexusOperationExecution", {"operation_id": "w"}),
    ("ListBatchOperations", {}),
    ("ListWorkflowRules", {}),
    ("DescribeWorkflowRule", {"rule_id": "w"}),
    ("ListWorkers", {}),
    ("DescribeTaskQueue", {"task_queue": {"name": "w"}, "task_queue_type": 1, "report_config": True}),
    ("ListWorkerDeployments", {}),
    ("DescribeWorkerDeployment", {"deployment_name": "w"}),
    ("DescribeNamespace", {}),
]


async def prepared(backend: Backend, method: str, request: Any) -> None:
    """Put right what the request is about."""
    known = request.DESCRIPTOR.fields_by_name
    for name, value in (
        ("namespace", "default"), ("workflow_id", "w"), ("schedule_id", "w"), ("activity_id", "w"), ("operation_id", "w"),
        ("job_id", "w"), ("deployment_name", "w"), ("rule_id", "w"), ("identity", "i"), ("run_id", ""), ("request_id", "r"),
        ("first_execution_run_id", ""), ("conflict_token", b""), ("signal_name", "s"),
    ):  # fmt: skip
        if name in known:
            setattr(request, name, value)
    for name in ("workflow_execution", "execution"):
        if name in known and known[name].message_type.name == "WorkflowExecution":
            getattr(request, name).workflow_id, getattr(request, name).run_id = "w", ""
    for name in ("workflow_type", "activity_type"):
        if name in known and known[name].message_type is not None:
            getattr(request, name).name = "W"
    if "task_queue" in known and known["task_queue"].message_type is not None:
        request.task_queue.Clear()
        request.task_queue.name = "w"
    if "task_token" in known:
        kind = "Activity" if "Activity" in method else "Workflow"
        poll = await backend.call(f"Poll{kind}TaskQueue", namespace="default", task_queue={"name": "w"})
        request.task_token = poll.task_token
    for command in getattr(request, "commands", ()):
        kind = command.WhichOneof("attributes")
        if kind is not None:
            command.command_type = command.DESCRIPTOR.fields_by_name[kind].number - 1
            types = {"record_marker": 9, "start_timer": 3}
            command.command_type = types.get(kind.removesuffix("_command_attributes"), command.command_type)


async def wrong(backend: Backend) -> list[str]:
    """What can't be read."""
    found = []
    for method, fields in READERS:
        spec = REGISTRY[full_name(method)]
        named = {} if "namespace" not in spec.request_type.DESCRIPTOR.fields_by_name else {"namespace": "default"}
        try:
            reply = await backend.call(method, **named, **fields)  # type: ignore[arg-type]
        except ServiceError as error:
            if error.code in BAD:
                found.append(f"{method}: {error!r}")
            continue
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            found.append(f"{method}: {error!r}")
            continue
        try:
            again = spec.response_type.FromString(reply.SerializeToString())
            for shorthand in (True, False):
                json.loads(to_json(again, shorthand=shorthand, pretty=True), parse_constant=_refuse)
        except Exception as error:  # noqa: BLE001 - likewise
            found.append(f"{method} as JSON: {error!r}")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def attempt(method: str, request: Any) -> None:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    backend = Backend(store)
    await backend.open()
    try:
        if not method.startswith(("Start", "Create", "Signal", "Execute")):
            await _begin(backend, method)
        await prepared(backend, method, request)
        context = CallContext(deadline_ns=backend.clock.steady_ns() + 10 * SECOND_NS)
        # Through the endpoint, as bytes.
        spec = REGISTRY[full_name(method)]
        sent = spec.request_type.FromString(request.SerializeToString())
        try:
            async with asyncio.timeout(0.5):
                decoded(await backend.frontend.call(spec.full_name, sent, context), spec.response_type)
        except ServiceError as error:
            assert error.code not in BAD, error  # noqa: PT017 - refusals are fine, but these are none
        except TimeoutError:
            pass
        await backend.history.transfers.drain()
        for _ in range(2):
            unread = await wrong(backend)
            assert not unread, unread
            await backend.restart()
        findings = await backend.store.check(10)
        assert not findings, findings
    finally:
        await backend.close()
        await store.close()


async def _begin(backend: Backend, method: str) -> None:
    """Something of each kind that a request may be about."""
    action = {"start_workflow": {"workflow_id": "a", "workflow_type": {"name": "W"}, "task_queue": {"name": "a"}}}
    await backend.call(
        "CreateSchedule", namespace="default", schedule_id="w", request_id="c",
        schedule={"spec": {"interval": [{"interval": {"seconds": 60}}]}, "action": action},
    )  # fmt: skip
    await backend.start("w")
    if "Activity" in method and "ActivityExecution" not in method:
        attributes = {
            "activity_id": "w", "activity_type": {"name": "A"}, "task_queue": {"name": "w"},
            "schedule_to_close_timeout": {"seconds": 600},
        }  # fmt: skip
        await backend.complete("w", {"command_type": 1, "schedule_activity_task_command_attributes": attributes})


@pytest.mark.parametrize("method", WRITERS)
def test_stored_data_of_any_request_can_be_read(method: str) -> None:
    kind = REGISTRY[full_name(method)].request_type

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def holds(data: Any) -> None:
        asyncio.run(attempt(method, data.draw(messages(kind))))

    holds()
