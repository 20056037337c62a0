"""An activity that travels in a webhook, over a whole backend: no worker polls its queue, ever."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from typing import TYPE_CHECKING, Any

import pytest_asyncio
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.simulation.backend import NAMESPACE, Backend
from tests.simulation.faults import Weather
from whistlestop.matching.push.webhook import Webhook
from whistlestop.net.outbound import Answer, Outbound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

VERSION = {"deployment_name": "hooks", "build_id": "1"}
SECRET = "not very secret, but long"


class Site(Outbound):
    """A backend, and the receiver of its webhooks."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.tasks: list[Any] = []
        self.answers: list[tuple[int, Any]] = []

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        message = json.loads(body)
        assert message["type"] == "activity.task"
        self.tasks.append(message["data"]["task"])
        status, said = self.answers.pop(0) if self.answers else (200, {})
        return Answer(status, {}, json.dumps(said).encode())

    async def call(self, method: str, **fields: Any) -> Any:
        request = getattr(rr, f"{method}Request")(namespace=NAMESPACE, **fields)
        return await self.backend.call(method, request, getattr(rr, f"{method}Response"))

    async def start(self, *activity_ids: str) -> None:
        """A workflow of unversioned workers, with activities on the queue of the webhook."""
        await self.call(
            "StartWorkflowExecution", workflow_id="w", request_id="w", workflow_type={"name": "T"},
            task_queue={"name": "q"},
        )  # fmt: skip
        task = await self.call("PollWorkflowTaskQueue", task_queue={"name": "q"}, identity="me")
        schedule = {
            "activity_type": {"name": "charge"},
            "task_queue": {"name": "acts"},
            "start_to_close_timeout": {"seconds": 60},
        }
        commands = [
            {
                "command_type": "COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK",
                "schedule_activity_task_command_attributes": {"activity_id": each, **schedule},
            }
            for each in activity_ids
        ]
        await self.call("RespondWorkflowTaskCompleted", task_token=task.task_token, commands=commands)

    async def events(self, wanted: int, kind: int) -> list[Any]:
        """The events of that kind, once there are as many."""
        for _ in range(30000):
            history = await self.call("GetWorkflowExecutionHistory", execution={"workflow_id": "w"})
            found = [event for event in history.history.events if event.event_type == kind]
            if len(found) >= wanted:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError([event_types.EventType.Name(event.event_type) for event in history.history.events])


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    weather = Weather()
    weather.clear()
    backend = Backend(random.Random(1), processes=1, weather=weather, note=lambda _: None)
    made = Site(backend)
    backend.providers = {"webhook": Webhook(backend.clock, backend.ids, outbound=made)}
    await backend.open()
    await made.call("CreateWorkerDeployment", deployment_name="hooks", request_id="d")
    details = {"url": "https://example.org/", "secret": SECRET, "mode": "task", "task_queues": ["acts"]}
    provider = {
        "type": "webhook",
        "details": {"metadata": {"encoding": b"json/plain"}, "data": json.dumps(details).encode()},
    }
    group = {"provider": provider, "task_queue_types": ["TASK_QUEUE_TYPE_ACTIVITY"]}
    await made.call(
        "CreateWorkerDeploymentVersion", deployment_version=VERSION, request_id="v",
        compute_config={"scaling_groups": {"default": group}},
    )  # fmt: skip
    await made.call("SetWorkerDeploymentCurrentVersion", deployment_name="hooks", build_id="1")
    yield made
    await backend.close()


async def test_activities_are_done_by_their_webhook(site: Site) -> None:
    result = {"payloads": [{"data": base64.b64encode(b"paid").decode()}]}
    site.answers = [(200, {"result": result})] * 3
    await site.start("a", "b", "c")
    completed = await site.events(3, event_types.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    assert {event.activity_task_completed_event_attributes.result.payloads[0].data for event in completed} == {b"paid"}
    assert sorted(task["activityId"] for task in site.tasks) == ["a", "b", "c"]
    assert {task["activityType"]["name"] for task in site.tasks} == {"charge"}


async def test_a_webhook_that_fails_is_tried_again_by_the_activity_s_retry_policy(site: Site) -> None:
    site.answers = [(503, {}), (200, {})]
    await site.start("a")
    for _ in range(20):
        await asyncio.sleep(0.01)
        await site.backend.clock.advance(1)
    await site.events(1, event_types.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    assert [task["attempt"] for task in site.tasks] == [1, 2]


async def test_the_secret_is_masked_and_kept_when_the_mask_is_sent_back(site: Site) -> None:
    described = await site.call("DescribeWorkerDeploymentVersion", deployment_version=VERSION)
    group = described.worker_deployment_version_info.compute_config.scaling_groups["default"]
    shown = json.loads(group.provider.details.data)
    assert (shown["secret"], shown["url"]) == ("***", "https://example.org/")
    shown["url"] = "https://example.net/"
    group.provider.details.data = json.dumps(shown).encode()
    await site.call(
        "UpdateWorkerDeploymentVersionComputeConfig", deployment_version=VERSION, request_id="u",
        compute_config_scaling_groups={
            "default": {"scaling_group": group, "update_mask": {"paths": ["provider.details"]}}
        },
    )  # fmt: skip
    stored = await site.backend.processes[0].history.engine.deployments.read(site.backend.namespace_id)
    (version,) = stored.deployments[0].versions
    kept = json.loads(
        version.worker_deployment_version_info.compute_config.scaling_groups["default"].provider.details.data
    )
    assert (kept["secret"], kept["url"]) == (SECRET, "https://example.net/")
