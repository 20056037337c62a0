"""Identifiers, injected like time, so that simulations control them."""

from __future__ import annotations

import os
import threading
import time
from typing import Protocol


class Ids(Protocol):
    """A source of new identifiers."""

    def uuid(self) -> str:
        """Return a new UUID in textual form, for a run id, request id or the like."""
        ...

    def task_id(self, now_ns: int) -> int:
        """Return a new row id below 2**63, ordered by time within a process and approximately between processes."""
        ...

    def nonce(self) -> int:
        """Return an unpredictable, non-zero number of 64 random bits."""
        ...


class RandomIds:
    """Time-ordered UUIDs (version 7), and task ids of microseconds since the epoch plus 10 random or counted bits.

    No database sequence is used (Aurora DSQL has none), so the order between processes is that of their clocks.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def uuid(self) -> str:
        # Several are made per call; formatting the text directly takes half the time of uuid.UUID.
        moment = f"{time.time_ns() // 1_000_000:012x}"
        drawn = os.urandom(10)
        digits = drawn.hex()
        variant = "89ab"[drawn[9] & 3]
        return f"{moment[:8]}-{moment[8:]}-7{digits[:3]}-{variant}{digits[3:6]}-{digits[6:18]}"

    def task_id(self, now_ns: int) -> int:
        """Return a new row id below 2**63, ordered by time within a process and approximately between processes."""
        with self._lock:
            candidate = (now_ns // 1000 << 10) | int.from_bytes(os.urandom(1), "big")
            self._last = candidate if candidate > self._last else self._last + 1
            return self._last

    def nonce(self) -> int:
        return int.from_bytes(os.urandom(8), "big") or 1


class CountedIds:
    """Predictable ids for tests."""

    def __init__(self) -> None:
        self._n = 0

    def uuid(self) -> str:
        self._n += 1
        digits = f"{self._n:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def task_id(self, now_ns: int) -> int:
        """Return a new row id below 2**63, ordered by time within a process and approximately between processes."""
        self._n += 1
        return (now_ns // 1000 << 10) + self._n

    def nonce(self) -> int:
        self._n += 1
        return self._n
