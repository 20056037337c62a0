"""Clients and workers as these tests play them: plain HTTP calls, each of them a Function URL event."""

from __future__ import annotations

import asyncio
import base64
import copy
import gzip
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.enums.v1 import event_type_pb2 as event_types
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.functions import instance
from tests.parity.puppet import payloads
from whistlestop.frontend.endpoints.connect import error_from_answer
from whistlestop.frontend.registry import REGISTRY, WORKFLOW_SERVICE
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.storage.interface import Store

_EVENTS = Path(__file__).parents[1] / "events"
_FUNCTION_URL: dict[str, Any] = json.loads((_EVENTS / "function_url_connect.json").read_text())
SCHEDULED: dict[str, Any] = json.loads((_EVENTS / "scheduled.json").read_text())
SECOND_NS = 1_000_000_000
NAMESPACE = "default"
QUEUE = {"name": "line"}
POLLS = 40


@asynccontextmanager
async def opened(env: dict[str, str]) -> AsyncIterator[Store]:
    """The store that functions find in `env`."""
    url = env.get("WHISTLESTOP_DATABASE_URL")
    store: Store = PostgresStore(url, pool_size=1) if url else SqliteStore(env["WHISTLESTOP_SQLITE_PATH"])
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def function_url_event(path: str, body: bytes, timeout_ms: int) -> dict[str, Any]:
    """A POST of protobuf as a Function URL hands it to its function."""
    event = copy.deepcopy(_FUNCTION_URL)
    event["rawPath"] = event["requestContext"]["http"]["path"] = path
    event["headers"] |= {"content-length": str(len(body)), "connect-timeout-ms": str(timeout_ms)}
    event["body"] = base64.b64encode(body).decode()
    return event


