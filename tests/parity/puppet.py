"""A client and a scripted worker over raw gRPC, which write down all that a server answers.

A scenario gets a `Puppet` and calls RPCs through it. Each answer and each refusal goes into the transcript, normalised,
in the order in which the scenario asked; so two servers that behave alike leave equal transcripts.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import symbol_database
from google.protobuf.json_format import MessageToDict
from temporalio.api.common.v1 import message_pb2 as common_pb
from temporalio.api.common.v1.grpc_status_pb2 import GrpcStatus
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as workflow_pb

from tests.parity.normalise import Normaliser

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import httpx
    from google.protobuf.message import Message

_SYMBOLS = symbol_database.Default()
WORKFLOW_SERVICE = "temporal.api.workflowservice.v1.WorkflowService"
OPERATOR_SERVICE = "temporal.api.operatorservice.v1.OperatorService"
NAMESPACE = "default"
POLL_SECONDS = 10.0
A_SECOND = 1.05

LINKED_LATER = frozenset({"QueryWorkflow"})
"""Their answers have a link since a later release than the one that is compared with: tests/server/test_links.py."""

MEANINGFUL_HEADERS = ("nexus-", "content-type", "temporal-")


def seconds(number: float) -> timedelta:
    """A duration."""
    return timedelta(seconds=number)


def payload(text: str) -> dict[str, Any]:
    """A JSON string as a payload."""
    return {"metadata": {"encoding": b"json/plain"}, "data": f'"{text}"'.encode()}


def payloads(*texts: str) -> dict[str, Any]:
    """JSON strings as payloads."""
    return {"payloads": [payload(text) for text in texts]}


def attribute(value: str, kind: str = "Keyword") -> dict[str, Any]:
    """A search attribute: its JSON text and its type."""
    return {"metadata": {"encoding": b"json/plain", "type": kind.encode()}, "data": value.encode()}


def failure(message: str, kind: str = "Boom", *, non_retryable: bool = False, **fields: Any) -> dict[str, Any]:
    """An application failure."""
    info = {"type": kind, "non_retryable": non_retryable, **fields}
    return {"message": message, "source": "Puppet", "application_failure_info": info}


def cases(*given: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Requests that are tried one after the other, each by the fields in which it differs."""
    return given


class Refused(Exception):
    """The server answered with an error, which stands in the transcript already."""

    def __init__(self, rpc: str, code: str, message: str) -> None:
        super().__init__(f"{rpc}: {code}: {message}")
        self.code = code
        self.message = message


@dataclass
class Transcript:
    """What one server answered to one scenario."""

    entries: list[Any] = field(default_factory=list)

    def add(self, label: str, value: Any) -> None:
        self.entries.append({label: value})


class Pending:
    """A call under way; its answer is written down when it is awaited."""

    def __init__(self, puppet: Puppet, rpc: str, call: asyncio.Task[Message], *, record: bool = True) -> None:
        self._puppet = puppet
        self._rpc = rpc
        self._call = call
        self._record = record

    def done(self) -> bool:
        return self._call.done()

    async def answer(self) -> Any:
        return await self._puppet.finish(self._rpc, self._call, record=self._record)

    async def refused(self) -> Refused:
        try:
            await self.answer()
        except Refused as refusal:
            return refusal
        raise AssertionError(f"{self._rpc} was expected to be refused")

    async def abandon(self) -> None:
        self._call.cancel()
        await asyncio.gather(self._call, return_exceptions=True)


