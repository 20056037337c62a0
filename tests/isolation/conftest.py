"""The `backend` of these tests, over each store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.isolation.backend import Backend
from tests.storage.adapters import ADAPTERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from whistlestop.storage.interface import Store

STORES = [name for name in ("sqlite-file", "postgres") if name in ADAPTERS]


@pytest_asyncio.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with ADAPTERS[request.param](tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def backend(store: Store) -> AsyncIterator[Backend]:
    made = Backend(store)
    await made.open()
    yield made
    await made.close()
