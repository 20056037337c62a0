"""Namespaces as each call needs them: parsed once and cached for a few seconds.

A caller that misses something in a cached namespace (for example a search attribute that another process added) calls
`refresh`; a caller that writes one calls `forget`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import namespace_pb2 as enums_pb

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.proto import namespace_pb2 as namespace_pb
from whistlestop.storage.attribute_types import AttributeType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from temporalio.api.rules.v1 import message_pb2 as rules_pb

    from whistlestop.common.clock import Clock
    from whistlestop.storage.interface import NamespaceStore
    from whistlestop.storage.records import NamespaceRecord

_log = logging.getLogger(__name__)
_damaged: set[str] = set()
"""Ids of namespaces whose damaged rows have been logged."""

TTL_NS = 10_000_000_000
MAX_ENTRIES = 10_000
_TYPES = frozenset(AttributeType)


@dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace. `data` is shared between callers: copy it before you change it."""

    namespace_id: str
    name: str
    state: int
    """A number of temporal.api.enums.v1.NamespaceState."""
    retention_ns: int
    custom_search_attributes: Mapping[str, AttributeType]
    workflow_rules: tuple[rules_pb.WorkflowRule, ...]
    data: namespace_pb.NamespaceData
    record: NamespaceRecord


def read(record: NamespaceRecord) -> namespace_pb.NamespaceData:
    """Return the data of a stored record.

    For a damaged row, return only its id and name: runs of the namespace go on, and none is deleted as expired, because
    the retention is unknown. Its other settings are lost; an update or a deletion of the namespace rewrites the row.
    """
    try:
        return namespace_pb.NamespaceData.FromString(record.data)
    except DecodeError as error:
        if record.namespace_id not in _damaged:
            _damaged.add(record.namespace_id)
            _log.error(
                "the row of namespace %s (%s) can't be read (%s): its settings are ignored. Update or delete"
                " the namespace to repair it.", record.name, record.namespace_id, error,
            )  # fmt: skip
        data = namespace_pb.NamespaceData()
        data.info.id, data.info.name = record.namespace_id, record.name
        data.info.state = enums_pb.NAMESPACE_STATE_REGISTERED
        return data


def parse(record: NamespaceRecord) -> Namespace:
    """Parse a stored record. Raise DecodeError when its data is damaged."""
    data = read(record)
    retention = data.config.workflow_execution_retention_ttl
    return Namespace(
        namespace_id=record.namespace_id,
        name=record.name,
        state=data.info.state,
        retention_ns=retention.seconds * 1_000_000_000 + retention.nanos,
        custom_search_attributes={
            name: AttributeType(kind) for name, kind in data.custom_search_attributes.items() if kind in _TYPES
        },
        workflow_rules=tuple(data.workflow_rules.values()),
        data=data,
        record=record,
    )


class NamespaceCache:
    """Cache namespaces by name and by id. Absence is not cached: a new namespace is visible at once."""

    def __init__(self, store: NamespaceStore, clock: Clock, ttl_ns: int = TTL_NS) -> None:
        self._store = store
        self._clock = clock
        self._ttl_ns = ttl_ns
        self._by_name: dict[str, tuple[int, Namespace]] = {}
        self._by_id: dict[str, tuple[int, Namespace]] = {}

    def peek(self, name: str) -> Namespace | None:
        """Return the namespace if it is cached and fresh, without reading the store; otherwise None."""
        return self._fresh(self._by_name.get(name))

    def peek_id(self, namespace_id: str) -> Namespace | None:
        """Return the cached namespace of that id, or None if it is not cached or too old."""
        return self._fresh(self._by_id.get(namespace_id))

    async def by_name(self, name: str) -> Namespace | None:
        """Return the namespace of that name, from the cache or the store; None when there is none."""
        found = self._fresh(self._by_name.get(name))
        return found if found is not None else self._keep(await self._store.get_namespace(name=name))

    async def by_id(self, namespace_id: str) -> Namespace | None:
        """Return the namespace of that id, from the cache or the store; None when there is none."""
        found = self._fresh(self._by_id.get(namespace_id))
        return found if found is not None else self._keep(await self._store.get_namespace(namespace_id=namespace_id))

    async def refresh(self, namespace_id: str) -> Namespace | None:
        """Return the namespace of that id as stored now, or None if there is none. Raise StorageError."""
        return self._keep(await self._store.get_namespace(namespace_id=namespace_id))

    def forget(self, namespace_id: str) -> None:
        """Drop a namespace that was written or deleted, so that the next call reads it again."""
        entry = self._by_id.pop(namespace_id, None)
        if entry is not None:
            self._by_name.pop(entry[1].name, None)

    def _fresh(self, entry: tuple[int, Namespace] | None) -> Namespace | None:
        return entry[1] if entry is not None and entry[0] > self._clock.steady_ns() else None

    def _keep(self, record: NamespaceRecord | None) -> Namespace | None:
        if record is None:
            return None
        if len(self._by_id) >= MAX_ENTRIES:
            self._by_id.clear()
            self._by_name.clear()
        # After a rename the old name must no longer lead here.
        self.forget(record.namespace_id)
        found = parse(record)
        entry = (self._clock.steady_ns() + self._ttl_ns, found)
        self._by_name[found.name] = self._by_id[found.namespace_id] = entry
        return found
