"""Deliver commands to workers: a Nexus request to the control queue of each worker (see core/transition).

Rules of this file:
- A request is dispatched like an external one (api/nexus/requests.py): it is a row of `queries`, to which a task of the
  control queue refers. The transfer task stays until the request was answered or given up.
- A worker has ten seconds to take the request and answer it. Then the transfer task is due again: an answered request
  is finished, any other is repeated, up to `MOST_ATTEMPTS` times in all. Commands may therefore arrive more than once;
  cancelling an activity twice is harmless.
- A request that no worker takes is dropped: the activity learns of its cancellation by a heartbeat, or times out.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from temporalio.api.nexus.v1 import message_pb2 as nexus_pb
from temporalio.api.nexusservices.workerservice.v1 import request_response_pb2 as commands_pb

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.proto.nexus_pb2 import DispatchNexusTaskResponse
from whistlestop.common.task_queues import RESERVED_PREFIX
from whistlestop.history.core.nexus import failures as nexus_failures
from whistlestop.history.core.nexus.decide import TASK_TYPE_NEXUS
from whistlestop.history.core.workflow_task.decide import DEFAULT_PRIORITY
from whistlestop.history.engine.waiting_callers import KEEP_NS
from whistlestop.history.transfers.outcomes import PutOff
from whistlestop.storage.records import ExecutionKey, MatchingTask, QueryRecord, TaskKey

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import TransferData
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.storage.records import TransferTask

SERVICE = "temporal.api.nexusservices.workerservice.v1.WorkerService"
OPERATION = "ExecuteCommands"
TIMEOUT_NS = 10 * SECOND_NS
MOST_ATTEMPTS = 3
_log = logging.getLogger(__name__)


async def deliver(ports: HistoryPorts, task: TransferTask, data: TransferData) -> None:
    """Make the request, or check its outcome. Raise PutOff while it is not finished."""
    queue = data.control_task_queue
    row = TaskKey(task.key.namespace_id, queue, TASK_TYPE_NEXUS, DEFAULT_PRIORITY, task.task_id)
    now_ns = ports.wall.now_ns()
    made = await ports.store.get_query(data.request_id)
    if made is not None:
        if made.answer is None and made.expires_ns - KEEP_NS > now_ns:
            # Never longer than a request takes: the wall clock may have been set back since it was made.
            left_ns = min(made.expires_ns - KEEP_NS - now_ns, TIMEOUT_NS)
            raise PutOff(ports.clock.now_ns() + left_ns)
        await ports.store.delete_query(data.request_id)
        await ports.store.delete_tasks((row,))
    answered = made is not None and made.answer is not None and _is_over(task, queue, made.answer)
    if answered or task.attempt >= MOST_ATTEMPTS or not _can_be_polled(queue, ports.limits.id_length):
        if not answered:
            _log.info("commands for the control queue %s were dropped: no worker took them", queue)
        await ports.store.delete_transfer_task(task)
        return
    deadline_ns = now_ns + TIMEOUT_NS - ports.limits.nexus_answer_margin_ns
    record = QueryRecord(
        data.request_id, ExecutionKey(task.key.namespace_id, "", ""), _request(data), False, deadline_ns + KEEP_NS
    )
    offer = MatchingTask(row, "", "", 0, 0, now_ns, query_id=data.request_id)
    await ports.store.put_query(record, offer)
    ports.engine.tasks_written((offer,))
    raise PutOff(ports.clock.now_ns() + TIMEOUT_NS)


def _request(data: TransferData) -> bytes:
    commands = commands_pb.ExecuteCommandsRequest()
    for token in data.cancel_activity_tokens:
        commands.commands.add().cancel_activity.task_token = token
    request = nexus_pb.Request()
    start = request.start_operation
    start.service, start.operation = SERVICE, OPERATION
    start.payload.metadata["encoding"] = b"binary/protobuf"  # the core of the SDKs accepts no other encoding here
    start.payload.data = commands.SerializeToString()
    return request.SerializeToString()


def _can_be_polled(queue: str, longest: int) -> bool:
    return 0 < len(queue) <= longest and not queue.startswith(RESERVED_PREFIX)


def _is_over(task: TransferTask, queue: str, answer: bytes) -> bool:
    """Return whether the request need not be repeated after this answer."""
    response = DispatchNexusTaskResponse.FromString(answer)
    outcome = response.WhichOneof("outcome")
    if outcome == "handler_error":
        failure = nexus_failures.of_handler_error(response.handler_error)
    elif outcome == "failure":
        failure = response.failure
    else:
        return True
    if failure.HasField("nexus_handler_failure_info") and nexus_failures.is_retryable(failure):
        return False
    _log.warning(
        "a worker refused the commands of %s/%s sent through its control queue %s: %s",
        task.key.workflow_id, task.key.run_id, queue, failure.message,
    )  # fmt: skip
    return True
