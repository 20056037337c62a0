"""The stack on LocalStack: deployed by SAM, driven through its Function URL only, woken by SQS and Scheduler, deleted.

Proved by this: the template, the bundles, what the functions say to AWS and to each other. Not proved, for LocalStack
enforces or has none of it: IAM, VPCs, memory limits, Amazon Linux wheels, frozen processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from benchmarks import functions as counted
from infra.localstack.server import REGION, running
from temporalio.worker import Worker

from tests import postgres
from tests.bridge import programs
from tests.functions.client import QUEUE, SECOND_NS, new_events, said, short_name
from tests.functions.talk import ask
from tests.infra.dns import door_to
from tests.infra.stack import INFRA, Deployed, Stack, deploy
from tests.parity import commands
from tests.parity.puppet import payloads
from tests.patience import PATIENCE_S
from whistlestop.bridge import connect
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.timers.aws_wake_ups import scheduled_ns
from whistlestop.storage.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from temporalio.api.history.v1.message_pb2 import HistoryEvent

pytestmark = [pytest.mark.timeout(1200), pytest.mark.sdk]

PORT = 19610
NAME = "whistlestop-test"
HOUR_S = 3600
SDK_S = PATIENCE_S
IDLE_S = 12
"""After this a bridge that is woken looks by itself once in `LOOK_S`."""
LOOK_S = 70
TIMES = {"echo": 5, "saga": 1, "timer": 1}
INVOKED = {"echo": 26, "saga": 102, "timer": 55}
"""By one workflow, as docs/cost.md has it for a worker that pulls."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """With a day between sweeps, so that no test's timer is found by one by accident."""
    folder = tmp_path_factory.mktemp("localstack")
    async with contextlib.AsyncExitStack() as exits:
        url = await exits.enter_async_context(postgres.migrated_database())
        server = exits.enter_context(running(PORT, folder))
        yield deploy(
            NAME, server, folder / "build", DatabaseUrl=url, SweepRate="rate(1 day)",
            WorkerFunctionArns=f"arn:aws:lambda:{REGION}:000000000000:function:{NAME}-worker-*",
        )  # fmt: skip
        store = PostgresStore(url, pool_size=1)
        await store.open()
        findings = await store.check(10)
        await store.close()
        assert findings == []


@pytest_asyncio.fixture
async def cloud(stack: Stack) -> Deployed:
    made = Deployed(stack.server.log.parent, {}, endpoint=stack.outputs["Endpoint"], port=PORT)
    with contextlib.suppress(ServiceError):
        await made.call(
            "RegisterNamespace", namespace="default", workflow_execution_retention_period={"seconds": 72 * HOUR_S}
        )
    return made


