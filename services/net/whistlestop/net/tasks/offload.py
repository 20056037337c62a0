"""Run long computations off the event loop, so that other calls go on.

The work must be pure and must not touch anything that the event loop uses meanwhile. There is a single thread, so
that such work takes turns and leaves the interpreter to the event loop for most of the time.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
P = ParamSpec("P")


@functools.cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="long-work")


async def off_loop(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run `work` in the thread and return its result or raise its exception.

    If the caller is cancelled before the work begins, it never runs.
    """
    return await asyncio.get_running_loop().run_in_executor(_executor(), functools.partial(work, *arguments, **named))
