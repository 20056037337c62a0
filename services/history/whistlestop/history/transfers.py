"""Delivering transfer tasks: the effects of one run on another, at least once and idempotent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.history.service import History
    from whistlestop.storage.records import TransferTask


class TransferProcessor:
    """Delivers what commits wrote into the outbox."""

    def __init__(self, service: History) -> None:
        self._service = service

    def hint(self, transfers: Sequence[TransferTask]) -> None:
        """Fresh rows."""

    def start(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """End."""
