"""DescribeTaskQueue and ListTaskQueuePartitions, with the response shapes of the real server.

Every queue has one partition here. Backlogs are counted in the store; pollers are those of this process and those that
have rows; rates are what this process saw in the last 30 seconds.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums
from temporalio.api.taskqueue.v1 import message_pb2 as queue_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import invalid_argument
from whistlestop.common.proto.deployment_pb2 import DescribeVersionQueuesRequest, DescribeVersionQueuesResponse
from whistlestop.common.versioning.build_ids import build_queue, set_queue
from whistlestop.common.versioning.deployments import (
    older_version_string,
    routing_of,
    serving_versions,
    versioned_queue,
    versioning_data,
)
from whistlestop.matching.pollers import build_of, poller_info, recent_pollers
from whistlestop.matching.polls import ACTIVITY, WORKFLOW, check_queue_name
from whistlestop.matching.task_queue.rate_limit import RateLimiter
from whistlestop.matching.task_queue.settings import api_rps, settings_of
from whistlestop.storage.deployments import Deployments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.pollers import PollerRows
    from whistlestop.matching.task_queue.queue import QueueKey
    from whistlestop.matching.task_queue.queues import Queues
    from whistlestop.matching.task_queue.settings import Settings
    from whistlestop.storage.interface import TaskStore

_ENHANCED = queue_enums.DESCRIBE_TASK_QUEUE_MODE_ENHANCED
_STICKY = queue_enums.TASK_QUEUE_KIND_STICKY
_OF_ONE_WORKER = frozenset((_STICKY, queue_enums.TASK_QUEUE_KIND_WORKER_COMMANDS))
_DEFAULT_PRIORITY = 3
_BLOCK = 100_000
"""The size of the id blocks that Temporal's queues reserve; shown for tools that print it."""

_ZERO_TIME = timestamp_pb2.Timestamp(seconds=-62135596800)
"""Go's zero time: the versioning of the queue was never changed."""

_REACHABLE_BUILDS = 5


