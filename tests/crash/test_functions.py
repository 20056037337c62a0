"""Functions that are killed: a short run of `functions`, and kills in the middle of a scan.

`python -m tests.crash.functions --kills 200 --faults` is the acceptance run.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from typing import TYPE_CHECKING

import pytest

from tests import postgres
from tests.crash.functions import Options, run
from tests.functions import instance
from tests.functions.client import SCHEDULED, opened, short_name
from tests.functions.instance import FUNCTIONS
from tests.functions.line import built
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.functions.line import Line

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(not postgres.available(), reason="no Postgres here"),
]

KILLS = int(os.environ.get("WHISTLESTOP_KILLS", "6"))
DUE = 60


@pytest.mark.slow
@pytest.mark.sdk
@pytest.mark.timeout(600 + 5 * KILLS)
async def test_nothing_acknowledged_is_lost() -> None:
    """Wakes are lost, doubled and late meanwhile."""
    seed = secrets.randbelow(1_000_000)
    assert await run(Options(KILLS, seed, faults=True, parallel=3, span_s=(0.1, 0.6))) == []


async def _wake(line: Line) -> bool:
    """A scan; whether it got to its end."""
    answer = await asyncio.to_thread(instance.call, line.cloud.folder, "history", SCHEDULED, line.cloud.env)
    return "error" not in answer


async def _kill_while_scanning(line: Line, chance: random.Random) -> bool:
    """Scan, and kill whoever does it somewhere in between; whether it was still at it."""
    scan = asyncio.ensure_future(_wake(line))
    await asyncio.sleep(chance.uniform(0.02, 0.25))
    first = FUNCTIONS.index("history") * line.platform.instances
    rows = [line.platform.table.read(first + each) for each in range(line.platform.instances)]
    for process_id, busy_ns, *_ in rows:
        if busy_ns:
            os.kill(process_id, signal.SIGKILL)
    return not await scan


async def test_kills_in_the_middle_of_scans() -> None:
    """Timers of many runs are due, two scans at a time are killed, again and again: each fires, and fires once."""
    seed = secrets.randbelow(1_000_000)
    print("seed", seed)
    chance = random.Random(seed)
    async with postgres.migrated_database() as url, built(url, instances=3) as line:
        await asyncio.gather(
            *(line.cloud.start(f"due-{n}", workflow_run_timeout={"seconds": 3600}) for n in range(DUE))
        )
        line.cloud.later(3700)
        killed = 0
        for _ in range(6):
            killed += sum(await asyncio.gather(*(_kill_while_scanning(line, chance) for _ in range(2))))
        assert killed > 0
        await eventually(lambda: _wake(line))
        for n in range(DUE):
            ends = [name for name in map(short_name, await line.cloud.history(f"due-{n}")) if "TimedOut" in name]
            assert ends == ["WorkflowExecutionTimedOut"]
        async with opened(line.cloud.store_env) as store:
            assert await store.check(10) == []
