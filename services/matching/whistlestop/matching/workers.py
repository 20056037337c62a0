"""Workers as such: their last heartbeats, and those that said goodbye."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import common_pb2 as common_enums
from temporalio.api.worker.v1 import message_pb2 as worker_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import invalid_argument, namespace_not_found, not_found
from whistlestop.matching.worker_query import matcher

if TYPE_CHECKING:
    from collections.abc import Iterable

    from whistlestop.matching.config import MatchingConfig

_WorkerKey = tuple[str, str]
"""Namespace id and worker instance key."""

_SYSTEM_PREFIX = "temporal-sys-"
_SHUTDOWN = common_enums.WORKER_STATUS_SHUTDOWN


class Workers:
    """What this process heard from workers; bounded, and forgotten after minutes."""

    def __init__(self, config: MatchingConfig) -> None:
        self._config = config
        self._left: OrderedDict[str, int] = OrderedDict()
        self._heartbeats: OrderedDict[_WorkerKey, tuple[int, worker_pb.WorkerHeartbeat]] = OrderedDict()

    # Those that have shut down.

    def leave(self, worker_instance_key: str, now_ns: int) -> None:
        """From now on polls of that worker are answered at once, for a while."""
        self._left.pop(worker_instance_key, None)
        self._left[worker_instance_key] = now_ns + int(self._config.shutdown_memory_s * SECOND_NS)
        if len(self._left) > self._config.shutdown_workers:
            self._left.popitem(last=False)

    def has_left(self, worker_instance_key: str, now_ns: int) -> bool:
        """Whether the worker said goodbye a short while ago."""
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

    def record(self, namespace_id: str, heartbeats: Iterable[worker_pb.WorkerHeartbeat], now_ns: int) -> None:
        """Keep the latest of each worker; one that says it shuts down is dropped."""
        for heartbeat in heartbeats:
            key = (namespace_id, heartbeat.worker_instance_key)
            self._heartbeats.pop(key, None)
            if heartbeat.status != _SHUTDOWN:
                kept = worker_pb.WorkerHeartbeat()
                kept.CopyFrom(heartbeat)
                self._heartbeats[key] = (now_ns, kept)
        limit_ns = now_ns - int(self._config.heartbeat_ttl_s * SECOND_NS)
        while self._heartbeats:
            seen_ns, _ = next(iter(self._heartbeats.values()))
            if seen_ns >= limit_ns and len(self._heartbeats) <= self._config.heartbeats:
                break
            self._heartbeats.popitem(last=False)

    def replace(self, namespace_id: str, heard: Iterable[tuple[int, worker_pb.WorkerHeartbeat]]) -> None:
        """Know what the rows say (when each was heard, and what it said) in place of what this process heard."""
        for key in [key for key in self._heartbeats if key[0] == namespace_id]:
            del self._heartbeats[key]
        for seen_ns, heartbeat in sorted(heard, key=lambda each: each[0]):
            self._heartbeats[namespace_id, heartbeat.worker_instance_key] = (seen_ns, heartbeat)

    def _select(
        self, namespace_id: str, query: str, now_ns: int, *, with_system: bool
    ) -> list[worker_pb.WorkerHeartbeat]:
        matches = matcher(query)
        limit_ns = now_ns - int(self._config.heartbeat_ttl_s * SECOND_NS)
        return [
            heartbeat
            for (namespace, _), (seen_ns, heartbeat) in self._heartbeats.items()
            if namespace == namespace_id
            and seen_ns >= limit_ns
            and (with_system or not heartbeat.task_queue.startswith(_SYSTEM_PREFIX))
            and matches(heartbeat)
        ]

    def count(self, namespace_id: str, request: rr.CountWorkersRequest, now_ns: int) -> rr.CountWorkersResponse:
        """CountWorkers."""
        selected = self._select(namespace_id, request.query, now_ns, with_system=request.include_system_workers)
        return rr.CountWorkersResponse(count=len(selected))

    def list(self, namespace_id: str, request: rr.ListWorkersRequest, now_ns: int) -> rr.ListWorkersResponse:
        """ListWorkers: by instance key, a page at a time where a page size is given."""
        after = _after(request.next_page_token)
        found = self._select(namespace_id, request.query, now_ns, with_system=request.include_system_workers)
        response = rr.ListWorkersResponse()
        if request.page_size > 0 or after:
            found.sort(key=lambda heartbeat: heartbeat.worker_instance_key)
            found = [heartbeat for heartbeat in found if not after or heartbeat.worker_instance_key > after]
            if 0 < request.page_size < len(found):
                found = found[: request.page_size]
                response.next_page_token = json.dumps({"l": found[-1].worker_instance_key}).encode()
        for heartbeat in found:
            response.workers_info.add(worker_heartbeat=heartbeat)
            response.workers.append(list_info(heartbeat))
        return response

    def describe(self, namespace_id: str, request: rr.DescribeWorkerRequest, now_ns: int) -> rr.DescribeWorkerResponse:
        """DescribeWorker. Raises NOT_FOUND."""
        found = self._heartbeats.get((namespace_id, request.worker_instance_key))
        if found is None or found[0] < now_ns - int(self._config.heartbeat_ttl_s * SECOND_NS):
            if not any(namespace == namespace_id for namespace, _ in self._heartbeats):
                raise namespace_not_found(namespace_id)
            raise not_found(f"Worker {request.worker_instance_key} not found")
        return rr.DescribeWorkerResponse(worker_info=worker_pb.WorkerInfo(worker_heartbeat=found[1]))


def _after(token: bytes) -> str:
    if not token:
        return ""
    try:
        return str(json.loads(token)["l"])
    except (ValueError, KeyError, TypeError):
        raise invalid_argument("invalid next_page_token") from None


def list_info(heartbeat: worker_pb.WorkerHeartbeat) -> worker_pb.WorkerListInfo:
    """The short form that lists show."""
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
