"""Send activity tasks to webhooks, and complete them with the receivers' answers.

Rules of this file: history starts a task before it is sent, so no two instances send the same one. Any answer, or none,
ends the attempt, and the activity's retry policy decides what follows. Only a receiver that answers "later" (202 or
204) completes the activity itself, with the task token that it was sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

from google.protobuf import json_format
from temporalio.api.enums.v1 import deployment_pb2 as deployment_enums
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clients import Reply, decoded
from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.versioning.deployments import versioned_queue
from whistlestop.matching.polls import start_activity_task
from whistlestop.matching.push.provider import ProviderError
from whistlestop.matching.push.webhook import timeout_ms_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from whistlestop.common.clock import Clock
    from whistlestop.common.ids import Ids
    from whistlestop.common.rpcs.history_service import HistoryService
    from whistlestop.matching.push.provider import Details, Work
    from whistlestop.matching.push.webhook import Webhook
    from whistlestop.net.outbound import Answer
    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import MatchingTask

log = logging.getLogger(__name__)

ACTIVITY = int(queue_enums.TASK_QUEUE_TYPE_ACTIVITY)
IDENTITY = "whistlestop-webhook"
MARGIN_NS = 5 * SECOND_NS
"""The time that history and the store may need on top of the receiver's."""
_LATER = frozenset({202, 204})
_PAGE = 100


class TaskPushes:
    """Send activity tasks to webhooks."""

    def __init__(self, store: TaskStore, history: HistoryService, clock: Clock, ids: Ids, webhook: Webhook) -> None:
        self._store = store
        self._history = history
        self._clock = clock
        self._ids = ids
        self._webhook = webhook

    async def run(self, details: Details, work: Work, at_once: int) -> str:
        """Send waiting tasks, `at_once` at a time, until none waits or time is short.

        Return the last failure of the target, empty when there was none.
        """
        seen: set[int] = set()
        waiting: list[tuple[str, MatchingTask]] = []
        errors: list[str] = []

        async def take() -> tuple[str, MatchingTask] | None:
            while not waiting:
                found = [entry for entry in await self._page(work) if entry[1].key.task_id not in seen]
                if not found:
                    return None
                seen.update(task.key.task_id for _, task in found)
                waiting.extend(found)
            return waiting.pop(0)

        async def serve() -> None:
            while not errors and self._has_time(details, work) and (entry := await take()) is not None:
                error = await self._one(details, work, *entry)
                if error:
                    errors.append(error)

        await asyncio.gather(*(serve() for _ in range(at_once)))
        return errors[-1] if errors else ""

    def _has_time(self, details: Details, work: Work) -> bool:
        deadline_ns = work.context.deadline_ns
        needed_ns = timeout_ms_of(details) * 1_000_000 + SECOND_NS
        return deadline_ns is None or self._clock.steady_ns() + needed_ns < deadline_ns

    async def _page(self, work: Work) -> list[tuple[str, MatchingTask]]:
        found = []
        for name, kind, _ in work.queues:
            queue = versioned_queue(name, work.version)
            rows = await self._store.list_tasks(work.context.namespace_id, queue, kind, None, _PAGE)
            found += [(name, task) for task in rows]
        return found

    async def _one(self, details: Details, work: Work, queue: str, task: MatchingTask) -> str:
        """Start one task, send it and handle the answer; return what was wrong with the target, if anything."""
        poll = rr.PollActivityTaskQueueRequest(namespace=work.context.namespace, identity=IDENTITY)
        poll.task_queue.name = queue
        poll.deployment_options.deployment_name = work.version.deployment_name
        poll.deployment_options.build_id = work.version.build_id
        poll.deployment_options.worker_versioning_mode = deployment_enums.WORKER_VERSIONING_MODE_VERSIONED
        try:
            reply = await start_activity_task(self._history, task, poll, self._ids, work.context)
        except ServiceError as error:
            if error.code is Code.NOT_FOUND:
                await self._store.delete_tasks([task.key])
            else:
                log.debug("a task of workflow %s/%s could not be started: %r", task.workflow_id, task.run_id, error)
            return ""
        started = decoded(reply, rr.PollActivityTaskQueueResponse)
        data = self._webhook.described(work) | {"task": json_format.MessageToDict(started)}
        try:
            answer = await self._webhook.send(details, "activity.task", data)
        except ProviderError as error:
            await self._fail(work, started.task_token, _failure(str(error)))
            return str(error)
        return await self._answer(work, started.task_token, answer)

    async def _answer(self, work: Work, token: bytes, answer: Answer) -> str:
        if answer.status in _LATER:
            return ""
        if not 200 <= answer.status < 300:
            said = f"the webhook answered with status {answer.status}"
            await self._fail(work, token, _failure(said))
            # The refusal of one task does not mean that the next one is refused.
            return said if answer.status >= 500 or answer.status == 429 else ""
        try:
            body = json.loads(answer.body or b"{}")
            if "failure" in body:
                await self._fail(work, token, json_format.ParseDict(body["failure"], failure_pb.Failure()))
                return ""
            done = rr.RespondActivityTaskCompletedRequest()
            json_format.ParseDict({"result": body.get("result")}, done)
        except (ValueError, TypeError, AttributeError, RecursionError, json_format.ParseError) as error:
            await self._fail(work, token, _failure(f"the webhook's answer is not understood: {error}"))
            return ""
        done.namespace, done.identity, done.task_token = work.context.namespace, IDENTITY, token
        await self._respond(self._history.RespondActivityTaskCompleted(done, work.context))
        return ""

    async def _fail(self, work: Work, token: bytes, failure: failure_pb.Failure) -> None:
        request = rr.RespondActivityTaskFailedRequest(
            namespace=work.context.namespace, identity=IDENTITY, task_token=token, failure=failure
        )
        await self._respond(self._history.RespondActivityTaskFailed(request, work.context))

    async def _respond(self, call: Awaitable[Reply]) -> None:
        try:
            await call
        except ServiceError as error:
            # The task is gone, or is retried when it times out, as with a worker whose answer was lost.
            log.warning("the answer of a webhook could not be recorded: %r", error)


def _failure(message: str) -> failure_pb.Failure:
    failure = failure_pb.Failure(message=message, source=IDENTITY)
    failure.application_failure_info.type = "WebhookError"
    return failure
