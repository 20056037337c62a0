"""Set this process's clock ahead by the seconds in the file CLOCK_AHEAD_FILE, read at each use.

So timers of hours can be tested in seconds. It only affects `time.time` and `time.time_ns`.
"""

from __future__ import annotations

import os
import time

_FILE = os.environ["CLOCK_AHEAD_FILE"]
_real_time_ns = time.time_ns


def _time_ns() -> int:
    with open(_FILE, encoding="ascii") as file:  # noqa: PTH123 - imported by every interpreter: pathlib costs too much
        return _real_time_ns() + int(float(file.read() or 0) * 1_000_000_000)


def _time() -> float:
    return _time_ns() / 1_000_000_000


time.time_ns = _time_ns
time.time = _time
