"""Workers that are started on demand, through the handlers: no instance remembers what another has started."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.functions.client import POLLS, QUEUE, SCHEDULED
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.functions.client import Cloud

ARN = "arn:aws:lambda:eu-central-1:123456789012:function:worker"
VERSION = {"deployment_name": "d", "build_id": "1"}
OPTIONS = {**VERSION, "worker_versioning_mode": "WORKER_VERSIONING_MODE_VERSIONED"}


class Lambda:
    """Takes invocations and starts nothing."""

    def __init__(self) -> None:
        self.started = 0
        self.paths: list[str] = []
        self.refuses = False
        self.url = ""


@pytest.fixture
def target() -> Iterator[Lambda]:
    made = Lambda()

    class Api(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return None

        def do_POST(self) -> None:
            kind = self.headers["X-Amz-Invocation-Type"]
            made.paths.append(self.path)
            if kind == "Event" and not made.refuses:
                made.started += 1
            self.send_response(403 if made.refuses else {"DryRun": 204, "Event": 202}[kind])
            self.send_header("x-amzn-errortype", "AccessDeniedException")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.url = f"http://127.0.0.1:{server.server_port}"
        yield made
        server.shutdown()


async def _version(cloud: Cloud, target: Lambda) -> None:
    """A version with a config, whose worker has come and gone."""
    cloud.store_env |= {
        "AWS_ENDPOINT_URL": target.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }  # fmt: skip
    await cloud.call("CreateWorkerDeployment", deployment_name="d", request_id="d")
    details = {"metadata": {"encoding": b"json/plain"}, "data": json.dumps({"arn": ARN}).encode()}
    group = {"provider": {"type": "aws-lambda", "details": details}}
    await cloud.call(
        "CreateWorkerDeploymentVersion", deployment_version=VERSION, request_id="v",
        compute_config={"scaling_groups": {"default": group}},
    )  # fmt: skip
    await _poll(cloud)
    await _leave(cloud)
    await cloud.call("SetWorkerDeploymentCurrentVersion", deployment_name="d", build_id="1")
    target.started = 0


async def _poll(cloud: Cloud) -> Any:
    return await cloud.call("PollWorkflowTaskQueue", task_queue=QUEUE, identity="w", deployment_options=OPTIONS)


async def _leave(cloud: Cloud, **fields: Any) -> None:
    fields.setdefault("worker_heartbeat", {"deployment_version": VERSION})
    await cloud.call("ShutdownWorker", task_queue=QUEUE["name"], identity="w", **fields)


async def _woken_until_started(cloud: Cloud, target: Lambda, count: int) -> None:
    """Wake the history function every two seconds until so many workers were started.

    On a busy machine a call may use up its time while it imports what speaks to AWS; the next one goes on.
    """
    for _ in range(POLLS):
        await cloud.invoke("history", SCHEDULED)
        if target.started >= count:
            break
        cloud.later(2)
    assert target.started == count


async def test_a_task_starts_a_worker_and_the_next_one_waits_for_it(cloud: Cloud, target: Lambda) -> None:
    await _version(cloud, target)
    await cloud.start("a")
    await cloud.start("b")
    assert target.started == 1
    assert target.paths[-1].startswith("/2015-03-31/functions/arn%3Aaws%3Alambda")
    for _ in range(2):
        task = await _poll(cloud)
        await cloud.call("RespondWorkflowTaskCompleted", task_token=task.task_token, deployment_options=OPTIONS)
    await cloud.start("c")
    assert target.started == 1, "it is alive"
    task = await _poll(cloud)
    await cloud.call("RespondWorkflowTaskCompleted", task_token=task.task_token, deployment_options=OPTIONS)
    await _leave(cloud)
    await cloud.start("d")
    assert target.started == 2


async def test_a_worker_that_sends_no_heartbeats_has_left_as_well(cloud: Cloud, target: Lambda) -> None:
    """Its goodbye does not tell its version."""
    await _version(cloud, target)
    await cloud.start("a")
    task = await _poll(cloud)
    await cloud.call("RespondWorkflowTaskCompleted", task_token=task.task_token, deployment_options=OPTIONS)
    await _leave(cloud, worker_heartbeat=None)
    await cloud.start("b")
    assert target.started == 2


async def test_a_signal_after_the_worker_has_left_starts_another_at_once(cloud: Cloud, target: Lambda) -> None:
    """The run is sticky to a worker that has gone: it does not wait for the sticky queue's timeout."""
    await _version(cloud, target)
    await cloud.start("a")
    task = await _poll(cloud)
    queue = {"name": "w-sticky", "kind": "TASK_QUEUE_KIND_STICKY", "normal_name": QUEUE["name"]}
    sticky = {"worker_task_queue": queue, "schedule_to_start_timeout": {"seconds": 10}}
    await cloud.call(
        "RespondWorkflowTaskCompleted", task_token=task.task_token, deployment_options=OPTIONS,
        sticky_attributes=sticky, versioning_behavior="VERSIONING_BEHAVIOR_PINNED",
    )  # fmt: skip
    await cloud.call("PollWorkflowTaskQueue", task_queue=queue, identity="w", deployment_options=OPTIONS)
    await cloud.call(
        "SignalWorkflowExecution", workflow_execution={"workflow_id": "a"}, signal_name="s", request_id="1"
    )
    assert target.started == 1, "its worker is there, and has the task on its sticky queue"
    task = await cloud.call("PollWorkflowTaskQueue", task_queue=queue, identity="w", deployment_options=OPTIONS)
    await cloud.call(
        "RespondWorkflowTaskCompleted", task_token=task.task_token, deployment_options=OPTIONS,
        sticky_attributes=sticky, versioning_behavior="VERSIONING_BEHAVIOR_PINNED",
    )  # fmt: skip
    await _leave(cloud, sticky_task_queue="w-sticky")
    await cloud.call(
        "SignalWorkflowExecution", workflow_execution={"workflow_id": "a"}, signal_name="s", request_id="2"
    )
    assert target.started == 2
    assert (await _poll(cloud)).workflow_execution.workflow_id == "a"


async def test_a_worker_that_does_not_poll_is_started_again_by_a_wake_up(cloud: Cloud, target: Lambda) -> None:
    await _version(cloud, target)
    await cloud.start("a")
    cloud.later(31)
    await _woken_until_started(cloud, target, 2)


async def test_a_target_that_refuses_shows_and_is_tried_again(cloud: Cloud, target: Lambda) -> None:
    await _version(cloud, target)
    target.refuses = True
    await cloud.start("a")
    described = await cloud.call("DescribeWorkerDeployment", deployment_name="d")
    (summary,) = described.worker_deployment_info.version_summaries
    assert "AccessDenied" in summary.compute_status.provider_validation.error_message
    target.refuses = False
    cloud.later(2)
    await _woken_until_started(cloud, target, 1)


async def test_a_call_that_dies_after_its_commit_is_made_good_by_the_sweep(cloud: Cloud, target: Lambda) -> None:
    await _version(cloud, target)
    cloud.dies = "history"
    with pytest.raises(ServiceError) as raised:
        await cloud.start("a")
    assert raised.value.code is Code.UNAVAILABLE
    cloud.dies = ""
    assert target.started == 0
    cloud.later(5)
    await _woken_until_started(cloud, target, 1)
