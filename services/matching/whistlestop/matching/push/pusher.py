"""Ask the scaler, store its state in a row, and let the provider start workers.

Rules of this file: only caches are kept between calls, so any instance may serve any call. Starts are recorded in the
row by compare-and-set before they are made: of two instances that see the same tasks, one starts workers and the other
sees them as starting. A start that is lost in a crash is repeated when its workers have not polled in time.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import ServiceError, invalid_argument, unavailable
from whistlestop.common.proto.deployment_pb2 import (
    CheckComputeRequest,
    CheckComputeResponse,
    PushRow,
    PushState,
    PushWorkersRequest,
    PushWorkersResponse,
)
from whistlestop.common.versioning.deployments import (
    find_deployment,
    find_version,
    is_version_of,
    push_row,
    versioned_queue,
)
from whistlestop.matching.push import scaler as scaling
from whistlestop.matching.push import webhook
from whistlestop.matching.push.provider import Provider, ProviderError, Work, decode
from whistlestop.matching.push.tasks import ACTIVITY, MARGIN_NS, TaskPushes
from whistlestop.storage.deployments import Deployments
from whistlestop.storage.errors import LeaseLost
from whistlestop.storage.records import TaskQueueRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from temporalio.api.compute.v1.config_pb2 import ComputeConfig, ComputeConfigScalingGroup
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo
    from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.common.rpcs.history_service import HistoryService
    from whistlestop.common.versioning.deployments import Version
    from whistlestop.matching.config import MatchingConfig
    from whistlestop.matching.pollers import PollerRows
    from whistlestop.matching.push.scaler import Scaler
    from whistlestop.matching.task_queue.queue import QueueKey
    from whistlestop.matching.task_queue.queues import Queues
    from whistlestop.net.outbound import Outbound
    from whistlestop.net.tasks.background import Background
    from whistlestop.storage.interface import TaskStore

T = TypeVar("T")
log = logging.getLogger(__name__)

_TRIES = 20
_LONG_POLL_NS = 70 * SECOND_NS
_TYPES = (
    int(queue_enums.TASK_QUEUE_TYPE_WORKFLOW), ACTIVITY, int(queue_enums.TASK_QUEUE_TYPE_NEXUS),
)  # fmt: skip


class Pusher:
    """Serve CheckCompute and PushWorkers."""

    def __init__(
        self,
        *,
        store: TaskStore,
        history: HistoryService,
        clock: Clock,
        ids: Ids,
        config: MatchingConfig,
        queues: Queues,
        rows: PollerRows,
        background: Background,
        providers: Mapping[str, Provider] | None = None,
        outbound: Outbound | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._queues = queues
        self._rows = rows
        self._background = background
        self._deployments = Deployments(store, clock)
        if providers is None:
            from whistlestop.matching.push.aws_lambda import AwsLambda

            providers = {
                "aws-lambda": AwsLambda(require_role=config.push_require_role),
                "webhook": webhook.Webhook(clock, ids, config.push_webhook_addresses, outbound),
            }
        self._providers = providers
        hook = providers.get("webhook")
        self._tasks = TaskPushes(store, history, clock, ids, hook) if isinstance(hook, webhook.Webhook) else None

    # ---- configuration -----------------------------------------------------------------------------------------------

    async def check(self, request: CheckComputeRequest, context: CallContext) -> CheckComputeResponse:
        """Check each group and its target, and start one worker of each if requested. Raise INVALID_ARGUMENT."""
        reply = CheckComputeResponse()
        ready: list[tuple[str, Scaler, Provider, dict[str, Any]]] = []
        for name, group in sorted(request.config.scaling_groups.items()):
            try:
                provider, details, scaler = self._read(group)
                await provider.validate(details)
                self._check_mode(group, details)
            except (ProviderError, ServiceError) as error:
                said = error.message if isinstance(error, ServiceError) else error
                raise invalid_argument(f"{name}: {said}") from None
            queues = details.get("task_queues", []) if webhook.mode_of(details) == webhook.TASK else []
            for queue in queues:
                reply.queues.add(name=queue, task_type=ACTIVITY)
            if not queues:
                ready.append((name, scaler, provider, details))
        for name, scaler, provider, details in ready if request.start else ():
            try:
                await provider.start(details, Work(context, request.version, name), 1)
            except ProviderError as error:
                raise invalid_argument(f"{name}: {error}") from None
            note = partial(_note_first, scaler, self._clock.now_ns())
            await self._change(context, request.version, name, note)
        return reply

    def _read(self, group: ComputeConfigScalingGroup) -> tuple[Provider, dict[str, Any], Scaler]:
        kind = group.provider.type
        provider = self._providers.get(kind)
        if provider is None:
            raise ProviderError(f"Could not instantiate compute provider with type '{kind}'")
        details = decode(group.provider.details)
        algorithm = group.scaler.type if group.HasField("scaler") else scaling.NO_SYNC
        if algorithm != scaling.NO_SYNC:
            raise ProviderError(f"Scaling Algorithm '{algorithm}' is not compatible with compute provider '{kind}'")
        each = 1 if webhook.mode_of(details) == webhook.TASK else provider.backlog_per_worker
        return provider, details, scaling.parse(decode(group.scaler.details), backlog_per_worker=each)

    @staticmethod
    def _check_mode(group: ComputeConfigScalingGroup, details: Mapping[str, Any]) -> None:
        if webhook.mode_of(details) == webhook.TASK and list(group.task_queue_types) != [ACTIVITY]:
            raise ProviderError(f'mode "{webhook.TASK}" requires task_queue_types to be activities alone')

    # ---- pushing ----------------------------------------------------------------------------------------------------

    async def push(self, request: PushWorkersRequest, context: CallContext) -> PushWorkersResponse:
        """Start workers if the version's tasks lack pollers; none if the version is gone or has no targets.

        Return how many were started, and when to check again (nanoseconds since the Unix epoch; 0: never). Raise
        StorageError.
        """
        info = _find(await self._deployments.cached(context.namespace_id), request.version)
        if info is None or not info.compute_config.scaling_groups:
            # The caller knows of a configuration newer than the cached one.
            info = _find(await self._deployments.read(context.namespace_id), request.version)
        reply = PushWorkersResponse()
        if info is None:
            return reply
        for name, group in sorted(info.compute_config.scaling_groups.items()):
            types = effective_types(info.compute_config, name)
            queues = [(queue.name, int(queue.type)) for queue in info.task_queue_infos if int(queue.type) in types]
            count, again_ns = await self._push_group(context, request, name, group, queues)
            reply.started += count
            if again_ns and (not reply.again_ns or again_ns < reply.again_ns):
                reply.again_ns = again_ns
        return reply

    async def _push_group(
        self,
        context: CallContext,
        request: PushWorkersRequest,
        name: str,
        group: ComputeConfigScalingGroup,
        queues: Sequence[tuple[str, int]],
    ) -> tuple[int, int]:
        try:
            provider, details, scaler = self._read(group)
            provider.check(details)
        except (ProviderError, ServiceError) as error:
            # It was valid when it was stored, but this process has fewer providers.
            log.warning("scaling group %s of version %s can't start workers: %s", name, request.version, error)
            return 0, 0
        version, limit = request.version, scaler.max_workers * scaler.backlog_per_worker + 1
        keys = [(context.namespace_id, versioned_queue(queue, version), kind) for queue, kind in queues]
        counts = await self._waiting(keys, limit)
        backlog = sum(counts)
        if not backlog and not request.again:
            return 0, 0
        alive = await self._alive(keys, shared=self._config.share_pollers or not context.can_long_poll, context=context)
        now_ns = self._clock.now_ns()
        if not request.again and alive * scaler.backlog_per_worker >= backlog:
            # Workers already started are enough; check again only in case they do not take the tasks.
            return 0, now_ns + scaler.metrics_poll_interval_ms * 1_000_000

        def decide(state: PushState) -> scaling.Decision:
            decision = scaling.decide(scaler, state, backlog, alive, now_ns, again=request.again)
            if decision.count:
                scaling.started(scaler, state, decision.count, alive, now_ns)
            return decision

        decision = await self._change(context, version, name, decide)
        if not decision.count:
            return 0, decision.again_ns
        full = [(*queue, count) for queue, count in zip(queues, counts, strict=True) if count]
        work = Work(context, version, name, full)
        if webhook.mode_of(details) == webhook.TASK:
            return await self._push_tasks(work, details, decision.count)
        return await self._start(provider, details, work, decision.count)

    async def _start(self, provider: Provider, details: Mapping[str, Any], work: Work, count: int) -> tuple[int, int]:
        error, made = "", 0
        try:
            made = await provider.start(details, work, count)
        except ProviderError as problem:
            error = str(problem)
        if made == count:
            again_ns = await self._change(work.context, work.version, work.group, lambda state: state.starting_until_ns)
            return made, again_ns
        now_ns = self._clock.now_ns()
        log.warning("only %d of %d workers of version %s were started: %s", made, count, work.version, error)

        def note(state: PushState) -> int:
            state.starting = max(state.starting - (count - made), 0)
            scaling.failed(state, error or f"{count - made} of {count} workers could not be started", now_ns)
            return state.not_before_ns

        return made, await self._change(work.context, work.version, work.group, note)

    async def _push_tasks(self, work: Work, details: Mapping[str, Any], count: int) -> tuple[int, int]:
        """Send the tasks: in a function until all are answered, in a server in the background.

        Return how many were sent, and when to check again (wall clock, nanoseconds; 0: not needed).
        """
        if work.context.can_long_poll:
            again_ns = self._clock.now_ns() + webhook.timeout_ms_of(details) * 1_000_000 + MARGIN_NS
            self._background.spawn(self._run_tasks_quietly(work, details, count))
            return count, again_ns
        return count, await self._run_tasks(work, details, count)

    async def _run_tasks_quietly(self, work: Work, details: Mapping[str, Any], count: int) -> None:
        await self._run_tasks(work, details, count)

    async def _run_tasks(self, work: Work, details: Mapping[str, Any], count: int) -> int:
        assert self._tasks is not None
        error = await self._tasks.run(details, work, count)
        now_ns = self._clock.now_ns()

        def note(state: PushState) -> int:
            state.starting = max(state.starting - count, 0)
            if error:
                scaling.failed(state, error, now_ns)
                return state.not_before_ns
            scaling.worker_polled(state)
            return now_ns + SECOND_NS if not work.context.can_long_poll else 0

        return await self._change(work.context, work.version, work.group, note)

    # ---- current state -----------------------------------------------------------------------------------------------

    async def _waiting(self, keys: Sequence[QueueKey], limit: int) -> list[int]:
        """Return the number of tasks that wait in each queue, without those being dispatched.

        They are counted in memory where no other process writes.
        """
        found = {key: self._queues.find(key) for key in keys}
        known = {
            key: queue.backlog
            for key, queue in found.items()
            if queue is not None and queue.complete and not self._config.share_pollers
        }
        asked = [key for key in keys if key not in known]
        for key, count in zip(asked, await self._store.count_tasks(asked, limit) if asked else (), strict=True):
            queue = found[key]
            known[key] = max(count - (queue.busy if queue is not None else 0), 0)
        return [known[key] for key in keys]

    async def _alive(self, keys: Iterable[QueueKey], *, shared: bool, context: CallContext) -> int:
        """Return how many workers poll these queues now."""
        now_ns, wall_ns = self._clock.steady_ns(), self._clock.now_ns()
        window_s = self._config.push_window_s if context.can_long_poll else self._config.push_window_function_s
        window_ns = int(window_s * SECOND_NS)
        identities: set[str] = set()
        for key in keys:
            queue = self._queues.find(key)
            if queue is not None:
                identities.update(waiter.poll.identity for waiter in queue.waiters)
                since_ns = now_ns - (_LONG_POLL_NS if queue.polls else window_ns)
                identities.update(name for name, (seen_ns, _) in queue.pollers.items() if seen_ns >= since_ns)
            if shared:
                since_ns = wall_ns - window_ns - (_LONG_POLL_NS if context.can_long_poll else 0)
                rows = await self._rows.read(key)
                identities.update(row.identity for row in rows if row.last_access_ns >= since_ns)
        return len(identities)

    async def left(self, context: CallContext, request: rr.ShutdownWorkerRequest, types: Sequence[int]) -> None:
        """Handle the shutdown of a versioned worker: its version has one poller fewer, and no start waits for it.

        Raise StorageError.
        """
        version, identity = request.worker_heartbeat.deployment_version, request.identity
        queue_name = versioned_queue(request.task_queue, version)
        if version.build_id:
            keys = [(context.namespace_id, queue_name, kind) for kind in types]
        else:
            keys = await self._polled(context, request.task_queue, identity, types)
        found: set[str] = set()
        for key in keys:
            queue = self._queues.find(key)
            if queue is not None and queue.pollers.pop(identity, None) is not None:
                found.add(key[1])
            if (self._config.share_pollers or not context.can_long_poll) and await self._rows.remove(key, identity):
                found.add(key[1])
        if not found:
            return
        known = await self._deployments.cached(context.namespace_id)
        for data in known.deployments:
            for each in data.versions:
                info = each.worker_deployment_version_info
                named = versioned_queue(request.task_queue, info.deployment_version)
                if info.compute_config.scaling_groups and named in found:
                    await self._forget_starting(context, info.deployment_version, info.compute_config)

    async def _polled(
        self, context: CallContext, task_queue: str, identity: str, types: Sequence[int]
    ) -> list[QueueKey]:
        """Return the version queues of a worker that does not report its version (an SDK with heartbeats off)."""
        if context.can_long_poll:
            return [
                queue.key
                for queue in self._queues
                if queue.key[0] == context.namespace_id
                and is_version_of(queue.key[1], task_queue)
                and identity in queue.pollers
            ]
        known = await self._deployments.cached(context.namespace_id)
        return [
            (context.namespace_id, versioned_queue(task_queue, info.deployment_version), kind)
            for info in (each.worker_deployment_version_info for data in known.deployments for each in data.versions)
            if any(queue.name == task_queue for queue in info.task_queue_infos)
            for kind in types
        ]

    async def _forget_starting(self, context: CallContext, version: Version, config: ComputeConfig) -> None:
        """Count a worker that has shut down as arrived, so that the next task does not wait for its start."""

        def note(state: PushState) -> None:
            if state.starting:
                state.starting -= 1
                scaling.worker_polled(state)

        for name in config.scaling_groups:
            await self._change(context, version, name, note)

    # ---- the row ----------------------------------------------------------------------------------------------------

    async def _change(self, context: CallContext, version: Version, group: str, change: Callable[[PushState], T]) -> T:
        """Apply `change` to the group's stored state and return its result; it may run several times.

        Raise UNAVAILABLE when other writers win again and again.
        """
        name = push_row(version)
        for _ in range(_TRIES):
            record = await self._store.get_task_queue(context.namespace_id, name, 0)
            before = b"" if record is None else record.data
            row = PushRow.FromString(before)
            result = change(row.groups[group])
            data = row.SerializeToString(deterministic=True)
            if data == before or (not row.groups[group].ByteSize() and record is None):
                return result
            expected = 0 if record is None else record.range_id
            written = TaskQueueRecord(context.namespace_id, name, 0, expected + 1, data, self._clock.now_ns())
            try:
                await self._store.put_task_queue(written, expected)
            except LeaseLost:
                continue
            return result
        raise unavailable("the state of started workers changes too often; try again")


def _find(known: NamespaceDeployments, version: Version) -> WorkerDeploymentVersionInfo | None:
    data = find_deployment(known, version.deployment_name)
    return find_version(data, version.build_id) if data is not None else None


def _note_first(scaler: Scaler, now_ns: int, state: PushState) -> None:
    scaling.worker_polled(state)
    scaling.started(scaler, state, 1, 0, now_ns)


def effective_types(config: ComputeConfig, name: str) -> frozenset[int]:
    """Return the task types that a group serves: those it names, else all that no other group names."""
    named = {int(kind) for kind in config.scaling_groups[name].task_queue_types}
    if named:
        return frozenset(named)
    taken = {int(kind) for group in config.scaling_groups.values() for kind in group.task_queue_types}
    return frozenset(_TYPES) - taken
