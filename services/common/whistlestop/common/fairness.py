"""The level at which tasks of a fairness key are stored in their queue.

A task without a key is stored at its priority, 1 to 5. A task with a key has a negative level, computed from priority
and key: so the tasks of a key are stored together and in order, and the first row of a queue shows whether there are
any. Two keys whose hashes collide share one level and its turns.
"""

from __future__ import annotations

import zlib

FIRST = -(1 << 31)
"""Less than every level."""
PRIORITIES = 5
_KEYS = 1 << 20
_BEHIND_ALL = 8


def level(priority: int, fairness_key: str) -> int:
    """Return the level of a task with this priority (1 to 5) and fairness key (empty: none)."""
    if not fairness_key:
        return priority
    return (priority - _BEHIND_ALL) * _KEYS + zlib.crc32(fairness_key.encode()) % _KEYS


def is_keyed(level: int) -> bool:
    """Return whether tasks of that level have a fairness key."""
    return level < 0


def last_of(level: int) -> int:
    """Return the last level of the same priority, among those with keys or those without."""
    return level if level >= 0 else (level // _KEYS + 1) * _KEYS - 1


def priority_of(level: int) -> int:
    """Return the priority of a level's tasks."""
    return level if level >= 0 else level // _KEYS + _BEHIND_ALL
