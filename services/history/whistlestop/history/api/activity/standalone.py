"""Standalone activities as one kind of standalone execution."""

from __future__ import annotations

from whistlestop.history.api.standalone import Standalone
from whistlestop.history.core.activity import standalone as core

ACTIVITIES = Standalone(
    id_field="activity_id", id_prefix=core.ID_PREFIX, division=core.DIVISION, missing=core.NOT_FOUND,
    deleted="Delete activity execution", is_standalone=core.is_standalone, end=core.terminate,
    long_poll=lambda limits: (limits.activity_long_poll_ns, limits.activity_long_poll_buffer_ns),
)  # fmt: skip
