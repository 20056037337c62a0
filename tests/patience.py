"""How long tests wait for what is sure to come."""

from __future__ import annotations

PATIENCE_S = 60.0
"""No machine is that busy, and no test takes that long. It only ends a test that would wait for ever."""
