"""The workers' last heartbeats, and the workers that have shut down."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.worker.v1 import message_pb2 as worker_pb
from temporalio.api.worker.v1.message_pb2 import WorkerHeartbeat
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import namespace_not_found, not_found
from whistlestop.common.messages.page_tokens import last_of, list_mark, page_token
from whistlestop.matching.workers.query import matcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from whistlestop.matching.config import MatchingConfig

_WorkerKey = tuple[str, str]
"""Namespace id and worker instance key."""

_SYSTEM_PREFIX = "temporal-sys-"
MAX_PER_PAGE = 1000
_SHUTDOWN = common_enums.WORKER_STATUS_SHUTDOWN

_TURN = 50
"""The number of workers that are filtered in one turn of the event loop."""


class Workers:
    """The workers known to this process: bounded in number, and forgotten after minutes."""

    def __init__(self, config: MatchingConfig) -> None:
        self._config = config
        self._left: OrderedDict[str, int] = OrderedDict()
        self._ttl_ns = int(config.heartbeat_ttl_s * SECOND_NS)
        self._heartbeats: OrderedDict[_WorkerKey, tuple[int, WorkerHeartbeat]] = OrderedDict()
        """The most recently updated heartbeat is the last."""
        self._keys: dict[str, list[str]] = {}
        """The instance keys of each namespace, sorted."""

    # Workers that have shut down.

    def leave(self, worker_instance_key: str, now_ns: int) -> None:
        """Answer polls of this worker at once from now on, for `shutdown_memory_s`."""
        self._left.pop(worker_instance_key, None)
        self._left[worker_instance_key] = now_ns + int(self._config.shutdown_memory_s * SECOND_NS)
        if len(self._left) > self._config.shutdown_workers:
            self._left.popitem(last=False)

    def has_left(self, worker_instance_key: str, now_ns: int) -> bool:
        """Return whether the worker has shut down within `shutdown_memory_s`."""
        if not self._left or not worker_instance_key:
            return False
        until_ns = self._left.get(worker_instance_key)
        if until_ns is None:
            return False
        if until_ns > now_ns:
            return True
        del self._left[worker_instance_key]
        return False

    # Heartbeats.

    def record(self, namespace_id: str, heartbeats: Iterable[WorkerHeartbeat], now_ns: int) -> None:
        """Keep the latest heartbeat of each worker; that of a worker that shuts down is dropped."""
        for heartbeat in heartbeats:
            key = (namespace_id, heartbeat.worker_instance_key)
            if heartbeat.status == _SHUTDOWN:
                self._forget(key)
                continue
            kept = WorkerHeartbeat()
            kept.CopyFrom(heartbeat)
            if self._heartbeats.pop(key, None) is None:
                insort(self._keys.setdefault(namespace_id, []), key[1])
            self._heartbeats[key] = (now_ns, kept)
        limit_ns = now_ns - self._ttl_ns
        while self._heartbeats:
            oldest, (seen_ns, _) = next(iter(self._heartbeats.items()))
            if seen_ns >= limit_ns and len(self._heartbeats) <= self._config.heartbeats:
                break
            self._forget(oldest)

    def _forget(self, key: _WorkerKey) -> None:
        if self._heartbeats.pop(key, None) is None:
            return
        keys = self._keys[key[0]]
        del keys[bisect_left(keys, key[1])]
        if not keys:
            del self._keys[key[0]]

    async def find(self, namespace_id: str, key: str, now_ns: int) -> WorkerHeartbeat | None:
        """Return the worker's last heartbeat; None when there is none or it has expired."""
        found = self._heartbeats.get((namespace_id, key))
        return found[1] if found is not None and found[0] >= now_ns - self._ttl_ns else None

    async def after(self, namespace_id: str, key: str, now_ns: int, few: int) -> AsyncIterator[WorkerHeartbeat]:
        """Yield the heartbeats that have not expired, by instance key, after `key`."""
        keys = self._keys.get(namespace_id, [])
        # A copy, because the caller may yield to other tasks in between, and workers come and go.
        for each in keys[bisect_right(keys, key) :]:
            seen_ns, heartbeat = self._heartbeats.get((namespace_id, each), (0, None))
            if heartbeat is not None and seen_ns >= now_ns - self._ttl_ns:
                yield heartbeat


