"""What a peer's frames cost us without bringing anything, counted in strikes.

A strike stands for about ten microseconds of work: a frame that is answered or ignored costs one or a part of one, one
that moves many streams costs more. Time forgives some, and so does every call that succeeds; calls that are refused
forgive nothing. Whoever has too many loses the connection (ENHANCE_YOUR_CALM).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from whistlestop.common.grpc.frames import ConnectionFault, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

ONE: Final = 1.0
CHEAP: Final = 0.05
"""Of what is refused by a look at two numbers, or ignored."""
OF_A_CALL: Final = 4.0
"""Of a call that was begun in vain; what a call that succeeds makes up for."""
OF_A_REFUSAL: Final = 10.0
"""Of a call that was looked at before it was refused: its credential was verified, or its message unpacked."""


class Strikes:
    """Of one connection. `now` returns monotonic seconds."""

    __slots__ = ("_at", "_forgiven_per_s", "_most", "_now", "count")

    def __init__(self, most: float, forgiven_per_s: float, now: Callable[[], float]) -> None:
        self.count = 0.0
        self._most = most
        self._forgiven_per_s = forgiven_per_s
        self._now = now
        self._at = now()

    def allow(self, most: float, forgiven_per_s: float) -> None:
        """Have other bounds from now on."""
        self._most = most
        self._forgiven_per_s = forgiven_per_s

    def add(self, cost: float = ONE) -> None:
        """Count a frame. Raises ConnectionFault when there are too many."""
        self.count += cost
        if self.count < self._most:
            return
        now = self._now()
        self.count = max(0.0, self.count - (now - self._at) * self._forgiven_per_s)
        self._at = now
        if self.count >= self._most:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def earn(self) -> None:
        """Make up for some: a call has succeeded."""
        if self.count > 0.0:
            self.count = max(0.0, self.count - OF_A_CALL)
