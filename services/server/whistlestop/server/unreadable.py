"""Find stored rows that cannot be parsed: the part of `db check` that knows the contents of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from whistlestop.common.messages import nesting
from whistlestop.common.proto.namespace_pb2 import NamespaceData
from whistlestop.common.proto.nexus_pb2 import NexusEndpointData
from whistlestop.history.core.state_pb2 import MutableState
from whistlestop.history.schedule.schedule_pb2 import ScheduleData
from whistlestop.storage.records import Finding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import ExecutionKey, StoredExecution

PAGE = 200


async def unreadable(store: Store, limit: int) -> list[Finding]:
    """Return up to `limit` findings: stored rows that can't be parsed. Empty if all can. Raise StorageError."""
    found: list[Finding] = []
    for walk in (_namespaces, _endpoints, _executions):
        async for finding in walk(store):
            if len(found) >= limit:
                return found
            found.append(finding)
    return found


def _problem(kind: type[Message], data: bytes) -> str:
    try:
        nesting.parse(kind, data)
    except DecodeError as error:
        return f"can't be read: {error}"
    return ""


async def _namespaces(store: Store) -> AsyncIterator[Finding]:
    after = ""
    while page := await store.list_namespaces(after, PAGE):
        for record in page:
            if problem := _problem(NamespaceData, record.data):
                yield Finding("namespaces", record.namespace_id, problem)
        after = page[-1].name


async def _endpoints(store: Store) -> AsyncIterator[Finding]:
    first = ""
    while page := await store.list_nexus_endpoints(first, PAGE):
        for record in page:
            if problem := _problem(NexusEndpointData, record.data):
                yield Finding("nexus_endpoints", record.endpoint_id, problem)
        if len(page) < PAGE:
            return
        # Ids are UUIDs in lower case, so any following id is greater than this one.
        first = f"{page[-1].endpoint_id}-"


async def _executions(store: Store) -> AsyncIterator[Finding]:
    after: ExecutionKey | None = None
    while page := await store.list_executions(after, PAGE):
        for stored in page:
            if problem := _state_problem(stored):
                key = stored.key
                yield Finding("executions", f"{key.namespace_id}/{key.workflow_id}/{key.run_id}", problem)
        after = page[-1].key


def _state_problem(stored: StoredExecution) -> str:
    try:
        state = nesting.parse(MutableState, stored.state)
    except DecodeError as error:
        return f"its state can't be read: {error}; terminate or delete the workflow"
    return _problem(ScheduleData, state.schedule) if state.schedule else ""
