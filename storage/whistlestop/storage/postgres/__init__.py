"""The store on Postgres: psycopg, one statement per transition, in SQL that Aurora DSQL accepts too."""

from __future__ import annotations

from whistlestop.storage.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
