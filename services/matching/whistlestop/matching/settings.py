"""What is stored of a queue: the limits set through UpdateTaskQueueConfig.

A `task_queues` row holds a `temporal.api.taskqueue.v1.TaskQueueConfig` behind eight bytes: the instant (nanoseconds)
until which the queue's bucket is empty, for pollers that share no memory. Writers compare-and-set `range_id`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import timestamp_pb2
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb

from whistlestop.common.clock import MILLISECOND_NS, SECOND_NS
from whistlestop.common.errors import invalid_argument, unavailable
from whistlestop.matching.rate_limit import RateLimiter
from whistlestop.storage.errors import LeaseLost
from whistlestop.storage.records import TaskQueueRecord

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.queue import QueueKey, TaskQueue
    from whistlestop.storage.interface import TaskStore

_BUCKET_BYTES = 8
_TRIES = 10
_FAIRNESS_KEY_LENGTH = 64
_REASON_LENGTH = 1000


def settings_of(record: TaskQueueRecord | None) -> queue_pb.TaskQueueConfig:
    """The stored settings, empty where nothing is stored."""
    if record is None:
        return queue_pb.TaskQueueConfig()
    return queue_pb.TaskQueueConfig.FromString(record.data[_BUCKET_BYTES:])


def bucket_of(record: TaskQueueRecord | None) -> int:
    """Until when the shared bucket is empty."""
    return 0 if record is None else int.from_bytes(record.data[:_BUCKET_BYTES], "big")


def api_rps(settings: queue_pb.TaskQueueConfig) -> float | None:
    """The queue's own limit, where one is set."""
    if settings.queue_rate_limit.HasField("rate_limit"):
        return settings.queue_rate_limit.rate_limit.requests_per_second
    return None


def key_rps(settings: queue_pb.TaskQueueConfig) -> float | None:
    """The limit of a fairness key, where one is set."""
    if settings.fairness_keys_rate_limit_default.HasField("rate_limit"):
        return settings.fairness_keys_rate_limit_default.rate_limit.requests_per_second
    return None


class Settings:
    """Reads and writes `task_queues` rows."""

    def __init__(self, store: TaskStore, config: MatchingConfig) -> None:
        self._store = store
        self._config = config

    async def read(self, key: QueueKey) -> TaskQueueRecord | None:
        """The row as it is now."""
        return await self._store.get_task_queue(*key)

    async def refresh(self, queue: TaskQueue, now_ns: int) -> None:
        """Bring the limiter of a queue in memory up to its row."""
        queue.config_read_ns = now_ns
        record = await self._store.get_task_queue(*queue.key)
        settings = settings_of(record)
        queue.limiter.set_api_rps(api_rps(settings), now_ns)
        queue.set_fairness(settings.fairness_weight_overrides, key_rps(settings))

    async def update(
        self, namespace_id: str, request: rr.UpdateTaskQueueConfigRequest, now_ns: int
    ) -> queue_pb.TaskQueueConfig:
        """Apply the request to the row. Raises INVALID_ARGUMENT."""
        check_update(request, self._config)
        key = (namespace_id, request.task_queue, int(request.task_queue_type))
        for _ in range(_TRIES):
            record = await self._store.get_task_queue(*key)
            settings = settings_of(record)
            apply_update(settings, request, self._config, now_ns)
            try:
                await self._write(key, record, bucket_of(record), settings.SerializeToString(), now_ns)
            except LeaseLost:
                continue
            return settings
        raise unavailable(f"task queue {request.task_queue} is being changed by others; try again")

    async def take_shared_token(self, key: QueueKey, worker_rps: float | None, now_ns: int) -> int:
        """For pollers without common memory: 0 when one task may go now, else the instant to try again at.

        A queue without a limit of its own costs one read; one with a limit one write per task.
        """
        for _ in range(_TRIES):
            record = await self._store.get_task_queue(*key)
            limiter = RateLimiter(self._config.system_rps, self._config.burst_s)
            limiter.set_api_rps(api_rps(settings_of(record)), now_ns)
            limiter.set_worker_rps(worker_rps, now_ns)
            if not limiter.is_set:
                return 0
            if limiter.ready_ns <= now_ns:
                limiter.ready_ns = min(bucket_of(record), now_ns + int(SECOND_NS / limiter.rps))
            if not limiter.take(now_ns):
                return limiter.ready_ns
            data = b"" if record is None else record.data[_BUCKET_BYTES:]
            try:
                await self._write(key, record, limiter.ready_ns, data, now_ns)
            except LeaseLost:
                continue
            return 0
        return now_ns + SECOND_NS

    async def _write(
        self, key: QueueKey, record: TaskQueueRecord | None, ready_ns: int, data: bytes, now_ns: int
    ) -> None:
        expected = 0 if record is None else record.range_id
        row = TaskQueueRecord(*key, expected + 1, max(ready_ns, 0).to_bytes(_BUCKET_BYTES, "big") + data, now_ns)
        await self._store.put_task_queue(row, expected)


