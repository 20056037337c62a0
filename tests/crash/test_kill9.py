"""A short run of `kill9` on each store; `WHISTLESTOP_KILLS=100` makes it the acceptance run."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

import pytest

from tests import postgres
from tests.crash.kill9 import Options, run
from tests.support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("WHISTLESTOP_KILLS", "5"))


@pytest.mark.slow
@pytest.mark.sdk
@pytest.mark.timeout(600 + 20 * KILLS)
@pytest.mark.parametrize(
    "store",
    [
        "sqlite",
        pytest.param(
            "postgres",
            marks=[
                pytest.mark.postgres,
                pytest.mark.skipif(not postgres.available(), reason="no Postgres here"),
            ],
        ),
    ],
)
async def test_nothing_acknowledged_is_lost(store: str, tmp_path: Path) -> None:
    options = Options(KILLS, store, secrets.randbelow(1_000_000), parallel=6, port=free_port())
    assert await run(options, tmp_path) == []
