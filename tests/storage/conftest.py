"""The `store` of the conformance suite: every adapter, fresh for each test."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.storage.adapters import ADAPTERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from whistlestop.storage.interface import Store


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            item.add_marker(pytest.mark.asyncio)


@pytest_asyncio.fixture(params=sorted(ADAPTERS))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with ADAPTERS[request.param](tmp_path) as opened:
        yield opened
