"""The storage adapter of a function; no other module of this package, and of the services, imports one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.functions.database import database_password, database_url

if TYPE_CHECKING:
    from whistlestop.functions.settings import FunctionSettings
    from whistlestop.storage.interface import Store


def store_of(settings: FunctionSettings) -> Store:
    """Return the store that the settings name, not opened yet. Raises ValueError and AwsError."""
    url = database_url(settings)
    if url:
        from whistlestop.storage.postgres.store import PostgresStore

        return PostgresStore(url, pool_size=1, prepare=False, password=database_password(settings, url))
    from whistlestop.storage.sqlite.store import SqliteStore

    return SqliteStore(settings.sqlite_path)
