"""A schedule through the three handlers: nothing runs between its times, and each run learns of the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.functions.client import QUEUE, said
from tests.parity import commands
from whistlestop.common.errors import ServiceError

if TYPE_CHECKING:
    from tests.functions.client import Cloud


async def _create(cloud: Cloud) -> None:
    action = {"workflow_id": "report", "workflow_type": {"name": "Journey"}, "task_queue": QUEUE}
    schedule = {"spec": {"interval": [{"interval": {"seconds": 3600}}]}, "action": {"start_workflow": action}}
    await cloud.call("CreateSchedule", schedule_id="hourly", request_id="r", schedule=schedule)


async def test_a_schedule_and_what_its_runs_hand_on(cloud: Cloud) -> None:
    await _create(cloud)
    await cloud.no_workflow_task()
    cloud.later(3600)
    await cloud.step(commands.complete_workflow("first"))
    cloud.later(3600)
    task = await cloud.step(commands.complete_workflow("second"))
    started = task.history.events[0].workflow_execution_started_event_attributes
    assert started.last_completion_result == said("first")
    described = await cloud.call("DescribeSchedule", schedule_id="hourly")
    assert described.info.action_count == 2
    assert [each.start_workflow_status for each in described.info.recent_actions] == [2, 2]
    listed = await cloud.call("ListSchedules")
    assert [each.schedule_id for each in listed.schedules] == ["hourly"]


async def test_a_trigger_whose_answer_is_lost_is_sent_again_and_acts_once(cloud: Cloud) -> None:
    """The instance dies after its commit; the caller can't know, and tries again."""
    await _create(cloud)
    patch: dict[str, Any] = {"schedule_id": "hourly", "request_id": "once", "patch": {"trigger_immediately": {}}}
    cloud.dies = "history"
    with pytest.raises(ServiceError):
        await cloud.call("PatchSchedule", **patch)
    cloud.dies = ""
    await cloud.call("PatchSchedule", **patch)
    await cloud.step(commands.complete_workflow("done"))
    await cloud.no_workflow_task()
    described = await cloud.call("DescribeSchedule", schedule_id="hourly")
    assert described.info.action_count == 1
