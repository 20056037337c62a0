"""A run as the engine has read it from the store."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.storage.records import ExecutionKey, HistoryBatch

RUN_NOT_FOUND = 'workflow execution not found for workflow ID "{}" and run ID "{}"'


@dataclass(slots=True)
class Entry:
    """One run in the cache."""

    key: ExecutionKey
    state: MutableState
    version: int
    size: int
    recent: list[HistoryBatch] = field(default_factory=list)
    """The newest batches, without a gap up to the last event."""
    recent_bytes: int = 0