async def _event_comes(cloud: Deployed, workflow_id: str, name: str) -> HistoryEvent:
    """Watch from outside, without a poll that would fire timers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for event in await cloud.history(workflow_id):
                if short_name(event) == name:
                    return event
            await asyncio.sleep(0.3)


async def _timer_fires(cloud: Deployed, workflow_id: str) -> None:
    """Not before its time, by the clock of the functions."""
    started = await _event_comes(cloud, workflow_id, "TimerStarted")
    lasts = started.timer_started_event_attributes.start_to_fire_timeout
    fired = await _event_comes(cloud, workflow_id, "TimerFired")
    assert fired.event_time.ToNanoseconds() >= started.event_time.ToNanoseconds() + lasts.ToNanoseconds()


async def _schedule_comes(stack: Stack, cloud: Deployed, workflow_id: str) -> str:
    """The one-time schedule of the run's timer.

    It comes when the wake of a workflow task's timeout has come, which stands for all that is due later.
    """
    started = await _event_comes(cloud, workflow_id, "TimerStarted")
    lasts = started.timer_started_event_attributes.start_to_fire_timeout
    at_ns = started.event_time.ToNanoseconds() + lasts.ToNanoseconds()
    name = f"wake-{datetime.fromtimestamp(scheduled_ns(at_ns) / SECOND_NS, UTC):%Y%m%dT%H%M}"
    async with asyncio.timeout(PATIENCE_S):
        while name not in stack.one_time_schedules():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.3)
    return name


def test_every_resource_is_there(stack: Stack) -> None:
    """What LocalStack does not support it passes over in silence, with the physical id `unknown`."""
    resources = stack.resources()
    assert [name for name, (_, physical_id) in resources.items() if physical_id in {"", "unknown"}] == []
    kinds = [kind for kind, _ in resources.values()]
    assert kinds.count("AWS::Lambda::Function") == 3
    assert {"AWS::Lambda::Url", "AWS::SQS::Queue", "AWS::Scheduler::Schedule", "AWS::IAM::Role"} <= set(kinds)


async def test_a_workflow(cloud: Deployed) -> None:
    """An activity that fails once, a timer, a signal, a query, and the end."""
    await cloud.start("order")
    await cloud.step(commands.activity("charge", QUEUE["name"]))
    first = await cloud.activity_task()
    await cloud.call(
        "RespondActivityTaskFailed",
        task_token=first.task_token,
        failure={"message": "no signal", "application_failure_info": {"type": "Signal"}},
    )
    second = await cloud.activity_task()
    assert second.attempt == 2
    await cloud.call("RespondActivityTaskCompleted", task_token=second.task_token, result=payloads("paid"))
    task = await cloud.step(commands.timer("rest", 1))
    assert new_events(task) == ["ActivityTaskScheduled", "ActivityTaskStarted", "ActivityTaskCompleted"]
    assert new_events(await cloud.step()) == ["TimerStarted", "TimerFired"]

    asking = asyncio.ensure_future(ask(cloud, "order"))
    task = await cloud.workflow_task()
    assert task.query.query_type == "state"
    await cloud.call(
        "RespondQueryTaskCompleted",
        task_token=task.task_token,
        completed_type="QUERY_RESULT_TYPE_ANSWERED",
        query_result=payloads("waiting"),
    )
    assert await asking == said("waiting")

    await cloud.call("SignalWorkflowExecution", workflow_execution={"workflow_id": "order"}, signal_name="approve")
    task = await cloud.step(commands.complete_workflow("done"))
    assert new_events(task) == ["WorkflowExecutionSignaled"]
    closed = await cloud.close_event("order")
    assert closed is not None
    assert closed.workflow_execution_completed_event_attributes.result == said("done")
    assert await cloud.status("order") == "COMPLETED"


async def test_an_unchanged_worker_of_the_official_sdk(
    stack: Stack, cloud: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the bridge: an activity with a retry, a timer, a signal, a query, an update and a child."""
    for name, value in stack.server.client_environ.items():
        monkeypatch.setenv(name, value)
    with door_to(stack.outputs["Endpoint"], PORT) as target:
        async with (
            asyncio.timeout(SDK_S),
            connect(target, sigv4=True, region=REGION) as client,
            Worker(
                client,
                task_queue=programs.QUEUE,
                workflows=[programs.Order, programs.Parcel],
                activities=[programs.charge],
            ),
        ):
            handle = await client.start_workflow(programs.Order.run, "tea", id="saga", task_queue=programs.QUEUE)
            await handle.signal(programs.Order.note, "by train")
            assert await handle.execute_update(programs.Order.address, "Paddington") == "sent to Paddington"
            assert await handle.result() == programs.Outcome("charged tea", ["by train"], "Paddington", "parcel of tea")
            assert await handle.query(programs.Order.state) == "charged tea"


