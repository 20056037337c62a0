"""A whole server in a process of its own, which tells what it has used: `python -m tests.hostile.victim`.

It prints its ports, then answers each line of its standard input with one of JSON. `reset` frees what can be freed and
starts to count; `report` tells what was used since. It runs on asyncio's own event loop, whose turns can be measured.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import resource
import sys
import time
from asyncio import events
from pathlib import Path
from typing import Any

from tests.api.test_auth import DOCUMENT
from whistlestop.frontend.auth.config import AuthConfig
from whistlestop.server.config import ServerConfig
from whistlestop.server.process import Server

_longest_s = 0.0
_longest = ""
_run_handle = events.Handle._run


def _measured(handle: events.Handle) -> None:
    """One callback, or one step of a task: for so long nobody else is served."""
    global _longest_s, _longest  # noqa: PLW0603 - written in the innermost loop
    began_s = time.thread_time()
    _run_handle(handle)
    spent_s = time.thread_time() - began_s
    if spent_s > _longest_s:
        _longest_s = spent_s
        _longest = repr(handle)[:300]


def unit_s() -> float:
    """CPU time of a fixed piece of work, by which machines are compared."""
    best = float("inf")
    for _ in range(5):
        began_s = time.thread_time()
        sum(number * number for number in range(20_000))
        best = min(best, time.thread_time() - began_s)
    return best


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _reset() -> dict[str, Any]:
    global _longest_s  # noqa: PLW0603 - as above
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak starts anew
    answer = {"unit_s": unit_s(), "rss": _memory("VmRSS")}
    _longest_s = 0.0
    return answer


def _report() -> dict[str, Any]:
    return {"peak": _memory("VmHWM"), "longest_s": _longest_s, "longest": _longest}


async def main() -> None:
    """Serve until standard input ends; with a number as argument, with so many descriptors."""
    if len(sys.argv) > 1:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
    events.Handle._run = _measured  # type: ignore[method-assign,assignment]
    async with Server(ServerConfig(port=0, http_port=0, metrics_port=0, auth=AuthConfig(DOCUMENT))) as server:
        await server.started()
        gc.freeze()
        ports = {"grpc": server.port, "http": server.http_port, "metrics": server.metrics_port}
        print(json.dumps(ports), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            # In a thread, for the time of the event loop's own is what is measured.
            answer = await asyncio.to_thread(_reset if line.strip() == "reset" else _report)
            print(json.dumps(answer | {"cpu_s": time.process_time()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
