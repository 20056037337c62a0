"""Which database a function uses: a URL as it stands, one that AWS keeps, or one put together from credentials.

    WHISTLESTOP_DATABASE_URL      postgresql://…; or ssm:<name of a parameter> or secretsmanager:<ARN of a secret>
                                  that holds such a URL
    WHISTLESTOP_DSQL_HOST         of an Aurora DSQL cluster, whose password is a token made from the function's role
    WHISTLESTOP_DATABASE_HOST     with WHISTLESTOP_DATABASE_SECRET, a secret of Secrets Manager with username, password

Credentials are read once, when an instance starts, and never written to a log.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.aws import Aws

DATABASE = "whistlestop"
TOKEN_S = 7 * 24 * 3600
"""The most that DSQL takes. A token is looked at when a connection is made, so it must outlive the instance."""
BY_PARAMETER, BY_SECRET = "ssm:", "secretsmanager:"


def database_url(environ: Mapping[str, str] = os.environ, aws: Aws | None = None) -> str:
    """Empty when no Postgres is named. Raises ValueError for one that can't be, AwsError when AWS does not tell it."""
    if named := environ.get("WHISTLESTOP_DATABASE_URL"):
        return kept_url(named, aws)
    if host := environ.get("WHISTLESTOP_DSQL_HOST"):
        from whistlestop.common.aws import from_environment

        return _url("admin", (aws or from_environment()).dsql_token(host, TOKEN_S), host, "postgres")
    if host := environ.get("WHISTLESTOP_DATABASE_HOST"):
        secret = json.loads(_secret(environ["WHISTLESTOP_DATABASE_SECRET"], aws))
        return _url(secret["username"], secret["password"], host, DATABASE)
    return ""


def kept_url(named: str, aws: Aws | None = None) -> str:
    """The URL that WHISTLESTOP_DATABASE_URL names."""
    url, where = named, "WHISTLESTOP_DATABASE_URL"
    if named.startswith(BY_PARAMETER):
        from whistlestop.common.aws import client

        where = named
        found = client("ssm", aws).get_parameter(Name=named.removeprefix(BY_PARAMETER), WithDecryption=True)
        url = found["Parameter"]["Value"]
    elif named.startswith(BY_SECRET):
        where, url = named, _secret(named.removeprefix(BY_SECRET), aws)
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError(f"{where} has to be a URL that begins with postgresql://")
    return url


def _secret(name: str, aws: Aws | None) -> str:
    from whistlestop.common.aws import client

    return str(client("secretsmanager", aws).get_secret_value(SecretId=name)["SecretString"])


def _url(user: str, password: str, host: str, database: str) -> str:
    return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{host}:5432/{database}?sslmode=require"
