"""Measure CPU per RPC of the three services in one process, without a transport.

    python benchmarks/engine.py [--store FILE|:memory:] [--workload echo|fanout|update|signal] [--n 300] [--profile]

A scripted worker calls `Frontend.call` directly, one workflow at a time, so the figures are those of the handlers,
matching, the core and the store alone.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from temporalio.api.enums.v1 import command_type_pb2 as ct
from temporalio.api.update.v1 import message_pb2 as update_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import decoded
from whistlestop.common.clock import SECOND_NS, SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.ids import RandomIds
from whistlestop.common.notify import LocalNotifier
from whistlestop.frontend.service import Frontend
from whistlestop.history.service import History
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.service import Matching
from whistlestop.storage.sqlite import SqliteStore

SERVICE = "temporal.api.workflowservice.v1.WorkflowService"


class Backend:
    """All services in one process, with the time of each RPC."""

    def __init__(self, path: str) -> None:
        self.clock, ids = SystemClock(), RandomIds()
        notifier = LocalNotifier(self.clock)
        self.store = SqliteStore(path)
        owner = self

        class Late:
            async def call(self, rpc: Any, request: Any, context: Any) -> Any:
                return await owner.matching.call(rpc, request, context)

        self.history = History(self.store, Late(), self.clock, ids, notifier, task_listener=self._offer)
        self.matching = Matching(
            self.store,
            self.history,
            self.clock,
            ids,
            notifier,
            MatchingConfig(remote_notifications=False, share_pollers=False),
        )
        self.frontend = Frontend(self.store, self.history, self.matching, self.clock, ids)
        self.spent: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])

    def _offer(self, tasks: Any) -> None:
        self.matching.offer(tasks)

    async def open(self) -> None:
        """Create the schema and the namespace."""
        await self.store.open()
        await self.store.migrate()
        await self.history.start()
        request = rr.RegisterNamespaceRequest(namespace="default")
        request.workflow_execution_retention_period.seconds = 86400
        await self.call("RegisterNamespace", request, rr.RegisterNamespaceResponse)

    async def call(self, rpc: str, request: Any, kind: Any) -> Any:
        context = CallContext(deadline_ns=self.clock.steady_ns() + 60 * SECOND_NS)
        began = time.process_time()
        reply = await self.frontend.call(f"{SERVICE}/{rpc}", request, context)
        entry = self.spent[rpc]
        entry[0] += 1
        entry[1] += time.process_time() - began
        return decoded(reply, kind)


class Worker:
    """A scripted worker of one queue."""

    def __init__(self, backend: Backend) -> None:
        self.b = backend
        self.serial = 0

    async def start(self) -> str:
        self.serial += 1
        request = rr.StartWorkflowExecutionRequest(
            namespace="default", workflow_id=f"bench-{self.serial}", request_id=f"r-{self.serial}", identity="bench"
        )
        request.workflow_type.name = "Bench"
        request.task_queue.name = "bench"
        await self.b.call("StartWorkflowExecution", request, rr.StartWorkflowExecutionResponse)
        return request.workflow_id

    async def workflow_task(self) -> rr.PollWorkflowTaskQueueResponse:
        request = rr.PollWorkflowTaskQueueRequest(namespace="default", identity="bench")
        request.task_queue.name = "bench"
        task: rr.PollWorkflowTaskQueueResponse = await self.b.call(
            "PollWorkflowTaskQueue", request, rr.PollWorkflowTaskQueueResponse
        )
        return task

    async def respond(
        self, task: rr.PollWorkflowTaskQueueResponse, commands: list[Any], messages: tuple[Any, ...] = ()
    ) -> None:
        request = rr.RespondWorkflowTaskCompletedRequest(
            namespace="default", task_token=task.task_token, identity="bench", commands=commands, messages=messages
        )
        await self.b.call("RespondWorkflowTaskCompleted", request, rr.RespondWorkflowTaskCompletedResponse)

    async def activity(self) -> None:
        request = rr.PollActivityTaskQueueRequest(namespace="default", identity="bench")
        request.task_queue.name = "bench"
        task = await self.b.call("PollActivityTaskQueue", request, rr.PollActivityTaskQueueResponse)
        done = rr.RespondActivityTaskCompletedRequest(namespace="default", task_token=task.task_token, identity="bench")
        done.result.payloads.add(metadata={"encoding": b"json/plain"}, data=b'"hello"')
        await self.b.call("RespondActivityTaskCompleted", done, rr.RespondActivityTaskCompletedResponse)


def schedule(index: int) -> Any:
    """Return a command that schedules an activity."""
    from temporalio.api.command.v1 import message_pb2 as command_pb

    command = command_pb.Command(command_type=ct.COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK)
    a = command.schedule_activity_task_command_attributes
    a.activity_id = str(index)
    a.activity_type.name = "greet"
    a.task_queue.name = "bench"
    a.start_to_close_timeout.seconds = 10
    a.input.payloads.add(metadata={"encoding": b"json/plain"}, data=b'"world"')
    return command


def complete() -> Any:
    """Return the command that completes the workflow."""
    from temporalio.api.command.v1 import message_pb2 as command_pb

    command = command_pb.Command(command_type=ct.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION)
    command.complete_workflow_execution_command_attributes.SetInParent()
    return command


async def echo(worker: Worker, width: int = 1) -> None:
    """Run a workflow with `width` concurrent activities."""
    await worker.start()
    await worker.respond(await worker.workflow_task(), [schedule(i) for i in range(width)])
    for _ in range(width):
        await worker.activity()
        if width > 1:
            continue
    while True:
        task = await worker.workflow_task()
        seen = sum(e.event_type == 12 for e in task.history.events)
        if seen >= width:
            await worker.respond(task, [complete()])
            return
        await worker.respond(task, [])


async def update(worker: Worker, count: int = 20) -> None:
    """Run a workflow with `count` updates, one after the other."""
    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.protocol.v1 import message_pb2 as protocol_pb

    workflow_id = await worker.start()
    await worker.respond(await worker.workflow_task(), [])
    for index in range(count):
        request = rr.UpdateWorkflowExecutionRequest(namespace="default")
        request.workflow_execution.workflow_id = workflow_id
        request.request.meta.update_id = f"u{index}"
        request.request.input.name = "up"
        request.wait_policy.lifecycle_stage = 3  # type: ignore[assignment]
        asking = asyncio.ensure_future(
            worker.b.call("UpdateWorkflowExecution", request, rr.UpdateWorkflowExecutionResponse)
        )
        task = await worker.workflow_task()
        commands, messages = [], []
        for message in task.messages:
            accepted = protocol_pb.Message(id="a", protocol_instance_id=message.protocol_instance_id)
            body = update_pb.Acceptance(
                accepted_request_message_id=message.id, accepted_request_sequencing_event_id=message.event_id
            )
            accepted.body.Pack(body)
            response = update_pb.Response()
            response.meta.update_id = message.protocol_instance_id
            response.outcome.success.SetInParent()
            answered = protocol_pb.Message(id="b", protocol_instance_id=message.protocol_instance_id)
            answered.body.Pack(response)
            messages += [accepted, answered]
            for name in ("a", "b"):
                command = command_pb.Command(command_type=ct.COMMAND_TYPE_PROTOCOL_MESSAGE)
                command.protocol_message_command_attributes.message_id = name
                commands.append(command)
        await worker.respond(task, commands, tuple(messages))
        await asking


async def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default=":memory:")
    parser.add_argument("--workload", default="echo", choices=["echo", "fanout", "update"])
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    backend = Backend(options.store)
    await backend.open()
    worker = Worker(backend)
    workloads: dict[str, Callable[[Worker], Awaitable[None]]] = {
        "echo": echo,
        "fanout": partial(echo, width=50),
        "update": update,
    }
    run = workloads[options.workload]
    for _ in range(20 if options.workload == "echo" else 2):
        await run(worker)
    backend.spent.clear()
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    began = time.process_time()
    for _ in range(options.n):
        await run(worker)
    total = time.process_time() - began
    if options.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    print(f"{options.workload}: {total / options.n * 1000:.2f} ms of CPU per workflow (the worker's own part included)")
    for rpc, (count, spent) in sorted(backend.spent.items()):
        print(f"  {rpc:32s} {count / options.n:6.1f} a workflow  {spent / count * 1e6:7.0f} us each")


if __name__ == "__main__":
    asyncio.run(main())
