"""Simulated workers: they poll, replay, answer, and sometimes do not."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import failed_cause_pb2 as fc
from temporalio.api.enums.v1 import query_pb2 as query_enums
from temporalio.api.enums.v1 import task_queue_pb2
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.simulation.backend import NAMESPACE
from tests.simulation.programs import Progress, encode, work
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.history.core.times import set_duration

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from tests.simulation.world import Simulation

TRY_AGAIN = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.RESOURCE_EXHAUSTED, Code.CANCELLED})


class Worker:
    """One worker with a sticky queue of its own and a cache of histories."""

    def __init__(self, world: Simulation, name: str, *, sticky: bool) -> None:
        self.world = world
        self.name = name
        self.sticky = sticky
        self.cache: dict[str, list[history_pb.HistoryEvent]] = {}
        self.stopping = False
        self.starts = 1
        self.sticky_loop: asyncio.Task[Any] | None = None

    @property
    def sticky_queue(self) -> str:
        """Each start of a worker has one of its own."""
        return f"sticky {self.starts} of {self.name}"

    def polls(self) -> list[Any]:
        loops = [self.workflows(sticky=False), self.workflows(sticky=False), self.activities(), self.activities()]
        return [*loops, self.workflows(sticky=True)] if self.sticky else loops

    def restart(self) -> list[Any]:
        """Forget everything, and what was under way on the sticky queue; the polls of the new one."""
        if not self.sticky:
            return []
        self.world.note(f"{self.name} is started anew")
        if self.sticky_loop is not None:
            self.sticky_loop.cancel()
        self.starts += 1
        self.cache.clear()
        return [self.workflows(sticky=True)]

    async def _poll(self, method: str, request: Any, kind: Any) -> Any:
        try:
            return await self.world.backend.call(method, request, kind, timeout_s=30)
        except ServiceError as error:
            self.world.allow(error, method)
            await self.world.backend.clock.sleep(0.2)
            return kind()

    # ---- workflow tasks -----------------------------------------------------------------------------------------

    async def workflows(self, *, sticky: bool) -> None:
        request = rr.PollWorkflowTaskQueueRequest(namespace=NAMESPACE, identity=self.name)
        request.task_queue.name = "q"
        if sticky:
            request.task_queue.name = self.sticky_queue
            request.task_queue.kind = task_queue_pb2.TASK_QUEUE_KIND_STICKY
            request.task_queue.normal_name = "q"
            self.sticky_loop = asyncio.current_task()
        while not self.stopping:
            task = await self._poll("PollWorkflowTaskQueue", request, rr.PollWorkflowTaskQueueResponse)
            while task is not None and task.task_token:
                task = await self._work(task)

    async def _work(self, task: rr.PollWorkflowTaskQueueResponse) -> rr.PollWorkflowTaskQueueResponse | None:
        """Answer one task; the next one, when it came with the reply."""
        chance = self.world.chance
        events = await self._history(task)
        if events is None:
            return None
        progress = Progress(events, task.workflow_execution.workflow_id, task.workflow_execution.run_id)
        if task.HasField("query"):
            await self._answer_query(task, progress)
            return None
        self._take(task.task_token)
        last = events[-1].event_id
        assert last == task.started_event_id, f"history ends with {last}, the task started with {task.started_event_id}"
        if not self.world.calm:
            if chance.random() < 0.04:
                self.world.note(f"{self.name} forgets a workflow task")
                return None
            if chance.random() < 0.3:
                await self.world.backend.clock.sleep(chance.choice([0.01, 0.5, 3]))
            if chance.random() < 0.04:
                await self._fail(task)
                return None
        commands, messages = work(task.workflow_type.name, progress, task.messages)
        request = rr.RespondWorkflowTaskCompletedRequest(
            namespace=NAMESPACE, identity=self.name, task_token=task.task_token, commands=commands, messages=messages
        )
        request.return_new_workflow_task = chance.random() < 0.7
        request.capabilities.discard_speculative_workflow_task_with_events = True
        if self.sticky:
            request.sticky_attributes.worker_task_queue.name = self.sticky_queue
            request.sticky_attributes.worker_task_queue.normal_name = "q"
            set_duration(request.sticky_attributes.schedule_to_start_timeout, 5 * SECOND_NS)
        for query_id in task.queries:
            answer = request.query_results[query_id]
            answer.result_type = query_enums.QUERY_RESULT_TYPE_ANSWERED
            answer.answer.CopyFrom(encode(len(progress.signals)))
        return await self._complete(task, request)

    def _take(self, token: bytes) -> None:
        """Each started task is handed out once, whoever asked for it how often."""
        assert token not in self.world.seen.tokens, "a task was handed to two workers"
        self.world.seen.tokens.add(token)

    async def _complete(
        self, task: rr.PollWorkflowTaskQueueResponse, request: rr.RespondWorkflowTaskCompletedRequest
    ) -> rr.PollWorkflowTaskQueueResponse | None:
        run_id = task.workflow_execution.run_id
        for _ in range(5):
            try:
                reply = await self.world.backend.call(
                    "RespondWorkflowTaskCompleted", request, rr.RespondWorkflowTaskCompletedResponse
                )
            except ServiceError as error:
                self.world.allow(error, "RespondWorkflowTaskCompleted")
                self.cache.pop(run_id, None)
                if error.code not in TRY_AGAIN:
                    return None
                await self.world.backend.clock.sleep(0.05)
                continue
            if reply.reset_history_event_id:
                kept = self.cache.get(run_id, [])
                self.cache[run_id] = [event for event in kept if event.event_id <= reply.reset_history_event_id]
            return reply.workflow_task if reply.HasField("workflow_task") else None
        return None

    async def _fail(self, task: rr.PollWorkflowTaskQueueResponse) -> None:
        request = rr.RespondWorkflowTaskFailedRequest(
            namespace=NAMESPACE,
            identity=self.name,
            task_token=task.task_token,
            cause=fc.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
        )
        self.cache.pop(task.workflow_execution.run_id, None)
        try:
            await self.world.backend.call("RespondWorkflowTaskFailed", request, rr.RespondWorkflowTaskFailedResponse)
        except ServiceError as error:
            self.world.allow(error, "RespondWorkflowTaskFailed")

    async def _answer_query(self, task: rr.PollWorkflowTaskQueueResponse, progress: Progress) -> None:
        request = rr.RespondQueryTaskCompletedRequest(
            namespace=NAMESPACE, task_token=task.task_token, completed_type=query_enums.QUERY_RESULT_TYPE_ANSWERED
        )
        request.query_result.CopyFrom(encode(len(progress.signals)))
        try:
            await self.world.backend.call("RespondQueryTaskCompleted", request, rr.RespondQueryTaskCompletedResponse)
        except ServiceError as error:
            self.world.allow(error, "RespondQueryTaskCompleted")

    async def _history(self, task: rr.PollWorkflowTaskQueueResponse) -> list[history_pb.HistoryEvent] | None:
        """All events of the run: those that came with the task, those from the cache, or those asked for."""
        run_id = task.workflow_execution.run_id
        fresh = list(task.history.events)
        token = task.next_page_token
        while token:
            page = await self._page(task, token)
            if page is None:
                return None
            fresh += page.history.events
            token = page.next_page_token
        for before, after in pairwise(fresh):
            assert after.event_id == before.event_id + 1, f"a gap behind event {before.event_id}"
        kept = self.cache.get(run_id, [])
        first = fresh[0].event_id if fresh else 0
        if first > 1 or not fresh:
            kept = [event for event in kept if event.event_id < first] if fresh else kept
            if len(kept) != first - 1 or not fresh:
                everything = await self._everything(task)
                if everything is None:
                    return None
                known = everything[-1].event_id
                fresh = everything + [event for event in fresh if event.event_id > known]
                if not task.HasField("query"):
                    fresh = [event for event in fresh if event.event_id <= task.started_event_id]
            else:
                fresh = kept + fresh
        if [event.event_id for event in fresh] != list(range(1, len(fresh) + 1)):
            raise AssertionError(f"history of {run_id}: {[event.event_id for event in fresh]}")
        if self.sticky:
            self.cache[run_id] = list(fresh)
        return fresh

    async def _page(
        self, task: rr.PollWorkflowTaskQueueResponse, token: bytes
    ) -> rr.GetWorkflowExecutionHistoryResponse | None:
        request = rr.GetWorkflowExecutionHistoryRequest(namespace=NAMESPACE, next_page_token=token)
        request.execution.CopyFrom(task.workflow_execution)
        for _ in range(5):
            try:
                return await self.world.backend.call(
                    "GetWorkflowExecutionHistory", request, rr.GetWorkflowExecutionHistoryResponse
                )
            except ServiceError as error:
                self.world.allow(error, "GetWorkflowExecutionHistory")
                await self.world.backend.clock.sleep(0.05)
        return None

    async def _everything(self, task: rr.PollWorkflowTaskQueueResponse) -> list[history_pb.HistoryEvent] | None:
        events: list[history_pb.HistoryEvent] = []
        token = b""
        while True:
            page = await self._page(task, token)
            if page is None:
                return None
            events += page.history.events
            token = page.next_page_token
            if not token:
                return events

    # ---- activities ---------------------------------------------------------------------------------------------

    async def activities(self) -> None:
        request = rr.PollActivityTaskQueueRequest(namespace=NAMESPACE, identity=self.name)
        request.task_queue.name = "q"
        while not self.stopping:
            task = await self._poll("PollActivityTaskQueue", request, rr.PollActivityTaskQueueResponse)
            if task.task_token:
                await self._act(task)

    async def _act(self, task: rr.PollActivityTaskQueueResponse) -> None:
        chance, clock = self.world.chance, self.world.backend.clock
        self._take(task.task_token)
        fate = 1.0 if self.world.calm else chance.random()
        if fate < 0.05:
            self.world.note(f"{self.name} forgets an activity")
            return
        if fate < 0.4:
            await clock.sleep(chance.choice([0.01, 1, 2.5, 6]))
        if fate < 0.1:
            beat = rr.RecordActivityTaskHeartbeatRequest(namespace=NAMESPACE, task_token=task.task_token)
            beat.details.CopyFrom(encode("half way"))
            try:
                await self.world.backend.call(
                    "RecordActivityTaskHeartbeat", beat, rr.RecordActivityTaskHeartbeatResponse
                )
            except ServiceError as error:
                self.world.allow(error, "RecordActivityTaskHeartbeat")
        method, request, kind = self._answer(task, fate)
        for _ in range(6):
            try:
                await self.world.backend.call(method, request, kind)
            except ServiceError as error:
                self.world.allow(error, method)
                if error.code not in TRY_AGAIN:
                    return
                await clock.sleep(0.1)
            else:
                if method == "RespondActivityTaskCompleted":
                    execution = task.workflow_execution
                    self.world.seen.activities.append(
                        (execution.workflow_id, execution.run_id, task.activity_id, request.result)
                    )
                if chance.random() < 0.95:
                    return

    def _answer(self, task: rr.PollActivityTaskQueueResponse, fate: float) -> tuple[str, Any, Any]:
        if 0.4 < fate < 0.5:
            failed = rr.RespondActivityTaskFailedRequest(
                namespace=NAMESPACE, task_token=task.task_token, identity=self.name
            )
            failed.failure.message = "trouble at work"
            failed.failure.application_failure_info.type = "Trouble"
            return "RespondActivityTaskFailed", failed, rr.RespondActivityTaskFailedResponse
        done = rr.RespondActivityTaskCompletedRequest(
            namespace=NAMESPACE, task_token=task.task_token, identity=self.name
        )
        done.result.CopyFrom(encode(f"{self.name} {self.world.chance.getrandbits(32)}"))
        return "RespondActivityTaskCompleted", done, rr.RespondActivityTaskCompletedResponse


async def stop(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
