"""An operation of `__temporal_system` is served by a process that has served no other RPC of its kind."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import asyncio
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr
from tests.isolation.backend import Backend
from whistlestop.storage.sqlite.store import SqliteStore

async def main():
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    backend = Backend(store)
    await backend.open()
    await backend.start("w")
    request = rr.SignalWithStartWorkflowExecutionRequest(workflow_id="target", signal_name="s")
    request.workflow_type.name, request.task_queue.name = "T", "q"
    request.workflow_id_conflict_policy = 2
    await backend.complete("w", {
        "command_type": "COMMAND_TYPE_SCHEDULE_NEXUS_OPERATION",
        "schedule_nexus_operation_command_attributes": {
            "endpoint": "__temporal_system", "service": "temporal.api.workflowservice.v1.WorkflowService",
            "operation": "SignalWithStartWorkflowExecution",
            "input": {"metadata": {"encoding": b"binary/protobuf"}, "data": request.SerializeToString()},
        },
    })
    await backend.history.transfers.drain()
    history = await backend.call("GetWorkflowExecutionHistory", namespace="default", execution={"workflow_id": "w"})
    print([event.WhichOneof("attributes") for event in history.history.events])
    await backend.call("DescribeWorkflowExecution", namespace="default", execution={"workflow_id": "target"})
    await backend.close()
    await store.close()

asyncio.run(main())
"""


def test_the_first_call_of_a_process_may_be_an_operation() -> None:
    """Its handler is imported for it."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nexus_operation_completed_event_attributes" in done.stdout