class KnownWorkers(Protocol):
    """A source of heartbeats: this process, or rows."""

    async def find(self, namespace_id: str, key: str, now_ns: int) -> WorkerHeartbeat | None:
        """Return the worker's last heartbeat; None when there is none or it has expired."""
        ...

    def after(self, namespace_id: str, key: str, now_ns: int, few: int) -> AsyncIterator[WorkerHeartbeat]:
        """Yield the heartbeats that have not expired, by instance key, after `key`.

        The caller will probably consume no more than `few`.
        """
        ...


def _filter(query: str, *, with_system: bool) -> Callable[[WorkerHeartbeat], bool]:
    matches = matcher(query)
    return lambda heartbeat: (with_system or not heartbeat.task_queue.startswith(_SYSTEM_PREFIX)) and matches(heartbeat)


async def _in_turns(heartbeats: AsyncIterator[WorkerHeartbeat]) -> AsyncIterator[WorkerHeartbeat]:
    """Yield the same, giving other tasks a turn in between: many workers may be filtered by a long filter."""
    count = 0
    async for heartbeat in heartbeats:
        yield heartbeat
        count += 1
        if not count % _TURN:
            await asyncio.sleep(0)


async def count_workers(
    known: KnownWorkers, namespace_id: str, request: rr.CountWorkersRequest, now_ns: int
) -> rr.CountWorkersResponse:
    """Return the number of live workers that match the query (empty: all). Raise INVALID_ARGUMENT."""
    wanted = _filter(request.query, with_system=request.include_system_workers)
    count = 0
    async for heartbeat in _in_turns(known.after(namespace_id, "", now_ns, MAX_PER_PAGE)):
        count += wanted(heartbeat)
    return rr.CountWorkersResponse(count=count)


async def list_workers(
    known: KnownWorkers, namespace_id: str, request: rr.ListWorkersRequest, now_ns: int
) -> rr.ListWorkersResponse:
    """Serve ListWorkers: return a page ordered by instance key. Raise INVALID_ARGUMENT."""
    wanted = _filter(request.query, with_system=request.include_system_workers)
    mark = list_mark(namespace_id, request.query, str(request.include_system_workers))
    after = last_of(request.next_page_token, mark, "invalid next_page_token")
    size = min(request.page_size, MAX_PER_PAGE) if request.page_size > 0 else MAX_PER_PAGE
    response = rr.ListWorkersResponse()
    async for heartbeat in _in_turns(known.after(namespace_id, after, now_ns, size + 1)):
        if not wanted(heartbeat):
            continue
        if len(response.workers) == size:
            response.next_page_token = page_token(response.workers[-1].worker_instance_key, mark)
            break
        response.workers_info.add(worker_heartbeat=heartbeat)
        response.workers.append(list_info(heartbeat))
    return response


async def describe_worker(
    known: KnownWorkers, namespace_id: str, request: rr.DescribeWorkerRequest, now_ns: int
) -> rr.DescribeWorkerResponse:
    """Return the last heartbeat of a live worker. Raise NOT_FOUND."""
    found = await known.find(namespace_id, request.worker_instance_key, now_ns)
    if found is not None:
        return rr.DescribeWorkerResponse(worker_info=worker_pb.WorkerInfo(worker_heartbeat=found))
    async for _ in known.after(namespace_id, "", now_ns, 1):
        raise not_found(f"Worker {request.worker_instance_key} not found")
    raise namespace_not_found(namespace_id)


def list_info(heartbeat: WorkerHeartbeat) -> worker_pb.WorkerListInfo:
    """Return the short form of a worker that lists show."""
    info = worker_pb.WorkerListInfo(
        worker_instance_key=heartbeat.worker_instance_key,
        worker_identity=heartbeat.worker_identity,
        task_queue=heartbeat.task_queue,
        sdk_name=heartbeat.sdk_name,
        sdk_version=heartbeat.sdk_version,
        status=heartbeat.status,
        host_name=heartbeat.host_info.host_name,
        worker_grouping_key=heartbeat.host_info.worker_grouping_key,
        process_id=heartbeat.host_info.process_id,
        plugins=heartbeat.plugins,
        drivers=heartbeat.drivers,
    )
    if heartbeat.HasField("deployment_version"):
        info.deployment_version.CopyFrom(heartbeat.deployment_version)
    if heartbeat.HasField("start_time"):
        info.start_time.CopyFrom(heartbeat.start_time)
    return info
