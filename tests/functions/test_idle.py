"""While nothing is due and nobody calls, nothing runs and no statement reaches the database; what a sweep costs.

`python benchmarks/functions.py idle` is the long version, with workers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
from benchmarks.functions import Counted

from tests import postgres
from tests.functions.client import SCHEDULED
from tests.functions.line import built

if TYPE_CHECKING:
    from tests.functions.client import Cloud

pytestmark = pytest.mark.skipif(not postgres.available(), reason="no Postgres here")

NOTHING_S = 4.0
FAR_S = 3 * 24 * 3600


async def arm(cloud: Cloud, count: int = 5) -> None:
    """Runs that begin in three days."""
    for number in range(count):
        await cloud.start(f"far-{number}", workflow_start_delay={"seconds": FAR_S})


async def last_statement(url: str) -> object:
    """When any client of this database but this one began its last statement, as Postgres has it."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        row = await (
            await connection.execute(
                "SELECT count(*), max(query_start) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ).fetchone()
    assert row is not None
    assert row[0] > 0, "instances keep their connections"
    return row[1]


async def test_an_idle_deployment_sends_no_statements() -> None:
    """By the count of the instances, and by what Postgres itself saw of all that are connected."""
    async with postgres.migrated_database() as url, built(url, instances=2) as line:
        await arm(line.cloud)
        before, seen = Counted.now(line), await last_statement(url)
        await asyncio.sleep(NOTHING_S)
        after = Counted.now(line)
        assert (after.invocations, after.statements, after.http) == (before.invocations, before.statements, before.http)
        assert await last_statement(url) == seen


async def test_a_sweep_is_a_call_and_a_few_statements() -> None:
    """Whether anything is due, what is next, queries that nobody waits for, and now and then that the instance lives."""
    async with postgres.migrated_database() as url, built(url, instances=1) as line:
        await arm(line.cloud)
        await line.cloud.invoke("history", SCHEDULED)
        before = Counted.now(line)
        await line.cloud.invoke("history", SCHEDULED)
        after = Counted.now(line)
        assert after.invocations - before.invocations == 1
        assert after.statements - before.statements <= 4