@dataclass(slots=True)
class Cloud:
    """The three functions over one store."""

    folder: Path
    store_env: dict[str, str]
    clock_ahead_ns: int = 0
    dies: str = ""
    """A function whose next instances die between their commit and what follows from it."""
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {
            **self.store_env,
            "WHISTLESTOP_HISTORY_FUNCTION": "history",
            "WHISTLESTOP_MATCHING_FUNCTION": "matching",
            "TEST_CLOCK_AHEAD_NS": str(self.clock_ahead_ns),
            "TEST_DIES": self.dies,
            "WHISTLESTOP_ALLOW_ANONYMOUS": "true",
        }

    def later(self, seconds: float) -> None:
        """Time passes, and nothing runs meanwhile."""
        self.clock_ahead_ns += int(seconds * SECOND_NS)

    async def invoke(self, function: str, event: dict[str, Any]) -> dict[str, Any]:
        """Call a function. Fails the test when the instance died of it."""
        outcome = await asyncio.to_thread(instance.call, self.folder, function, event, self.env)
        assert "error" not in outcome, outcome["error"]
        for used, cpu_ms in outcome["used"]:
            self.cpu_ms.setdefault(used, []).append(cpu_ms)
        answer: dict[str, Any] = outcome["answer"]
        return answer

    async def call(self, method: str, timeout_ms: int = 20_000, **fields: Any) -> Any:
        """An RPC of WorkflowService; raises ServiceError."""
        name = f"{WORKFLOW_SERVICE}/{method}"
        request = REGISTRY[name].request_type(**{"namespace": NAMESPACE, **fields})
        event = function_url_event(f"/{name}", request.SerializeToString(), timeout_ms)
        answer = await self.invoke("frontend", event)
        body = base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"].encode()
        if answer["headers"].get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if answer["statusCode"] != 200:
            raise error_from_answer(answer["statusCode"], body)
        return REGISTRY[name].response_type.FromString(body)

    # As a client.

    async def start(self, workflow_id: str, **fields: Any) -> str:
        """Start a workflow; its run id."""
        reply = await self.call(
            "StartWorkflowExecution",
            **{
                "workflow_id": workflow_id,
                "workflow_type": {"name": "Journey"},
                "task_queue": QUEUE,
                "request_id": f"start-{workflow_id}",
                "identity": "client",
                "workflow_task_timeout": {"seconds": 600},  # of real time: a call is a new interpreter in some tests
                **fields,
            },
        )
        return str(reply.run_id)

    async def history(self, workflow_id: str, run_id: str = "") -> list[history_pb.HistoryEvent]:
        """All events of the run."""
        reply: rr.GetWorkflowExecutionHistoryResponse = await self.call(
            "GetWorkflowExecutionHistory", execution={"workflow_id": workflow_id, "run_id": run_id}
        )
        assert not reply.next_page_token
        return list(reply.history.events)

    async def event_names(self, workflow_id: str, run_id: str = "") -> list[str]:
        """The events of the run, in short: `WorkflowTaskScheduled`."""
        return [short_name(event) for event in await self.history(workflow_id, run_id)]

    async def close_event(self, workflow_id: str, timeout_ms: int = 20_000) -> history_pb.HistoryEvent | None:
        """Wait for the end of the run."""
        reply: rr.GetWorkflowExecutionHistoryResponse = await self.call(
            "GetWorkflowExecutionHistory",
            timeout_ms,
            execution={"workflow_id": workflow_id},
            wait_new_event=True,
            history_event_filter_type="HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT",
        )
        return reply.history.events[0] if reply.history.events else None

    async def status(self, workflow_id: str) -> str:
        """As DescribeWorkflowExecution tells it, without its prefix."""
        reply = await self.call("DescribeWorkflowExecution", execution={"workflow_id": workflow_id})
        info = reply.workflow_execution_info
        name: str = info.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[info.status].name
        return name.removeprefix("WORKFLOW_EXECUTION_STATUS_")

    # As a worker.

    async def workflow_task(self, queue: dict[str, Any] | None = None) -> rr.PollWorkflowTaskQueueResponse:
        """Poll until there is a workflow task or a query."""
        for _ in range(POLLS):
            reply = await self.call("PollWorkflowTaskQueue", task_queue=queue or QUEUE, identity="worker")
            if reply.task_token:
                assert isinstance(reply, rr.PollWorkflowTaskQueueResponse)
                return reply
        raise AssertionError(f"no workflow task in {POLLS} polls")

    async def no_workflow_task(self) -> None:
        """One poll, which gets nothing."""
        reply = await self.call("PollWorkflowTaskQueue", task_queue=QUEUE, identity="worker")
        assert reply == rr.PollWorkflowTaskQueueResponse()

    async def activity_task(self) -> rr.PollActivityTaskQueueResponse:
        """Poll until there is an activity."""
        for _ in range(POLLS):
            reply = await self.call("PollActivityTaskQueue", task_queue=QUEUE, identity="worker")
            if reply.task_token:
                assert isinstance(reply, rr.PollActivityTaskQueueResponse)
                return reply
        raise AssertionError(f"no activity task in {POLLS} polls")

    async def complete(self, task: rr.PollWorkflowTaskQueueResponse, *commands: Any, **fields: Any) -> Any:
        """Answer a workflow task."""
        return await self.call(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=commands, identity="worker", **fields
        )

    async def step(self, *commands: Any, **fields: Any) -> rr.PollWorkflowTaskQueueResponse:
        """Poll for a workflow task and answer it with commands."""
        task = await self.workflow_task()
        await self.complete(task, *commands, **fields)
        return task


def short_name(event: history_pb.HistoryEvent) -> str:
    """`EVENT_TYPE_TIMER_FIRED` as `TimerFired`."""
    return event_types.EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").title().replace("_", "")


def new_events(task: rr.PollWorkflowTaskQueueResponse) -> list[str]:
    """What happened since the last task that was completed: what its commands did, and what came after."""
    return [
        short_name(event)
        for event in task.history.events
        if event.event_id > task.previous_started_event_id and not short_name(event).startswith("WorkflowTask")
    ]


def said(*texts: str) -> common_pb.Payloads:
    """The payloads of some texts."""
    return common_pb.Payloads(**payloads(*texts))
