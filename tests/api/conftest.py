"""The `world` of these tests: a frontend over a store in memory, fresh for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.api.fixtures import new_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.api.fixtures import World


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = await new_world()
    yield made
    await made.frontend.close()
    await made.frontend.ports.store.close()
