"""Waiting for what nothing announces: of another process, a thread or a library."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def eventually(holds: Callable[[], bool | Awaitable[bool]], pause_s: float = 0.02) -> None:
    """Ask again and again until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = holds()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(pause_s)
