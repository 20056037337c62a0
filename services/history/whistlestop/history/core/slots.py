"""The hash slot of an execution."""

from __future__ import annotations

import zlib

from whistlestop.storage.records import SLOTS


def slot_of(namespace_id: str, workflow_id: str) -> int:
    """Return the slot, 0 <= slot < SLOTS, which is the same for all runs of a workflow id."""
    return zlib.crc32(f"{namespace_id}/{workflow_id}".encode()) % SLOTS
