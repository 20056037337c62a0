"""Which database a function uses: a URL as it stands, one that AWS keeps, or one put together from credentials.

    database_url      postgresql://…; or ssm:<name of a parameter> or secretsmanager:<ARN of a secret> that holds one
    dsql_host         of an Aurora DSQL cluster, whose password is a token made from the function's role
    database_host     with database_secret, a secret of Secrets Manager with username and password

Credentials are read once, when an instance starts, and never written to a log.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from whistlestop.common.aws import Aws
    from whistlestop.common.doors.settings import FunctionSettings

DATABASE = "whistlestop"
TOKEN_S = 7 * 24 * 3600
"""The most that DSQL takes. A token is looked at when a connection is made, so it must outlive the instance."""
BY_PARAMETER, BY_SECRET = "ssm:", "secretsmanager:"


def database_url(settings: FunctionSettings, aws: Aws | None = None) -> str:
    """Empty when no Postgres is named. Raises ValueError for one that can't be, AwsError when AWS does not tell it."""
    if settings.database_url:
        return kept_url(settings.database_url, aws)
    if host := settings.dsql_host:
        from whistlestop.common.aws import from_environment

        return _url("admin", (aws or from_environment()).dsql_token(host, TOKEN_S), host, "postgres")
    if settings.database_host:
        secret = json.loads(_secret(settings.database_secret, aws))
        return _url(secret["username"], secret["password"], settings.database_host, DATABASE)
    return ""


def kept_url(named: str, aws: Aws | None = None) -> str:
    """The URL that `named` is, or that AWS keeps under that name."""
    url, where = named, "the URL of the database"
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
