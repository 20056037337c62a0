"""Which hash slot an execution belongs to."""

from __future__ import annotations

import zlib

from whistlestop.storage.records import SLOTS


def slot_of(namespace_id: str, workflow_id: str) -> int:
    """0 <= slot < SLOTS, the same for all runs of a workflow id."""
    return zlib.crc32(f"{namespace_id}/{workflow_id}".encode()) % SLOTS
