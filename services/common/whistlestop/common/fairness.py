"""Where the tasks of a fairness key stand in their queue.

The row of a task without a key has its priority as it is, 1 to 5. With a key it has a level of the priority and the
key, below zero: so each key's tasks stand together, in order, and the first row of a queue tells whether there are
any. Two keys that fall on one level share its turns.
"""

from __future__ import annotations

import zlib

FIRST = -(1 << 31)
"""Below every level."""
PRIORITIES = 5
_KEYS = 1 << 20
_BEHIND_ALL = 8


def level(priority: int, fairness_key: str) -> int:
    """The level of a task."""
    if not fairness_key:
        return priority
    return (priority - _BEHIND_ALL) * _KEYS + zlib.crc32(fairness_key.encode()) % _KEYS


def is_keyed(level: int) -> bool:
    """Whether tasks of that level have a fairness key."""
    return level < 0


def last_of(level: int) -> int:
    """The last level of the same priority, of those with keys or of those without."""
    return level if level >= 0 else (level // _KEYS + 1) * _KEYS - 1


def priority_of(level: int) -> int:
    """The priority of a level's tasks."""
    return level if level >= 0 else level // _KEYS + _BEHIND_ALL
