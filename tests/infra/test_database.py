"""Where a function's database is, and the credentials for it."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, unquote, urlsplit

import boto3  # type: ignore[import-untyped]  # carries no types
from moto import mock_aws

from whistlestop.common.doors.database import TOKEN_S, database_url


def test_a_url_as_it_stands() -> None:
    url = "postgresql://me:secret@there/db"
    assert database_url({"WHISTLESTOP_DATABASE_URL": url, "WHISTLESTOP_DSQL_HOST": "other"}) == url


def test_none() -> None:
    assert database_url({}) == ""


def _parts(url: str) -> tuple[str | None, str, str | None, str, str]:
    parts = urlsplit(url)
    assert parts.password is not None
    return parts.username, unquote(parts.password), parts.hostname, parts.path, parse_qs(parts.query)["sslmode"][0]


def test_a_secret() -> None:
    """Passwords have characters that URLs do not take."""
    with mock_aws():
        client = boto3.client(
            "secretsmanager", region_name="eu-central-1", aws_access_key_id="key", aws_secret_access_key="secret"
        )
        arn = client.create_secret(
            Name="database", SecretString=json.dumps({"username": "whistlestop", "password": "p:/?#@%w"})
        )["ARN"]
        environ = {"WHISTLESTOP_DATABASE_HOST": "db.example", "WHISTLESTOP_DATABASE_SECRET": arn}
        url = database_url(environ, client)
    assert _parts(url) == ("whistlestop", "p:/?#@%w", "db.example", "/whistlestop", "require")


def test_a_token_of_dsql() -> None:
    """By the real client, which signs and asks nobody."""
    client = boto3.client("dsql", region_name="eu-central-1", aws_access_key_id="key", aws_secret_access_key="secret")
    host = "cluster.dsql.eu-central-1.on.aws"
    user, token, hostname, path, sslmode = _parts(database_url({"WHISTLESTOP_DSQL_HOST": host}, client))
    assert (user, hostname, path, sslmode) == ("admin", host, "/postgres", "require")
    assert f"X-Amz-Expires={TOKEN_S}" in token
    assert "Action=DbConnectAdmin" in token