async def test_an_idle_worker_is_notified_through_its_queue(
    stack: Stack, cloud: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started by somebody else, when its bridge would look by itself again in a minute only."""
    for name, value in stack.server.client_environ.items():
        monkeypatch.setenv(name, value)

    def queues() -> list[str]:
        listed = stack.client("sqs").list_queues(QueueNamePrefix=f"{NAME}-bridge-")
        return list(listed.get("QueueUrls", ()))

    with door_to(stack.outputs["Endpoint"], PORT) as target:
        async with (
            asyncio.timeout(SDK_S),
            connect(target, sigv4=True, region=REGION, notification_queue="auto") as client,
            Worker(client, task_queue="parcels", workflows=[programs.Parcel]),
        ):
            while not queues():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.2)
            await asyncio.sleep(IDLE_S)
            began_s = time.monotonic()
            await cloud.start(
                "woken", workflow_type={"name": "Parcel"}, task_queue={"name": "parcels"}, input=payloads("tea")
            )
            assert await client.get_workflow_handle("woken").result() == "parcel of tea"
            assert time.monotonic() - began_s < LOOK_S - IDLE_S, "its own look would have come as soon"
    assert queues() == []


async def test_workflows_invoke_what_was_counted_without_localstack(
    stack: Stack, cloud: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the lines that begin an invocation in the functions' logs: LocalStack writes them as Lambda does."""
    for name, value in stack.server.client_environ.items():
        monkeypatch.setenv(name, value)
    found = {}
    with door_to(stack.outputs["Endpoint"], PORT) as target:
        async with (
            asyncio.timeout(SDK_S),
            connect(target, sigv4=True, region=REGION) as client,
            Worker(
                client, task_queue=counted.QUEUE, workflows=[counted.Echo, counted.Nap, programs.Order, programs.Parcel],
                activities=[counted.shout, programs.charge],
            ),
        ):  # fmt: skip
            await counted.echo(client, "warm")
            for name, times in TIMES.items():
                began_ms = time.time_ns() // 1_000_000
                for number in range(times):
                    await counted.WORKLOADS[name](client, f"{name}-{number}")
                found[name] = await _invocations(stack, began_ms) / times
    print("invocations of a workflow:", found)
    assert found == pytest.approx(INVOKED, rel=0.67)


async def _invocations(stack: Stack, since_ms: int) -> int:
    """Of all functions; their lines are written a little after."""
    await asyncio.sleep(0.5)
    logs = stack.client("logs")
    found = 0
    for function in ("frontend", "history", "matching"):
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=f"/aws/lambda/{NAME}-{function}", startTime=since_ms
        )
        lines = [line for page in await asyncio.to_thread(list, pages) for line in page["events"]]
        found += sum(line["message"].startswith("START RequestId") for line in lines)
    return found


async def test_a_refusal(cloud: Deployed) -> None:
    """Errors keep their status and details on the way through two functions and the URL."""
    with pytest.raises(ServiceError) as raised:
        await cloud.call("DescribeWorkflowExecution", execution={"workflow_id": "nowhere"})
    assert raised.value.code is Code.NOT_FOUND
    assert [type(detail).__name__ for detail in raised.value.details] == ["NotFoundFailure"]


async def test_a_timer_fires_by_a_message(stack: Stack, cloud: Deployed) -> None:
    """Nobody polls: the delayed message wakes history."""
    await cloud.start("nap")
    await cloud.step(commands.timer("t", 3))
    await _timer_fires(cloud, "nap")
    await cloud.step(commands.complete_workflow())


async def test_a_timer_of_an_hour_fires_by_a_schedule(stack: Stack, cloud: Deployed) -> None:
    """The schedule comes early and goes; what it wakes arms a message that comes in time."""
    await cloud.start("long")
    await cloud.step(commands.timer("t", HOUR_S))
    name = await _schedule_comes(stack, cloud, "long")
    stack.server.ahead(HOUR_S - 6)
    await _timer_fires(cloud, "long")
    async with asyncio.timeout(PATIENCE_S):
        while name in stack.one_time_schedules():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.3)
    await cloud.step(commands.complete_workflow())


async def test_the_sweep_finds_timers_of_a_lost_wake_up(stack: Stack, cloud: Deployed) -> None:
    """The one-time schedule is gone; the recurring one comes."""
    await cloud.start("lost")
    await cloud.step(commands.timer("t", 2 * HOUR_S))
    name = await _schedule_comes(stack, cloud, "lost")
    stack.client("scheduler").delete_schedule(Name=name, GroupName=stack.outputs["WakeScheduleGroup"])
    stack.server.ahead(25 * HOUR_S)
    await _timer_fires(cloud, "lost")
    await cloud.step(commands.complete_workflow())