class Puppet:
    """One scenario's client and worker. Names of its own making carry a prefix no other scenario has."""

    def __init__(self, channel: grpc.aio.Channel, http: httpx.AsyncClient | None = None) -> None:
        self._channel = channel
        self._http = http
        self.prefix = f"p{secrets.token_hex(6)}"
        self.task_queue = f"{self.prefix}-queue"
        self.workflow_id = f"{self.prefix}-workflow"
        self.transcript = Transcript()
        self._numbers = itertools.count(1)
        self._normaliser = Normaliser(self.prefix)

    # Calls

    def begin(self, rpc: str, *, record: bool = True, deadline: float = POLL_SECONDS, **fields: Any) -> Pending:
        """Send a request without waiting for its answer."""
        service, module = (
            (OPERATOR_SERVICE, operator_pb)
            if hasattr(operator_pb, f"{rpc}Request")
            else (WORKFLOW_SERVICE, workflow_pb)
        )
        request_type = getattr(module, f"{rpc}Request")
        response_type = getattr(module, f"{rpc}Response")
        if "namespace" in request_type.DESCRIPTOR.fields_by_name:
            fields.setdefault("namespace", NAMESPACE)
        call = self._channel.unary_unary(
            f"/{service}/{rpc}",
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString,
        )
        request = request_type(**fields)

        async def send() -> Message:
            answer: Message = await call(request, timeout=deadline)
            return answer

        return Pending(self, rpc, asyncio.create_task(send()), record=record)

    async def finish(self, rpc: str, call: asyncio.Task[Message], *, record: bool = True) -> Any:
        """Wait for a call's answer and write it down."""
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            status = _status(error)
            if record:
                self.transcript.add(rpc, self._normaliser.status(status, code))
            raise Refused(rpc, code, status.message) from None
        if record:
            shown = self._normaliser.message(answer)
            if rpc in LINKED_LATER:
                shown.pop("link", None)
            elif rpc == "DescribeSchedule":
                # Temporal's newer scheduler tells it, which is off by default in the release that is compared with.
                shown.get("info", {}).pop("state_size_bytes", None)
            self.transcript.add(rpc, shown)
        return answer

    async def call(self, rpc: str, *, record: bool = True, deadline: float = POLL_SECONDS, **fields: Any) -> Any:
        """Call and expect an answer."""
        return await self.begin(rpc, record=record, deadline=deadline, **fields).answer()

    async def refused(self, rpc: str, **fields: Any) -> Refused:
        """Call and expect a refusal."""
        return await self.begin(rpc, **fields).refused()

    async def attempt(self, rpc: str, **fields: Any) -> Any:
        """Call; whether it is answered or refused stands in the transcript."""
        try:
            return await self.call(rpc, **fields)
        except Refused:
            return None

    async def send(
        self, path: str, *, method: str = "POST", headers: dict[str, str] | None = None, body: bytes = b""
    ) -> httpx.Response:
        """Ask over HTTP; nothing goes into the transcript."""
        assert self._http is not None, "this puppet has no HTTP"
        return await self._http.request(method, path, headers=headers, content=body, timeout=POLL_SECONDS)

    async def post(self, path: str, **request: Any) -> httpx.Response:
        """Ask over HTTP and write down the answer."""
        return self.answered(await self.send(path, **request))

    def answered(self, answer: httpx.Response) -> httpx.Response:
        """Write down an answer over HTTP: its status, the headers that mean something, and the body."""
        headers = {name: value for name, value in answer.headers.items() if name.startswith(MEANINGFUL_HEADERS)}
        shown = {"status": answer.status_code, "headers": headers, "body": _shown(answer)}
        path = answer.request.url.raw_path.decode()
        self.transcript.add(f"{answer.request.method} {self._normaliser.text(path)}", self._normaliser.plain(shown))
        return answer

    def note(self, label: str, value: Any) -> None:
        """Write down something of the scenario's own."""
        self.transcript.add(self._normaliser.text(label), self._normaliser.plain(value))

    def normalised(self, message: Message) -> Any:
        """A message as it would stand in the transcript."""
        return self._normaliser.message(message)

    def transitions_race(self) -> None:
        """Leave counts of state transitions out.

        Rules and sets of build ids reach the real server's queues when they like: a task that comes before them is
        assigned to a build by a transition of its own, and one that comes after them is not.
        """
        self._normaliser.placeholders["state_transition_count"] = "<transitions>"

    def id(self, name: str) -> str:
        """A name that is this scenario's alone."""
        return f"{self.prefix}-{name}"

    # Client

    def execution(self, workflow_id: str | None = None, run_id: str = "") -> dict[str, str]:
        return {"workflow_id": workflow_id or self.workflow_id, "run_id": run_id}

    def start_fields(self, workflow_id: str | None = None, **fields: Any) -> dict[str, Any]:
        """A start request's fields, with what nearly every scenario leaves as it is."""
        return {
            "workflow_id": workflow_id or self.workflow_id,
            "workflow_type": {"name": "Journey"},
            "task_queue": {"name": self.task_queue},
            "identity": "client",
            "request_id": self.id(f"request-{next(self._numbers)}"),
            **fields,
        }

    async def start(self, workflow_id: str | None = None, **fields: Any) -> str:
        """Start a workflow; its run id."""
        answer = await self.call("StartWorkflowExecution", **self.start_fields(workflow_id, **fields))
        return str(answer.run_id)

    async def signal(self, name: str, *texts: str, workflow_id: str | None = None, **fields: Any) -> None:
        given: dict[str, Any] = {"input": payloads(*texts)} if texts else {}
        await self.call(
            "SignalWorkflowExecution",
            workflow_execution=self.execution(workflow_id),
            signal_name=name,
            identity="client",
            **given,
            **fields,
        )

    async def cancel(self, workflow_id: str | None = None, **fields: Any) -> None:
        await self.call(
            "RequestCancelWorkflowExecution",
            workflow_execution=self.execution(workflow_id),
            identity="client",
            **fields,
        )

    async def terminate(self, workflow_id: str | None = None, **fields: Any) -> None:
        await self.call(
            "TerminateWorkflowExecution", workflow_execution=self.execution(workflow_id), identity="client", **fields
        )

    async def describe(self, workflow_id: str | None = None, run_id: str = "") -> Any:
        return await self.call("DescribeWorkflowExecution", execution=self.execution(workflow_id, run_id))

    async def history(self, workflow_id: str | None = None, run_id: str = "", **fields: Any) -> Any:
        return await self.call("GetWorkflowExecutionHistory", execution=self.execution(workflow_id, run_id), **fields)

    async def closed(self, workflow_id: str | None = None, run_id: str = "") -> Any:
        """Wait for the close event and write it down."""
        return await self.history(
            workflow_id, run_id, wait_new_event=True, history_event_filter_type="HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT"
        )

    async def has_event(self, name: str, workflow_id: str | None = None, run_id: str = "", *, count: int = 1) -> None:
        """Wait until the history holds an event of the type, without writing it down."""
        attributes = f"{name}_event_attributes"
        for _ in range(10000):
            answer = await self.call(
                "GetWorkflowExecutionHistory", record=False, execution=self.execution(workflow_id, run_id)
            )
            if sum(event.WhichOneof("attributes") == attributes for event in answer.history.events) >= count:
                return
            await asyncio.sleep(0.03)
        raise AssertionError(f"no event {name}")

    async def arrived(self) -> None:
        """Give a call that was begun, and leaves no trace, time to get there: some, and more on a busy machine.

        Each of the calls that it is given the time of asks the server's store.
        """
        for _ in range(10):
            await asyncio.sleep(0.02)
            await self.call("CountWorkflowExecutions", record=False, query=f"WorkflowId = '{self.workflow_id}'")

    def update_fields(
        self, name: str, update_id: str, *texts: str, stage: str = "COMPLETED", workflow_id: str | None = None
    ) -> dict[str, Any]:
        """An update request's fields."""
        return {
            "workflow_execution": self.execution(workflow_id),
            "wait_policy": {"lifecycle_stage": f"UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_{stage}"},
            "request": {
                "meta": {"update_id": update_id, "identity": "client"},
                "input": {"name": name, "args": payloads(*(texts or ("x",)))},
            },
        }

    async def listed(self, query: str, rpc: str = "ListWorkflowExecutions", *, count: int, **fields: Any) -> Any:
        """List when as many as expected are there: the real server's visibility is eventually consistent."""
        for _ in range(6000):
            answer = await self.call(
                "CountWorkflowExecutions", record=False, query=query.split(" ORDER BY ", maxsplit=1)[0]
            )
            if answer.count == count:
                break
            await asyncio.sleep(0.05)
        return await self.call(rpc, query=query, **fields)

    # Worker

    def poll_fields(self, queue: str | None = None, *, sticky: bool = False) -> dict[str, Any]:
        kind = (
            {"kind": "TASK_QUEUE_KIND_STICKY", "normal_name": self.task_queue}
            if sticky
            else {"kind": "TASK_QUEUE_KIND_NORMAL"}
        )
        return {"task_queue": {"name": queue or self.task_queue, **kind}, "identity": "worker"}

    async def workflow_task(
        self, queue: str | None = None, *, sticky: bool = False, record: bool = True, deadline: float = POLL_SECONDS
    ) -> Any:
        """Poll until there is a workflow task."""
        task = await self.call(
            "PollWorkflowTaskQueue", record=record, deadline=deadline, **self.poll_fields(queue, sticky=sticky)
        )
        assert task.task_token, "the poll ended without a task"
        return task

    async def complete(self, task: Any, *commands: dict[str, Any], **fields: Any) -> Any:
        """Complete a workflow task with commands.

        A run that continues as new is at least a second old then: the next one is delayed to keep them a second apart,
        and a busy machine would decide on which server it is. `tests/core/chain/test_chain.py` has that rule.
        """
        fields.setdefault("identity", "worker")
        if any("continue_as_new_workflow_execution_command_attributes" in command for command in commands):
            await asyncio.sleep(A_SECOND)
        return await self.call(
            "RespondWorkflowTaskCompleted", task_token=task.task_token, commands=list(commands), **fields
        )

    async def step(self, *commands: dict[str, Any], **fields: Any) -> Any:
        """Poll a workflow task and complete it with commands."""
        task = await self.workflow_task()
        await self.complete(task, *commands, **fields)
        return task

    async def bad_step(self, *commands: dict[str, Any], **fields: Any) -> Any:
        """Poll a workflow task and complete it with commands that the server should refuse: the transcript says whether."""
        task = await self.workflow_task()
        await self.attempt(
            "RespondWorkflowTaskCompleted",
            task_token=task.task_token,
            commands=list(commands),
            identity="worker",
            **fields,
        )
        return task

    async def fail_task(
        self, task: Any, message: str = "no", cause: str = "WORKFLOW_WORKER_UNHANDLED_FAILURE", **fields: Any
    ) -> None:
        await self.call(
            "RespondWorkflowTaskFailed",
            task_token=task.task_token,
            cause=f"WORKFLOW_TASK_FAILED_CAUSE_{cause}",
            failure=failure(message),
            identity="worker",
            **fields,
        )

    async def activity_task(self, queue: str | None = None, *, record: bool = True) -> Any:
        """Poll until there is an activity task."""
        task = await self.call("PollActivityTaskQueue", record=record, **self.poll_fields(queue))
        assert task.task_token, "the poll ended without a task"
        return task

    async def complete_activity(self, task: Any, text: str = "done") -> None:
        await self.call(
            "RespondActivityTaskCompleted", task_token=task.task_token, result=payloads(text), identity="worker"
        )

    async def fail_activity(self, task: Any, message: str = "broken", **fields: Any) -> None:
        await self.call(
            "RespondActivityTaskFailed",
            task_token=task.task_token,
            failure=failure(message, **fields),
            identity="worker",
        )

    async def run_activity(self, text: str = "done") -> Any:
        task = await self.activity_task()
        await self.complete_activity(task, text)
        return task

    async def together(self, *parts: Coroutine[Any, Any, Any]) -> list[Any]:
        return list(await asyncio.gather(*parts))


def _shown(answer: httpx.Response) -> Any:
    """JSON as it is, anything else as text."""
    if answer.headers.get("content-type") == "application/x-temporal-payload":
        # A map's entries travel in any order.
        return MessageToDict(common_pb.Payload.FromString(answer.content))
    try:
        return json.loads(answer.content)
    except ValueError:
        return answer.content.decode("latin-1")


def _status(error: grpc.aio.AioRpcError) -> GrpcStatus:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return GrpcStatus.FromString(value if isinstance(value, bytes) else value.encode())
    return GrpcStatus(message=error.details() or "")
