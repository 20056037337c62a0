"""Create a database role that owns its schema and nothing else: all that a server or function needs.

An attacker who gets hold of the role's connection can do to Whistlestop's tables what Whistlestop can. Other schemas,
roles, databases, files and extensions are out of reach.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
from psycopg import AsyncConnection, errors, sql

from whistlestop.storage.errors import CannotOpen
from whistlestop.storage.postgres.connection import CONNECT_TIMEOUT_S, one_line

NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


async def create_role(url: str, name: str, *, password: str = "", iam: bool = False) -> None:
    """Create the role and a schema of the same name, or adjust existing ones; `url` connects as an administrator.

    With `iam` the role signs in with tokens of RDS or Aurora instead of a password. Raise CannotOpen.
    """
    if not NAME.fullmatch(name):
        raise CannotOpen(f'"{name}" can\'t be the name of a role: expected a-z, 0-9 and _, and no digit at first')
    try:
        connection = await AsyncConnection.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
    except psycopg.Error as error:
        raise CannotOpen(f"can't reach the database: {one_line(error)}") from error
    async with connection:
        try:
            async with connection.transaction():
                await _create(connection, name, password, iam=iam)
        except psycopg.Error as error:
            raise CannotOpen(f"can't make the role {name}: {one_line(error)}") from error


async def _create(connection: AsyncConnection[Any], name: str, password: str, *, iam: bool) -> None:
    role = sql.Identifier(name)
    found = await (await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))).fetchone()
    options = sql.SQL("LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS")
    if found is None:
        await connection.execute(sql.SQL("CREATE ROLE {} {}").format(role, options))
    if password:
        # Only the verifier is sent, so the password is in no log of the database.
        verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
        await connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(verifier)))
    if iam:
        await connection.execute(sql.SQL("GRANT rds_iam TO {}").format(role))
    # The creator of a schema for a role has to be a member of it, and may then migrate as the role.
    await connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
    await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(role, role))
    database = sql.Identifier(connection.info.dbname)
    statement = sql.SQL("ALTER ROLE {} IN DATABASE {} SET search_path = {}")
    await connection.execute(statement.format(role, database, role))
    try:
        async with connection.transaction():
            # Before Postgres 15, everybody may create tables there.
            await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    except errors.InsufficientPrivilege:
        return


def as_role(url: str, name: str) -> str:
    """Return the administrator's URL for a session that acts as the role, which then owns what it creates."""
    options = quote(f"-c role={name} -c search_path={name}", safe="")
    return f"{url}{'&' if urlsplit(url).query else '?'}options={options}"