def check_update(request: rr.UpdateTaskQueueConfigRequest, config: MatchingConfig) -> None:
    """What Temporal refuses, in its order and words."""
    on_workflows = request.task_queue_type == queue_enums.TASK_QUEUE_TYPE_WORKFLOW
    updates = (
        (request.update_queue_rate_limit, "UpdateQueueRateLimit", "rate limit"),
        (
            request.update_fairness_key_rate_limit_default,
            "UpdateFairnessKeyRateLimitDefault",
            "fairness key rate limit",
        ),
    )
    for update, label, what in updates:
        if not update.HasField("rate_limit"):
            continue
        if on_workflows:
            raise invalid_argument(f"Setting {what} on workflow task queues is not allowed.")
        if update.rate_limit.requests_per_second < 0:
            raise invalid_argument(f"RequestsPerSecond for {label} rate limit must be non-negative.")
        if len(update.reason.encode()) > _REASON_LENGTH:
            raise invalid_argument(f"{label}.Reason field too long (max {_REASON_LENGTH} characters).")
    if len(request.identity.encode()) > config.max_id_length:
        raise invalid_argument(f"Identity field too long (max {config.max_id_length} characters).")
    _check_weights(request, config)


def _check_weights(request: rr.UpdateTaskQueueConfigRequest, config: MatchingConfig) -> None:
    total = len(request.set_fairness_weight_overrides) + len(request.unset_fairness_weight_overrides)
    if total > config.fairness_overrides:
        raise invalid_argument(
            f"too many fairness weight overrides in request: got {total}, maximum {config.fairness_overrides}"
        )
    for key in (*request.set_fairness_weight_overrides, *request.unset_fairness_weight_overrides):
        if not key:
            raise invalid_argument("fairness weight override key must not be empty")
        if len(key.encode()) > _FAIRNESS_KEY_LENGTH:
            raise invalid_argument("fairness key length exceeds limit")
        weight = request.set_fairness_weight_overrides.get(key)
        if weight is not None and weight <= 0:
            raise invalid_argument(f'invalid fairness weight weight for key "{key}": must be greater than zero')
    for key in request.unset_fairness_weight_overrides:
        if key in request.set_fairness_weight_overrides:
            raise invalid_argument(f'fairness weight override key "{key}" present in both set and unset lists')


def apply_update(
    settings: queue_pb.TaskQueueConfig, request: rr.UpdateTaskQueueConfigRequest, config: MatchingConfig, now_ns: int
) -> None:
    """Change `settings` as asked; a rate limit update without a rate limit removes it."""
    updates = (
        (request.HasField("update_queue_rate_limit"), request.update_queue_rate_limit, settings.queue_rate_limit),
        (
            request.HasField("update_fairness_key_rate_limit_default"),
            request.update_fairness_key_rate_limit_default,
            settings.fairness_keys_rate_limit_default,
        ),
    )
    for given, update, target in updates:
        if not given:
            continue
        target.Clear()
        target.SetInParent()
        if update.HasField("rate_limit"):
            target.rate_limit.CopyFrom(update.rate_limit)
        target.metadata.reason = update.reason
        target.metadata.update_identity = request.identity
        # Temporal stamps with a hybrid clock of milliseconds.
        whole_ms = now_ns // MILLISECOND_NS * MILLISECOND_NS
        target.metadata.update_time.CopyFrom(
            timestamp_pb2.Timestamp(seconds=whole_ms // SECOND_NS, nanos=whole_ms % SECOND_NS)
        )
    for key in request.unset_fairness_weight_overrides:
        settings.fairness_weight_overrides.pop(key, None)
    for key, weight in request.set_fairness_weight_overrides.items():
        settings.fairness_weight_overrides[key] = weight
    if len(settings.fairness_weight_overrides) > config.fairness_overrides:
        raise invalid_argument("fairness weight overrides update rejected: exceeding maximum key size")