async def test_a_pushed_worker_serves_a_workflow_without_a_worker(
    stack: Stack, cloud: Deployed, tmp_path: Path
) -> None:
    """The worker template that we ship: nobody polls, a function is started, works through the URL, and is gone."""
    with door_to(stack.outputs["Endpoint"], PORT) as url:
        worker = deploy(
            f"{NAME}-worker-1", stack.server, tmp_path / "build", folder=INFRA / "worker", FrontendUrl=url,
            FrontendFunctionArn=stack.outputs["FrontendFunctionArn"], DeploymentName="shop", BuildId="1",
            TaskQueue="pushed", Timeout="60",
        )  # fmt: skip
        version = {"deployment_name": "shop", "build_id": "1"}
        await cloud.call("CreateWorkerDeployment", deployment_name="shop", request_id="shop")
        details = json.dumps({"arn": worker.outputs["WorkerFunctionArn"]}).encode()
        provider = {"type": "aws-lambda", "details": {"metadata": {"encoding": b"json/plain"}, "data": details}}
        await cloud.call(
            "CreateWorkerDeploymentVersion", deployment_version=version, request_id="1",
            compute_config={"scaling_groups": {"default": {"provider": provider}}},
        )  # fmt: skip
        await _registers(cloud, version)
        await cloud.call("SetWorkerDeploymentCurrentVersion", deployment_name="shop", build_id="1")
        await _worker_leaves(cloud)
        await cloud.call(
            "StartWorkflowExecution", workflow_id="pushed", request_id="pushed", workflow_type={"name": "Greeting"},
            task_queue={"name": "pushed"}, input=payloads("you"),
        )  # fmt: skip
        closed = await _ends(cloud, "pushed")
        assert closed.workflow_execution_completed_event_attributes.result == said("Hello, you!")
        workers = await _workers(cloud, "pushed")
        assert len(workers) == 1, "one was enough"
        assert workers.pop().endswith(f":function:{NAME}-worker-1"), "the SDK names its invocation and its function"
        described = await cloud.call("DescribeWorkerDeployment", deployment_name="shop")
        (summary,) = described.worker_deployment_info.version_summaries
        assert summary.compute_status.provider_validation.error_message == ""
        await _worker_leaves(cloud)
    worker.delete()


async def _registers(cloud: Deployed, version: dict[str, str]) -> None:
    """The worker that was started when the version was made polls its queues."""
    async with asyncio.timeout(SDK_S):
        while True:
            described = await cloud.call("DescribeWorkerDeploymentVersion", deployment_version=version)
            if len(described.version_task_queues) == 2:
                return
            await asyncio.sleep(0.5)


async def _ends(cloud: Deployed, workflow_id: str) -> HistoryEvent:
    """Its last event."""
    async with asyncio.timeout(SDK_S):
        while True:
            closed = await cloud.close_event(workflow_id)
            if closed is not None:
                return closed
            await asyncio.sleep(0.5)


async def _worker_leaves(cloud: Deployed) -> None:
    """Its time is over, and it has said goodbye."""
    async with asyncio.timeout(SDK_S):
        while True:
            described = await cloud.call("DescribeTaskQueue", task_queue={"name": "pushed"}, task_queue_type=1)
            if not described.pollers:
                return
            await asyncio.sleep(0.5)


async def _workers(cloud: Deployed, workflow_id: str) -> set[str]:
    """Who worked on it."""
    return {
        event.workflow_task_started_event_attributes.identity or event.activity_task_started_event_attributes.identity
        for event in await cloud.history(workflow_id)
        if short_name(event) in ("WorkflowTaskStarted", "ActivityTaskStarted")
    }


def test_no_wake_up_failed(stack: Stack) -> None:
    sqs = stack.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{NAME}-failed-wakes")["QueueUrl"]
    assert sqs.receive_message(QueueUrl=url, WaitTimeSeconds=0).get("Messages", []) == []


def test_the_stack_goes(stack: Stack) -> None:
    """And leaves nothing."""
    stack.delete()
    assert stack.client("lambda").list_functions()["Functions"] == []
    assert stack.client("sqs").list_queues().get("QueueUrls", []) == []
    groups = [group["Name"] for group in stack.client("scheduler").list_schedule_groups()["ScheduleGroups"]]
    assert groups == ["default"]
