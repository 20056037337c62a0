"""Where a function's database is, and the credentials for it."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from whistlestop.common.aws import Aws, Credentials
from whistlestop.common.doors.database import TOKEN_S, database_url
from whistlestop.common.doors.settings import FunctionSettings

REGION = "eu-central-1"
URL = "postgresql://me:secret@there/db"


class _Kept(Aws):
    """AWS, as far as it keeps secrets."""

    def json(self, service: str, target: str, version: str, payload: Any) -> dict[str, Any]:
        kept: dict[str, dict[str, Any]] = {
            "AmazonSSM.GetParameter": {"/whistlestop/url": {"Parameter": {"Value": URL}}, "/empty": {"Parameter": {"Value": "-"}}},
            "secretsmanager.GetSecretValue": {
                "arn:of:url": {"SecretString": URL},
                "arn:of:login": {"SecretString": '{"username": "whistlestop", "password": "p:/?#@%w"}'},
            },
        }
        assert payload.get("WithDecryption", True) is True
        found: dict[str, Any] = kept[target][payload.get("Name") or payload["SecretId"]]
        return found


AWS = _Kept(REGION, lambda: Credentials("key", "secret"), {})


def test_a_url_as_it_stands() -> None:
    assert database_url(FunctionSettings(database_url=URL, dsql_host="other")) == URL


@pytest.mark.parametrize("where", ["ssm:/whistlestop/url", "secretsmanager:arn:of:url"])
def test_a_url_that_aws_keeps(where: str) -> None:
    assert database_url(FunctionSettings(database_url=where), AWS) == URL


def test_none() -> None:
    assert database_url(FunctionSettings()) == ""


@pytest.mark.parametrize("named", ["ssm:/empty", "mysql://there"])
def test_what_is_no_url_is_named_and_not_shown(named: str) -> None:
    with pytest.raises(ValueError, match="has to be a URL that begins with postgresql://") as raised:
        database_url(FunctionSettings(database_url=named), AWS)
    assert "mysql" not in str(raised.value)


def _parts(url: str) -> tuple[str | None, str, str | None, str, str]:
    parts = urlsplit(url)
    assert parts.password is not None
    return parts.username, unquote(parts.password), parts.hostname, parts.path, parse_qs(parts.query)["sslmode"][0]


def test_a_secret() -> None:
    """Passwords have characters that URLs do not take."""
    url = database_url(FunctionSettings(database_host="db.example", database_secret="arn:of:login"), AWS)
    assert _parts(url) == ("whistlestop", "p:/?#@%w", "db.example", "/whistlestop", "require")


def test_a_token_of_dsql() -> None:
    """Signed here: nobody is asked."""
    host = "cluster.dsql.eu-central-1.on.aws"
    user, token, hostname, path, sslmode = _parts(database_url(FunctionSettings(dsql_host=host), AWS))
    assert (user, hostname, path, sslmode) == ("admin", host, "/postgres", "require")
    assert f"X-Amz-Expires={TOKEN_S}" in token
    assert "Action=DbConnectAdmin" in token
