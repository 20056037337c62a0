"""Read, cache and change (by compare-and-set) the row that holds a namespace's worker deployments."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from google.protobuf.message import DecodeError

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.errors import unavailable
from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
from whistlestop.common.timing.backoff import backoff
from whistlestop.common.versioning.deployment_changes import (
    TooManyVersions,
    draining_versions,
    idle_versions,
    remove_version,
)
from whistlestop.common.versioning.deployments import EMPTY, ROW_NAME, ROW_TYPE, find_deployment
from whistlestop.storage.errors import LeaseLost, Unreadable
from whistlestop.storage.records import TaskQueueRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersion, WorkerDeploymentVersionInfo

    from whistlestop.common.clock import Clock
    from whistlestop.storage.interface import TaskStore

    T = TypeVar("T")

_TRIES = 30
_FIRST_PAUSE_S = 0.01
_MAX_PAUSE_S = 0.5
MAX_BEHIND_S = 1.0
"""The greatest age, in seconds, of a cached value that `cached` returns."""
_KEPT_NS = int(MAX_BEHIND_S * SECOND_NS)
_MAX_NAMESPACES = 1000


class _Known(NamedTuple):
    read_ns: int
    range_id: int
    deployments: NamespaceDeployments


def _pause_s(attempt: int, data: bytes) -> float:
    """Return the seconds to wait before the next attempt, so that concurrent writers do not collide repeatedly.

    The pause doubles with each attempt and is spread by a hash of the data: writers of equal data do not compete.
    """
    if attempt == 0:
        return 0.0
    longest_s = backoff(_FIRST_PAUSE_S, attempt + 1, _MAX_PAUSE_S)
    return longest_s * zlib.crc32(data, attempt) / 2**32


def _parsed(namespace_id: str, data: bytes) -> NamespaceDeployments:
    try:
        return NamespaceDeployments.FromString(data)
    except DecodeError as error:
        raise Unreadable(f"the worker deployments of the namespace {namespace_id} can't be read") from error


class Deployments:
    """Reads and changes worker deployments; `cached` may lag a second behind another process's write."""

    def __init__(self, store: TaskStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def read(self, namespace_id: str) -> NamespaceDeployments:
        """Return the deployments as stored now. Do not modify them: the object is shared while the row stays the same.

        Raise Unreadable when the stored row is damaged.
        """
        record = await self._store.get_task_queue(namespace_id, ROW_NAME, ROW_TYPE)
        known = self._known.get(namespace_id)
        range_id = 0 if record is None else record.range_id
        if record is None:
            found = EMPTY
        elif known is not None and known.range_id == range_id:
            found = known.deployments
        else:
            found = _parsed(namespace_id, record.data)
        if len(self._known) >= _MAX_NAMESPACES:
            self._known.clear()
        self._known[namespace_id] = _Known(self._clock.steady_ns(), range_id, found)
        return found

    def peek(self, namespace_id: str) -> NamespaceDeployments | None:
        """Return the deployments that this process read last, of any age; None when it has not read them."""
        known = self._known.get(namespace_id)
        return known.deployments if known is not None else None

    async def cached(self, namespace_id: str) -> NamespaceDeployments:
        """Return the deployments as stored at most MAX_BEHIND_S ago. Do not modify them."""
        known = self._known.get(namespace_id)
        if known is not None and self._clock.steady_ns() - known.read_ns < _KEPT_NS:
            return known.deployments
        return await self.read(namespace_id)

    async def change(self, namespace_id: str, change: Callable[[NamespaceDeployments], T]) -> T:
        """Apply `change` to the stored deployments, write the result, and return what `change` returned.

        `change` may run several times. What it raises is passed on and leaves the row as it was. Raise a ServiceError
        (UNAVAILABLE) when other writers win again and again.
        """
        turn = self._turns.get(namespace_id)
        if turn is None:
            turn = self._turns[namespace_id] = asyncio.Lock()
        async with turn:
            return await self._change(namespace_id, change)

    async def add(
        self,
        namespace_id: str,
        name: str,
        change: Callable[[NamespaceDeployments], T],
        *,
        refresh: Callable[[list[WorkerDeploymentVersion]], Awaitable[object]],
        is_polled: Callable[[WorkerDeploymentVersionInfo], Awaitable[bool]],
    ) -> T:
        """Apply `change`, which may add a version to the deployment `name`.

        When the deployment is full, `refresh` first updates the versions that may have drained; then the oldest version
        that gets no work, and for which `is_polled` returns False, is deleted to make room. Raise TooManyVersions when
        there is no such version.
        """
        try:
            return await self.change(namespace_id, change)
        except TooManyVersions:
            data = find_deployment(await self.read(namespace_id), name)
            if data is not None and (draining := draining_versions(data)):
                await refresh(draining)
                data = find_deployment(await self.read(namespace_id), name)
            for info in idle_versions(data) if data is not None else ():
                if not await is_polled(info):
                    build_id = info.deployment_version.build_id
                    break
            else:
                raise

        def replace(known: NamespaceDeployments) -> T:
            data = find_deployment(known, name)
            idle = idle_versions(data) if data is not None else ()
            if data is not None and any(info.deployment_version.build_id == build_id for info in idle):
                remove_version(data, build_id)
            return change(known)

        return await self.change(namespace_id, replace)

    async def _change(self, namespace_id: str, change: Callable[[NamespaceDeployments], T]) -> T:
        for attempt in range(_TRIES):
            record = await self._store.get_task_queue(namespace_id, ROW_NAME, ROW_TYPE)
            before = b"" if record is None else record.data
            wanted = _parsed(namespace_id, before)
            result = change(wanted)
            data = wanted.SerializeToString()
            if data == before:
                return result
            expected = 0 if record is None else record.range_id
            row = TaskQueueRecord(namespace_id, ROW_NAME, ROW_TYPE, expected + 1, data, self._clock.now_ns())
            try:
                await self._store.put_task_queue(row, expected)
            except LeaseLost:
                await self._clock.sleep(_pause_s(attempt, data))
                continue
            self._known[namespace_id] = _Known(self._clock.steady_ns(), expected + 1, wanted)
            return result
        raise unavailable("worker deployments change too often; try again")
