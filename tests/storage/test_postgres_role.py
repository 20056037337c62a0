"""The role that `whistlestop db role` makes: it serves, and reaches nothing but its own schema."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
import pytest_asyncio
from psycopg import errors

from tests.postgres import fresh_database
from whistlestop.storage.errors import CannotOpen
from whistlestop.storage.postgres.roles import as_role, create_role
from whistlestop.storage.postgres.store import PostgresStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.postgres


@pytest_asyncio.fixture
async def admin() -> AsyncIterator[str]:
    async with fresh_database() as url:
        name = urlsplit(url).path.removeprefix("/")
        yield url
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for role in (name, "rds_iam"):
                found = await (
                    await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
                ).fetchone()
                if found is not None:
                    await connection.execute(f"DROP OWNED BY {role} CASCADE")
                    await connection.execute(f"DROP ROLE {role}")


def name_of(url: str) -> str:
    """The role is named after the database, so that tests do not share one: roles belong to the server."""
    return urlsplit(url).path.removeprefix("/")


async def tables(url: str) -> set[tuple[str, str]]:
    """Schemas and owners of all tables that are not Postgres's own."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute(
            "SELECT schemaname, tableowner FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        return {(str(schema), str(owner)) for schema, owner in await found.fetchall()}


async def test_a_restricted_role_serves_from_its_own_schema(admin: str) -> None:
    """Migrated as the role by an administrator, or by the role itself: the tables are its own."""
    name = name_of(admin)
    await create_role(admin, name)
    store = PostgresStore(as_role(admin, name))
    await store.open()
    assert await store.migrate()
    assert await store.check(10) == []
    await store.close()
    assert await tables(admin) == {(name, name)}


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE public.x (a int)", "CREATE SCHEMA other", "CREATE ROLE other", "CREATE DATABASE other",
        "SELECT * FROM secrets.kept", "ALTER ROLE CURRENT_USER SUPERUSER",
        "COPY (SELECT 1) TO PROGRAM 'true'", "COPY (SELECT 1) TO '/tmp/x'", "SELECT pg_read_file('/etc/passwd')",
        "SELECT rolpassword FROM pg_authid", "SET ROLE pg_read_all_data", "ALTER SYSTEM SET log_statement = 'all'",
    ],
)  # fmt: skip
async def test_a_restricted_role_reaches_nothing_else(admin: str, statement: str) -> None:
    name = name_of(admin)
    await create_role(admin, name)
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
        await connection.execute("CREATE SCHEMA secrets")
        await connection.execute("CREATE TABLE secrets.kept (a int)")
    # The session of the role itself, and not of somebody who may go back to being the administrator.
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
        await connection.execute(f"SET SESSION AUTHORIZATION {name}")
        with pytest.raises(errors.InsufficientPrivilege):
            await connection.execute(statement)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def test_the_command_prints_the_url_once_and_the_server_sees_no_password(admin: str) -> None:
    name = name_of(admin)
    command = [sys.executable, "-m", "whistlestop.server", "db", "role", name, "--database-url", admin]
    made = await asyncio.to_thread(run, command)
    assert made.returncode == 0, made.stderr
    parts = urlsplit(made.stdout.strip())
    assert (parts.username, parts.path, parts.query) == (name, f"/{name}", urlsplit(admin).query)
    async with await psycopg.AsyncConnection.connect(admin) as connection:
        found = await connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (name,))
        (verifier,) = await found.fetchone() or ("",)
    assert str(verifier).startswith("SCRAM-SHA-256$")
    again = await asyncio.to_thread(run, command)
    assert again.returncode == 0
    assert urlsplit(again.stdout.strip()).password not in {None, parts.password}


async def test_with_iam_it_has_no_password(admin: str) -> None:
    name = name_of(admin)
    with pytest.raises(CannotOpen, match="rds_iam"):
        await create_role(admin, name, iam=True)
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
        await connection.execute("CREATE ROLE rds_iam")  # as RDS has it
    await create_role(admin, name, iam=True)
    async with await psycopg.AsyncConnection.connect(admin) as connection:
        member = await connection.execute("SELECT pg_has_role(%s, 'rds_iam', 'member')", (name,))
        assert await member.fetchone() == (True,)
        kept = await connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (name,))
        assert await kept.fetchone() == (None,)


@pytest.mark.parametrize("name", ["", "A", "a b", 'a"b', "1a", "a;drop", "a" * 64])
async def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(CannotOpen, match="can't be the name of a role"):
        await create_role("postgresql:///nowhere", name)
