"""The HTTP worker protocol as a stranger would use it: the example worker, and the page's own curl lines."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, CancelledError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.api.test_auth import DOCUMENT, SECRETS
from tests.bridge.test_auth import guarded_functions
from tests.patience import PATIENCE_S
from whistlestop.bridge import connect
from whistlestop.frontend.auth.config import AuthConfig
from whistlestop.server.config import ServerConfig
from whistlestop.server.process import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "http_worker" / "worker.py"
PAGE = ROOT / "docs" / "http-protocol.md"
QUEUE = "letters"


@workflow.defn
class Letter:
    """Calls the example's activities."""

    @workflow.run
    async def run(self, name: str) -> list[str]:
        once: Any = {"task_queue": QUEUE, "start_to_close_timeout": timedelta(seconds=20)}
        retry = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=3)
        greeting = await workflow.execute_activity("greet", name, retry_policy=retry, **once)
        late = await workflow.execute_activity("flaky", retry_policy=retry, **once)
        try:
            await workflow.execute_activity("unknown", retry_policy=RetryPolicy(maximum_attempts=1), **once)
        except ActivityError as error:
            return [greeting, late, type(error.cause).__name__, getattr(error.cause, "type", "")]
        return []


@workflow.defn
class Unwanted:
    """Its activity goes on until it hears that it is cancelled."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            "endless", task_queue=QUEUE, start_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(seconds=30), cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )  # fmt: skip


@pytest.fixture(params=["open", "guarded"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    auth = AuthConfig(DOCUMENT) if request.param == "guarded" else None
    async with Server(ServerConfig(port=0, metrics_port=None, auth=auth)) as running:
        yield running


@pytest.fixture
async def functions(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of functions that ask for keys."""
    async with guarded_functions(tmp_path, DOCUMENT) as url:
        yield url


async def client_of(server: Server) -> Client:
    return await Client.connect(f"127.0.0.1:{server.port}", api_key=SECRETS["writer"], tls=False)


@asynccontextmanager
async def example(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The example, with a key of the role `worker`, which is enough."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE, url, QUEUE, env={**os.environ, "WHISTLESTOP_API_KEY": SECRETS["worker"]},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.sdk
async def test_a_workflow_is_served_by_the_example(server: Server) -> None:
    """Arguments and results, a retry, a failure by its type, and a cancellation heard by a heartbeat."""
    client = await client_of(server)
    runner = UnsandboxedWorkflowRunner()
    worker = Worker(client, task_queue="flows", workflows=[Letter, Unwanted], workflow_runner=runner)
    async with asyncio.timeout(PATIENCE_S), worker, example(f"http://127.0.0.1:{server.http_port}"):
        result = await client.execute_workflow(Letter.run, "Ann", id="letter", task_queue="flows")
        assert result == ["Hello Ann", "at last", "ApplicationError", "KeyError"]
        unwanted = await client.start_workflow(Unwanted.run, id="unwanted", task_queue="flows")
        async for event in unwanted.fetch_history_events(wait_new_event=True):
            if event.HasField("activity_task_scheduled_event_attributes"):
                break
        described = await unwanted.describe()
        while not described.raw_description.pending_activities[0].HasField("heartbeat_details"):
            await asyncio.sleep(0.02)
            described = await unwanted.describe()
        await unwanted.cancel()
        with pytest.raises(WorkflowFailureError) as cancelled:
            await unwanted.result()
        assert isinstance(cancelled.value.cause, CancelledError)


@pytest.mark.parametrize("server", ["guarded"], indirect=True)
async def test_an_example_that_may_not_stops(server: Server) -> None:
    """It does not ask for ever, and says why."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE, f"http://127.0.0.1:{server.http_port}", QUEUE,
        env={**os.environ, "WHISTLESTOP_API_KEY": SECRETS["reader"]},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        output, _ = await process.communicate()
    assert process.returncode == 1
    assert b"permission_denied: Request unauthorized." in output
    assert SECRETS["reader"].encode() not in output


def test_the_example_is_one_page_of_the_standard_library() -> None:
    text = EXAMPLE.read_text("utf-8")
    assert len(text.splitlines()) < 150
    imported = re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
    assert set(imported) <= sys.stdlib_module_names


async def test_the_example_works_against_functions(functions: str) -> None:
    """They answer polls at once; a retry is in between, so that it looks more than once."""
    async with asyncio.timeout(PATIENCE_S), example(functions), connect(functions, api_key=SECRETS["writer"]) as client:
        result = await client.execute_activity(
            "flaky", id="flaky-1", task_queue=QUEUE, start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200)), result_type=str,
        )  # fmt: skip
        assert result == "at last"


async def test_the_pages_curl_lines_at_functions(functions: str) -> None:
    answers = await curl_lines(functions)
    assert answers[-1]["workflowExecutionInfo"]["status"] == "WORKFLOW_EXECUTION_STATUS_COMPLETED"


async def test_the_pages_curl_lines(server: Server) -> None:
    """All of its shell blocks, one after the other, print what the page says."""
    answers = await curl_lines(f"http://127.0.0.1:{server.http_port}")
    results = [_result(answer["outcome"]) for answer in answers if "outcome" in answer]
    assert results == ["Hello Ann"]
    assert answers[-1]["workflowExecutionInfo"]["status"] == "WORKFLOW_EXECUTION_STATUS_COMPLETED"
    description = await (await client_of(server)).get_workflow_handle("short-1").describe()
    assert description.status is WorkflowExecutionStatus.COMPLETED


async def curl_lines(url: str) -> list[Any]:
    """What the calls of the page answer."""
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    assert "PollActivityTaskQueue" in script
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "URL": url, "KEY": SECRETS["writer"]},
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        output, complaints = await process.communicate()
    assert process.returncode == 0, (output, complaints)
    decoder, answers, text = json.JSONDecoder(), [], output.decode()
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:].lstrip()
    return answers


def _result(outcome: Any) -> Any:
    return json.loads(base64.b64decode(outcome["result"]["payloads"][0]["data"]))
