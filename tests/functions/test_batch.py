"""A batch job through the handlers: a turn when it is started, and one for each time the schedule wakes the function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import batch_operation_pb2 as batch_enums

from tests.functions.client import QUEUE, SCHEDULED

if TYPE_CHECKING:
    from tests.functions.client import Cloud

COMPLETED = batch_enums.BATCH_OPERATION_STATE_COMPLETED


async def test_a_job_is_done_in_turns(cloud: Cloud) -> None:
    for number in range(3):
        await cloud.call(
            "StartWorkflowExecution", workflow_id=f"w{number}", request_id="r", workflow_type={"name": "T"},
            task_queue=QUEUE,
        )  # fmt: skip
    await cloud.call(
        "StartBatchOperation", job_id="job", reason="why", visibility_query="WorkflowType = 'T'",
        termination_operation={},
    )  # fmt: skip
    for _ in range(5):
        if (await cloud.invoke("frontend", SCHEDULED))["batches"] == 0:
            break
        cloud.later(15)
    job = await cloud.call("DescribeBatchOperation", job_id="job")
    assert (job.state, job.complete_operation_count) == (COMPLETED, 3)
    left = await cloud.call("CountWorkflowExecutions", query="ExecutionStatus = 'Running'")
    assert left.count == 0
