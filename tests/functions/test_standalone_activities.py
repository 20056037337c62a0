"""A standalone activity through the three handlers: its retry comes in time although nothing runs meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.functions.client import QUEUE, said

if TYPE_CHECKING:
    from tests.functions.client import Cloud


async def test_an_activity_that_fails_once(cloud: Cloud) -> None:
    await cloud.call(
        "StartActivityExecution", activity_id="alone", request_id="r", activity_type={"name": "Act"}, task_queue=QUEUE,
        start_to_close_timeout={"seconds": 60}, retry_policy={"initial_interval": {"seconds": 600}},
    )  # fmt: skip
    task = await cloud.call("PollActivityTaskQueue", task_queue=QUEUE, identity="worker")
    failure = {"message": "boom", "application_failure_info": {"type": "Boom"}}
    await cloud.call("RespondActivityTaskFailed", task_token=task.task_token, failure=failure)
    cloud.later(600)
    task = await cloud.call("PollActivityTaskQueue", task_queue=QUEUE, identity="worker")
    assert (task.activity_id, task.attempt) == ("alone", 2)
    await cloud.call("RespondActivityTaskCompleted", task_token=task.task_token, result=said("done"))
    told = await cloud.call("PollActivityExecution", activity_id="alone")
    assert told.outcome.result == said("done")
    counted = await cloud.call("CountActivityExecutions", query="ExecutionStatus = 'Completed'")
    assert counted.count == 1
