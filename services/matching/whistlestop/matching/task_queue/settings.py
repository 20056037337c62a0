"""The stored settings of a queue: limits set by UpdateTaskQueueConfig, and token buckets.

The buckets are those of the queue and of its fairness keys, for processes that share no memory. A `task_queues` row
holds a `TaskQueueData`, written by compare-and-set on `range_id`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from google.protobuf import timestamp_pb2
from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb

from whistlestop.common.clock import MILLISECOND_NS, SECOND_NS
from whistlestop.common.errors import invalid_argument, unavailable
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.proto.task_queue_pb2 import TaskQueueData
from whistlestop.matching.task_queue.dispatch_order import weight_of
from whistlestop.matching.task_queue.rate_limit import NEVER_NS, KeyRate, RateLimiter
from whistlestop.storage.errors import LeaseLost
from whistlestop.storage.records import TaskQueueRecord

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.task_queue.queue import QueueKey, TaskQueue
    from whistlestop.storage.interface import TaskStore
    from whistlestop.storage.records import MatchingTask

log = logging.getLogger(__name__)

_KEYS_REMEMBERED = 2000
"""The maximum number of key buckets in a row."""
_FIRST_BYTES = b"\x0a\x10\x1a"
"""Tags of the fields of a TaskQueueData; the older form starts with a byte of a time in nanoseconds, none of these."""
_TRIES = 10
_SKEW_NS = 10 * SECOND_NS
"""The maximum difference between the wall clocks of two processes."""
_FAIRNESS_KEY_LENGTH = 64
_REASON_LENGTH = 1000


def data_of(record: TaskQueueRecord | None) -> TaskQueueData:
    """Return the stored data; empty when there is no row or it is damaged."""
    if record is None:
        return TaskQueueData()
    try:
        return _parsed(record.data)
    except DecodeError:
        log.warning(  # At most as often as the settings are read again.
            "the settings of task queue %s can't be read and are ignored: set them anew", record.task_queue
        )
        return TaskQueueData()


def _parsed(data: bytes) -> TaskQueueData:
    if data and data[0] not in _FIRST_BYTES:
        # Before keys had buckets the row held eight bytes, until when the queue's bucket is empty, and the settings.
        config = queue_pb.TaskQueueConfig.FromString(data[8:])
        return TaskQueueData(config=config, ready_ns=int.from_bytes(data[:8], "big"))
    return TaskQueueData.FromString(data)


def settings_of(record: TaskQueueRecord | None) -> queue_pb.TaskQueueConfig:
    """Return the stored settings; empty when there are none."""
    return data_of(record).config


def api_rps(settings: queue_pb.TaskQueueConfig) -> float | None:
    """Return the queue's own limit in tasks per second; None when none is set."""
    if settings.queue_rate_limit.HasField("rate_limit"):
        return settings.queue_rate_limit.rate_limit.requests_per_second
    return None


