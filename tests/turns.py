"""Turns of the event loop, for tests over a fake clock: what needs no time is over after a few hundred."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

TURNS = 500


async def at_once(call: Coroutine[Any, Any, Any]) -> Any:
    """What the call answers without waiting; None where it would wait, and then it is given up."""
    task = asyncio.ensure_future(call)
    for _ in range(TURNS):
        await asyncio.sleep(0)
        if task.done():
            return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None


async def turns() -> None:
    """Let everything go on that needs no time."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
