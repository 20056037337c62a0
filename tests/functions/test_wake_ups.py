"""Wake-ups that come twice, late, out of order, or never: timers fire once each, though nobody polls."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from tests import postgres
from tests.functions.client import SCHEDULED, opened, short_name
from tests.functions.fake_aws import Faults
from tests.functions.line import built
from tests.patience import PATIENCE_S
from whistlestop.storage.records import SLOTS

if TYPE_CHECKING:
    from tests.functions.line import Line

pytestmark = pytest.mark.skipif(not postgres.available(), reason="no Postgres here")

RUNS = 12
SOON_S = PATIENCE_S
"""On a busy machine."""


async def start(line: Line) -> None:
    """Runs whose time is over in one to three seconds, by turns."""
    for n in range(RUNS):
        await line.cloud.start(f"run-{n}", workflow_run_timeout={"seconds": 1 + n % 3})


async def open_runs(line: Line) -> int:
    """By their timers, so that looking fires none."""
    async with opened(line.cloud.store_env) as store:
        rows = await store.scan_timers(0, SLOTS, 1 << 62, 2 * RUNS)
    return sum(row.kind == "execution" for row in rows)


async def all_fire(line: Line) -> None:
    end_s = time.monotonic() + SOON_S
    while await open_runs(line):
        assert time.monotonic() < end_s, f"{await open_runs(line)} runs are open"
        await asyncio.sleep(0.2)
    for n in range(RUNS):
        names = [short_name(event) for event in await line.cloud.history(f"run-{n}")]
        assert names == ["WorkflowExecutionStarted", "WorkflowTaskScheduled", "WorkflowExecutionTimedOut"]


async def test_duplicate_late_and_reordered_wake_ups() -> None:
    faults = Faults(doubled=0.5, late=0.5, late_s=2.0)
    seed = secrets.randbelow(1_000_000)
    print("seed", seed)
    async with postgres.migrated_database() as url, built(url, seed=seed, faults=faults, instances=4) as line:
        await start(line)
        await all_fire(line)
        assert line.aws.counts["doubled"] + line.aws.counts["late"] > 0


async def test_the_sweep_compensates_lost_wake_ups() -> None:
    async with postgres.migrated_database() as url, built(url, faults=Faults(lost=1.0), instances=4) as line:
        await start(line)
        await asyncio.sleep(4)
        assert await open_runs(line) == RUNS
        assert line.aws.counts["lost"] > 0
        fired = await line.cloud.invoke("history", SCHEDULED)
        assert fired["timers"] == RUNS
        await all_fire(line)
