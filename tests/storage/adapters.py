"""How the conformance suite gets each adapter. Nothing else about an adapter stands here."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests import postgres
from whistlestop.storage.postgres import PostgresStore
from whistlestop.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from whistlestop.storage.interface import Store


@asynccontextmanager
async def sqlite_file(folder: Path) -> AsyncIterator[Store]:
    store = SqliteStore(str(folder / "store.db"))
    await store.open()
    await store.migrate()
    yield store
    await store.close()


@asynccontextmanager
async def sqlite_memory(folder: Path) -> AsyncIterator[Store]:
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    yield store
    await store.close()


@asynccontextmanager
async def postgres_pooled(folder: Path) -> AsyncIterator[Store]:
    async with postgres.migrated_database() as url:
        store = PostgresStore(url)
        await store.open()
        yield store
        await store.close()


@asynccontextmanager
async def postgres_single(folder: Path) -> AsyncIterator[Store]:
    """As a function instance has it, behind a transaction pooler: one connection, nothing prepared."""
    async with postgres.migrated_database() as url:
        store = PostgresStore(url, pool_size=1, prepare=False)
        await store.open()
        yield store
        await store.close()


ADAPTERS: dict[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {
    "sqlite-file": sqlite_file,
    "sqlite-memory": sqlite_memory,
    **({"postgres": postgres_pooled, "postgres-single": postgres_single} if postgres.available() else {}),
}
