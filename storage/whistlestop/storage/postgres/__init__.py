"""The store over Postgres: psycopg, one statement per transition, SQL that Aurora DSQL accepts too."""

from __future__ import annotations

from whistlestop.storage.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
