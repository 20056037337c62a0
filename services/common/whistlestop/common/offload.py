"""Long computations of one caller, off the event loop: the others' calls go on beside them.

Rules of this file: what is handed over is pure and touches nothing that the event loop uses meanwhile. There is one
thread, so that such work of many callers takes turns and leaves the interpreter to the event loop for most of the time.
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
    """What `work` gives, or raises. A caller that goes away before its turn has cost nothing."""
    return await asyncio.get_running_loop().run_in_executor(_executor(), functools.partial(work, *arguments, **named))