def key_rate(settings: queue_pb.TaskQueueConfig, config: MatchingConfig) -> KeyRate | None:
    """Return the limit of a fairness key; None when none is set."""
    if settings.fairness_keys_rate_limit_default.HasField("rate_limit"):
        rps = settings.fairness_keys_rate_limit_default.rate_limit.requests_per_second
        return KeyRate(rps, config.burst_s)
    return None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The rate limit is used up: there will be a token in `after_ns` (NEVER_NS: never)."""

    after_ns: int
    of_key: bool
    """True for the limit of the task's fairness key, False for the queue's."""

    def again_ns(self, now_ns: int) -> int:
        """Return when to try again, on the clock that reads `now_ns`."""
        return min(now_ns + self.after_ns, NEVER_NS)


def _refusal(ready_ns: int, now_ns: int, *, of_key: bool) -> Refusal:
    return Refusal(NEVER_NS if ready_ns >= NEVER_NS else ready_ns - now_ns, of_key)


class Settings:
    """Read and write `task_queues` rows."""

    def __init__(self, store: TaskStore, config: MatchingConfig) -> None:
        self._store = store
        self._config = config

    async def read(self, key: QueueKey) -> TaskQueueRecord | None:
        """Return the row as stored now; None when there is none. Raise StorageError."""
        return await self._store.get_task_queue(*key)

    async def refresh(self, queue: TaskQueue, now_ns: int) -> None:
        """Update the limits of a queue in memory from its row. Raise StorageError."""
        queue.config_read_ns = now_ns
        record = await self._store.get_task_queue(*queue.key)
        settings = settings_of(record)
        queue.limiter.set_api_rps(api_rps(settings), now_ns)
        queue.set_fairness(settings.fairness_weight_overrides, key_rate(settings, self._config))

    async def update(
        self, namespace_id: str, request: rr.UpdateTaskQueueConfigRequest, now_ns: int
    ) -> queue_pb.TaskQueueConfig:
        """Apply the request to the row; return the new settings.

        Raise INVALID_ARGUMENT, or UNAVAILABLE on contention.
        """
        check_update(request, self._config)
        key = (namespace_id, request.task_queue, int(request.task_queue_type))
        for _ in range(_TRIES):
            record = await self._store.get_task_queue(*key)
            data = data_of(record)
            apply_update(data.config, request, self._config, now_ns)
            try:
                await self._write(key, record, data, now_ns)
            except LeaseLost:
                continue
            return data.config
        raise unavailable(f"task queue {request.task_queue} is being changed by others; try again")

    async def take_shared_token(
        self, key: QueueKey, worker_rps: float | None, task: MatchingTask, now_ns: int
    ) -> Refusal | None:
        """Take a token from the buckets in the row, at `now_ns` of the wall clock; return None or the refusal.

        For processes without shared memory. A queue without a limit of its own costs one read, one with a limit a write
        per task. Raise StorageError.
        """
        for _ in range(_TRIES):
            record = await self._store.get_task_queue(*key)
            data = data_of(record)
            rate = key_rate(data.config, self._config)
            limiter = RateLimiter(self._config.system_rps, self._config.burst_s)
            limiter.set_api_rps(api_rps(data.config), now_ns)
            limiter.set_worker_rps(worker_rps, now_ns)
            if rate is None and not limiter.is_set:
                return None
            refusal, before = None, _buckets(data, task)
            if rate is not None and (again_ns := _take_for_key(data, rate, task, now_ns)):
                refusal = _refusal(again_ns, now_ns, of_key=True)
            elif limiter.is_set:
                if limiter.ready_ns <= now_ns:
                    interval_ns = int(SECOND_NS / limiter.rps)
                    data.ready_ns = _bounded(data.ready_ns, now_ns, interval_ns)
                    limiter.ready_ns = min(data.ready_ns, now_ns + interval_ns)
                if limiter.take(now_ns):
                    data.ready_ns = limiter.ready_ns
                else:
                    refusal = _refusal(limiter.ready_ns, now_ns, of_key=False)
            if refusal is not None and _buckets(data, task) == before:
                return refusal
            try:
                await self._write(key, record, data, now_ns)
            except LeaseLost:
                continue
            return refusal
        return Refusal(SECOND_NS, of_key=False)

    async def _write(self, key: QueueKey, record: TaskQueueRecord | None, data: TaskQueueData, now_ns: int) -> None:
        expected = 0 if record is None else record.range_id
        await self._store.put_task_queue(
            TaskQueueRecord(*key, expected + 1, data.SerializeToString(deterministic=True), now_ns), expected
        )


def _buckets(data: TaskQueueData, task: MatchingTask) -> tuple[int, int]:
    return data.ready_ns, data.key_ready_ns.get(task.key.priority, 0)


def _bounded(ready_ns: int, now_ns: int, interval_ns: int) -> int:
    """Return until when a stored bucket is empty.

    A time far ahead was written under a slower limit, or before the wall clock was set back. It is then moved near, or
    everybody would wait until the old time. Clocks may differ by a few seconds.
    """
    nearest_ns = now_ns + interval_ns
    return nearest_ns if ready_ns > nearest_ns + _SKEW_NS else ready_ns


def _take_for_key(data: TaskQueueData, rate: KeyRate, task: MatchingTask, now_ns: int) -> int:
    """Take a token of the task's key; return 0, or the time of the next one (Unix ns). Full buckets are removed."""
    if rate.paused:
        return NEVER_NS
    level, buckets = task.key.priority, data.key_ready_ns
    weight = weight_of(task, data.config.fairness_weight_overrides)
    interval_ns = rate.interval_ns(weight)
    if level in buckets:
        buckets[level] = _bounded(buckets[level], now_ns, interval_ns)
    ready_ns = min(buckets.get(level, 0), now_ns + interval_ns)
    if ready_ns > now_ns:
        return ready_ns
    full_ns = now_ns - int(rate.burst_s * SECOND_NS)
    for other in [other for other, at_ns in buckets.items() if at_ns <= full_ns]:
        del buckets[other]
    buckets[level] = rate.spent(ready_ns, now_ns, weight)
    if len(buckets) > _KEYS_REMEMBERED:
        del buckets[min(buckets, key=buckets.__getitem__)]
    return 0


def check_update(request: rr.UpdateTaskQueueConfigRequest, config: MatchingConfig) -> None:
    """Raise INVALID_ARGUMENT for an update that Temporal refuses, in its order and with its wording."""
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
    """Change `settings` as requested; a rate limit update without a rate limit removes the limit.

    Raise INVALID_ARGUMENT when there would be too many fairness weights.
    """
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
        # Temporal's timestamps come from a hybrid clock with millisecond resolution.
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
