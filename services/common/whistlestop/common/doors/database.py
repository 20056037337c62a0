"""Which database a function uses: a URL as it stands, or one put together from credentials that AWS keeps.

    WHISTLESTOP_DATABASE_URL      postgresql://…
    WHISTLESTOP_DSQL_HOST         of an Aurora DSQL cluster, whose password is a token made from the function's role
    WHISTLESTOP_DATABASE_HOST     with WHISTLESTOP_DATABASE_SECRET, a secret of Secrets Manager with username, password

Credentials are read once, when an instance starts, and never written to a log.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

DATABASE = "whistlestop"
TOKEN_S = 7 * 24 * 3600
"""The most that DSQL takes. A token is looked at when a connection is made, so it must outlive the instance."""


def database_url(environ: Mapping[str, str] = os.environ, client: Any = None) -> str:
    """Empty when no Postgres is named. `client` is a boto3 client of the service that keeps the credentials."""
    if url := environ.get("WHISTLESTOP_DATABASE_URL"):
        return url
    if host := environ.get("WHISTLESTOP_DSQL_HOST"):
        made = client or _client("dsql")
        token = made.generate_db_connect_admin_auth_token(host, made.meta.region_name, TOKEN_S)
        return _url("admin", token, host, "postgres")
    if host := environ.get("WHISTLESTOP_DATABASE_HOST"):
        made = client or _client("secretsmanager")
        secret = json.loads(made.get_secret_value(SecretId=environ["WHISTLESTOP_DATABASE_SECRET"])["SecretString"])
        return _url(secret["username"], secret["password"], host, DATABASE)
    return ""


def _url(user: str, password: str, host: str, database: str) -> str:
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{host}:5432/{database}?sslmode=require"


def _client(service: str) -> Any:
    import boto3  # type: ignore[import-untyped]  # carries no types

    return boto3.client(service)
