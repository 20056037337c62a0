"""The cost of a peer's frames that bring no call forward, counted in strikes.

A strike stands for about ten microseconds of work: a frame that is only answered or ignored costs at most one, a
frame that affects many streams costs more. Strikes are forgiven over time, and with every call that succeeds; refused
calls earn nothing. A peer with too many strikes loses the connection (ENHANCE_YOUR_CALM).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from whistlestop.net.grpc.frames import ConnectionFault, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

ONE: Final = 1.0
CHEAP: Final = 0.05
"""For what is refused by comparing two numbers, or ignored."""
OF_A_CALL: Final = 4.0
"""For a call that was begun in vain; also what a successful call makes up for."""
OF_A_REFUSAL: Final = 10.0
"""For a call that was refused after some work: its credential was verified, or its message decompressed."""


class Strikes:
    """The strikes of one connection. `now` returns monotonic seconds."""

    __slots__ = ("_at", "_forgiven_per_s", "_most", "_now", "count")

    def __init__(self, most: float, forgiven_per_s: float, now: Callable[[], float]) -> None:
        self.count = 0.0
        self._most = most
        self._forgiven_per_s = forgiven_per_s
        self._now = now
        self._at = now()

    def allow(self, most: float, forgiven_per_s: float) -> None:
        """Change the limits: most strikes at a time, and how many are forgiven per second."""
        self._most = most
        self._forgiven_per_s = forgiven_per_s

    def add(self, cost: float = ONE) -> None:
        """Count strikes. Raises ConnectionFault when there are too many."""
        self.count += cost
        if self.count < self._most:
            return
        now = self._now()
        self.count = max(0.0, self.count - (now - self._at) * self._forgiven_per_s)
        self._at = now
        if self.count >= self._most:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without a useful request")

    def earn(self) -> None:
        """Forgive some strikes, because a call has succeeded."""
        if self.count > 0.0:
            self.count = max(0.0, self.count - OF_A_CALL)