class Descriptions:
    """Describe task queues."""

    def __init__(
        self,
        store: TaskStore,
        clock: Clock,
        config: MatchingConfig,
        queues: Queues,
        rows: PollerRows,
        settings: Settings,
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._queues = queues
        self._rows = rows
        self._settings = settings
        self._deployments = Deployments(store, clock)

    async def describe(
        self, request: rr.DescribeTaskQueueRequest, context: CallContext
    ) -> rr.DescribeTaskQueueResponse:
        """Serve DescribeTaskQueue. Raise INVALID_ARGUMENT as Temporal does."""
        enhanced = request.api_mode == _ENHANCED
        if not request.HasField("task_queue"):
            raise invalid_argument("taskQueue is not set")
        check_queue_name(request.task_queue.name, self._config.max_id_length, partitions=not enhanced)
        if request.report_task_reachability and len(request.versions.build_ids) > _REACHABLE_BUILDS:
            raise invalid_argument(
                f"Too many build ids queried at once with ReportTaskReachability==true, limit: {_REACHABLE_BUILDS}"
            )
        if enhanced:
            if request.task_queue.kind == _STICKY:
                raise invalid_argument(
                    "Enhanced DescribeTaskQueue is not valid for a sticky queue, "
                    "use api_mode=UNSPECIFIED or a normal queue."
                )
            return await self._enhanced(request, context)
        return await self._plain(request, context)

    async def _plain(self, request: rr.DescribeTaskQueueRequest, context: CallContext) -> rr.DescribeTaskQueueResponse:
        root = request.task_queue.kind not in _OF_ONE_WORKER and not request.task_queue.name.startswith("/_sys/")
        if request.report_stats and not root:
            raise invalid_argument("DescribeTaskQueue stats are only supported for the root partition")
        now_ns = self._clock.steady_ns()
        key = (context.namespace_id, request.task_queue.name, int(request.task_queue_type) or WORKFLOW)
        record = await self._settings.read(key)
        settings = settings_of(record)
        limiter = self._limiter(key, settings, now_ns)
        response = rr.DescribeTaskQueueResponse(
            pollers=(await self._pollers(key, context, now_ns)).values(),
            effective_rate_limit=rr.DescribeTaskQueueResponse.EffectiveRateLimit(
                requests_per_second=limiter.rps, rate_limit_source=limiter.source
            ),
        )
        if request.task_queue.kind not in _OF_ONE_WORKER:
            response.versioning_info.CopyFrom(await self._versioning_info(key))
        if request.report_config and record is not None:
            response.config.CopyFrom(settings)
        if request.report_stats or request.include_task_queue_status:
            by_priority = await self._stats_with(key, now_ns, versions=True)
            if request.report_stats:
                response.stats.CopyFrom(merged(by_priority.values()))
                for priority, stats in by_priority.items():
                    response.stats_by_priority_key[priority].CopyFrom(stats)
            if request.include_task_queue_status:
                block = 1 if record is None else max(record.range_id, 1)
                response.task_queue_status.CopyFrom(
                    queue_pb.TaskQueueStatus(
                        backlog_count_hint=sum(stats.approximate_backlog_count for stats in by_priority.values()),
                        rate_per_second=limiter.rps,
                        task_id_block=queue_pb.TaskIdBlock(start_id=(block - 1) * _BLOCK + 1, end_id=block * _BLOCK),
                    )
                )
        return response

    async def _versioning_info(self, key: QueueKey) -> queue_pb.TaskQueueVersioningInfo:
        """Return how the queue's tasks are routed by worker deployments, in the newer and the older form."""
        namespace_id, name, task_type = key
        routing = routing_of(await self._deployments.read(namespace_id), name, task_type)
        info = queue_pb.TaskQueueVersioningInfo(
            current_version=older_version_string(routing.current), current_deployment_version=routing.current
        )
        changed_ns = routing.current_ns
        if routing.ramps:
            info.ramping_version = older_version_string(routing.ramping)
            info.ramping_version_percentage = routing.percentage
            if routing.ramping is not None:
                info.ramping_deployment_version.CopyFrom(routing.ramping)
            changed_ns = max(changed_ns, routing.ramping_ns)
        if changed_ns:
            info.update_time.FromNanoseconds(changed_ns)
        else:
            info.update_time.CopyFrom(_ZERO_TIME)
        return info

    async def _enhanced(
        self, request: rr.DescribeTaskQueueRequest, context: CallContext
    ) -> rr.DescribeTaskQueueResponse:
        now_ns = self._clock.steady_ns()
        builds = [""]
        if request.HasField("versions"):
            builds = list(dict.fromkeys(request.versions.build_ids))
            if request.versions.unversioned and "" not in builds:
                builds.append("")
        response = rr.DescribeTaskQueueResponse()
        for task_type in request.task_queue_types or (WORKFLOW, ACTIVITY):
            key = (context.namespace_id, request.task_queue.name, int(task_type))
            pollers = (await self._pollers(key, context, now_ns)).values() if request.report_pollers else ()
            stats = None
            if request.report_stats:
                stats = merged((await self._stats_with(key, now_ns, versions=False)).values())
            for build in builds:
                info = response.versions_info[build].types_info[int(task_type)]
                info.pollers.extend(poller for poller in pollers if build_of(poller) == build)
                if stats is not None:
                    waits = (key[0], build_queue(build, key[1]), key[2])
                    info.stats.CopyFrom(stats if not build else merged((await self._stats(waits, now_ns)).values()))
        return response

    def _limiter(self, key: QueueKey, settings: queue_pb.TaskQueueConfig, now_ns: int) -> RateLimiter:
        queue = self._queues.find(key)
        limiter = RateLimiter(self._config.system_rps, self._config.burst_s) if queue is None else queue.limiter
        limiter.set_api_rps(api_rps(settings), now_ns)
        return limiter

    async def _pollers(self, key: QueueKey, context: CallContext, now_ns: int) -> dict[str, queue_pb.PollerInfo]:
        """Return the pollers by identity, from rows and from memory.

        Where rows are shared they decide, because a shutdown may have reached another process; memory adds recent
        pollers. Memory uses the steady clock, as `now_ns` does; the times shown are the wall clock's.
        """
        apart_ns = self._clock.now_ns() - now_ns
        seen: dict[str, tuple[int, queue_pb.PollerInfo]] = {}
        shared = self._config.share_pollers or not context.can_long_poll
        since_ns = now_ns - int(self._config.poller_write_s * SECOND_NS) if shared else 0
        if shared:
            for row in await self._rows.read_recent(key):
                with contextlib.suppress(DecodeError):  # The next poll rewrites a damaged row.
                    seen[row.identity] = (row.last_access_ns, queue_pb.PollerInfo.FromString(row.data))
        queue = self._queues.find(key)
        if queue is not None:
            for identity, (seen_ns, poll) in recent_pollers(queue, now_ns, self._config).items():
                wall_seen_ns = seen_ns + apart_ns
                if seen[identity][0] <= wall_seen_ns if identity in seen else seen_ns >= since_ns:
                    seen[identity] = (wall_seen_ns, poller_info(identity, wall_seen_ns, poll))
        return {identity: info for identity, (_, info) in seen.items()}

    async def _stats_with(self, key: QueueKey, now_ns: int, *, versions: bool) -> dict[int, queue_pb.TaskQueueStats]:
        """Return the queue's stats by priority, with its version sets' and, if `versions`, its versions'."""
        namespace_id, name, kind = key
        known = await self._deployments.read(namespace_id)
        beside = [set_queue(set_id, name) for each in versioning_data(known, name).sets for set_id in each.set_ids]
        if versions:
            beside += [versioned_queue(name, info.deployment_version) for info in serving_versions(known, name, kind)]
        found = await self._stats(key, now_ns)
        for other in beside:
            for priority, stats in (await self._stats((namespace_id, other, kind), now_ns)).items():
                found[priority] = merged((found[priority], stats)) if priority in found else stats
        return found

    async def _stats(self, key: QueueKey, now_ns: int) -> dict[int, queue_pb.TaskQueueStats]:
        backlogs = await self._store.backlog(*key, self._config.describe_limit)
        queue = self._queues.find(key)
        rates = {} if queue is None else queue.rates
        limited = queue is not None and queue.limited is not None and queue.limited.per_second(now_ns) > 0
        result = {}
        for priority in sorted({_DEFAULT_PRIORITY, *backlogs, *rates}):
            stats = queue_pb.TaskQueueStats(rate_limiting_active=limited)
            age_ns = 0
            if (backlog := backlogs.get(priority)) is not None:
                stats.approximate_backlog_count = backlog.count
                if backlog.oldest_created_ns is not None:
                    age_ns = max(self._clock.now_ns() - backlog.oldest_created_ns, 0)
            stats.approximate_backlog_age.CopyFrom(
                duration_pb2.Duration(seconds=age_ns // SECOND_NS, nanos=age_ns % SECOND_NS)
            )
            if (pair := rates.get(priority)) is not None:
                stats.tasks_add_rate = pair.added.per_second(now_ns)
                stats.tasks_dispatch_rate = pair.dispatched.per_second(now_ns)
            result[priority] = stats
        return result

    async def version_queues(
        self, request: DescribeVersionQueuesRequest, context: CallContext
    ) -> DescribeVersionQueuesResponse:
        """Return the queues of a deployment version, with their stats (those that the request names).

        Raise StorageError.
        """
        now_ns = self._clock.steady_ns()
        reply = DescribeVersionQueuesResponse()
        for queue in request.queues:
            key = (context.namespace_id, versioned_queue(queue.name, request.version), queue.task_type)
            by_priority = await self._stats(key, now_ns)
            described = reply.queues.add(name=queue.name, type=queue.task_type, stats=merged(by_priority.values()))
            for priority, stats in by_priority.items():
                described.stats_by_priority_key[priority].CopyFrom(stats)
        return reply

    def partitions(self, request: rr.ListTaskQueuePartitionsRequest) -> rr.ListTaskQueuePartitionsResponse:
        """Serve ListTaskQueuePartitions: return the queue itself, for both types. Raise INVALID_ARGUMENT."""
        if not request.HasField("task_queue"):
            raise invalid_argument("taskQueue is not set")
        name = request.task_queue.name
        check_queue_name(name, self._config.max_id_length)
        partition = queue_pb.TaskQueuePartitionMetadata(key=name, owner_host_name=self._config.host)
        return rr.ListTaskQueuePartitionsResponse(
            activity_task_queue_partitions=[partition], workflow_task_queue_partitions=[partition]
        )


def merged(parts: Iterable[queue_pb.TaskQueueStats]) -> queue_pb.TaskQueueStats:
    """Return the stats with counts and rates added up, and the greatest age."""
    total = queue_pb.TaskQueueStats(approximate_backlog_age=duration_pb2.Duration())
    for part in parts:
        total.approximate_backlog_count += part.approximate_backlog_count
        total.tasks_add_rate += part.tasks_add_rate
        total.tasks_dispatch_rate += part.tasks_dispatch_rate
        total.rate_limiting_active |= part.rate_limiting_active
        if part.approximate_backlog_age.ToNanoseconds() > total.approximate_backlog_age.ToNanoseconds():
            total.approximate_backlog_age.CopyFrom(part.approximate_backlog_age)
    return total
