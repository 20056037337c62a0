"""How long tests wait for what is sure to come."""

from __future__ import annotations

PATIENCE_S = 300.0
"""No machine is that busy, and no test takes that long. It only ends a test that would wait for ever."""

LONG_POLL_S = 60.0
"""How long a poll is held that finds no task. What must not wait for its end is done five times within it."""
