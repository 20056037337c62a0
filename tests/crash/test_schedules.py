"""`kill -9` of a server whose schedules act every second: each action is taken, and none twice."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from typing import TYPE_CHECKING

import pytest
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import schedule_pb2 as sched
from temporalio.api.schedule.v1 import message_pb2 as schedule_pb
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflow.v1 import message_pb2 as workflow_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.crash.kill9 import Server, connect
from tests.crash.test_kill9 import KILLS
from tests.support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from temporalio.client import Client

SCHEDULES = ("a", "b", "c")


async def _create(client: Client, schedule_id: str) -> None:
    action = workflow_pb.NewWorkflowExecutionInfo(
        workflow_id=f"w-{schedule_id}",
        workflow_type=common_pb.WorkflowType(name="T"),
        task_queue=queue_pb.TaskQueue(name="q"),
    )
    every = schedule_pb.IntervalSpec()
    every.interval.seconds = 1
    schedule = schedule_pb.Schedule(
        spec=schedule_pb.ScheduleSpec(interval=[every]),
        action=schedule_pb.ScheduleAction(start_workflow=action),
        policies=schedule_pb.SchedulePolicies(overlap_policy=sched.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL),
    )
    await client.workflow_service.create_schedule(
        rr.CreateScheduleRequest(
            namespace="default", schedule_id=schedule_id, request_id=schedule_id, schedule=schedule
        )
    )


async def _pause(client: Client, schedule_id: str) -> None:
    await client.workflow_service.patch_schedule(
        rr.PatchScheduleRequest(
            namespace="default",
            schedule_id=schedule_id,
            patch=schedule_pb.SchedulePatch(pause="to count its actions"),
        )
    )


async def _problems(client: Client, schedule_id: str) -> list[str]:
    """Return what is wrong with a schedule that is paused."""
    service = client.workflow_service
    described = await service.describe_schedule(
        rr.DescribeScheduleRequest(namespace="default", schedule_id=schedule_id)
    )
    query = f"TemporalScheduledById = '{schedule_id}'"
    counted = await service.count_workflow_executions(
        rr.CountWorkflowExecutionsRequest(namespace="default", query=query)
    )
    first_s = described.info.create_time.seconds + 1
    last_s = described.info.recent_actions[-1].schedule_time.seconds
    due = last_s - first_s + 1
    if described.info.action_count == counted.count == due:
        return []
    return [f"{schedule_id}: due {due}, noted {described.info.action_count}, started {counted.count}"]


@pytest.mark.slow
@pytest.mark.sdk
@pytest.mark.timeout(600 + 20 * KILLS)
async def test_every_action_is_taken_once(tmp_path: Path) -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with (tmp_path / "server.log").open("ab") as log:
        server = Server(["start-dev", "--headless", "--db-filename", str(tmp_path / "crash.db")], free_port(), log)
        server.start()
        try:
            await server.until_ready()
            client = await connect(server)
            for schedule_id in SCHEDULES:
                await _create(client, schedule_id)
            for _ in range(KILLS):
                # A kill is likelier to hit something when it comes near a whole second.
                await asyncio.sleep(chance.uniform(1, 2) + (1 - time.time() % 1))
                server.kill()
                server.start()
                await server.until_ready()
            client = await connect(server)
            await asyncio.sleep(3)
            problems: list[str] = []
            for schedule_id in SCHEDULES:
                await _pause(client, schedule_id)
                problems += await _problems(client, schedule_id)
        finally:
            server.kill()
    assert problems == []
    assert "Traceback" not in (tmp_path / "server.log").read_text(errors="replace")
