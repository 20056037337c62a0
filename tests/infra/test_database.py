"""Where a function's database is, and the credentials for it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3  # type: ignore[import-untyped]  # carries no types
import pytest

from tests.server.test_start import Authority
from whistlestop.functions.database import (
    TOKEN_S,
    authorities,
    database_password,
    database_url,
    is_verified,
    verified,
)
from whistlestop.functions.settings import FunctionSettings
from whistlestop.net.aws import Aws, Credentials

REGION = "eu-central-1"
URL = "postgresql://me:secret@there/db"


@dataclass(slots=True)
class _Kept(Aws):
    """AWS, as far as it keeps secrets."""

    ca: str = ""

    def json(self, service: str, target: str, version: str, payload: Any) -> dict[str, Any]:
        kept: dict[str, dict[str, Any]] = {
            "AmazonSSM.GetParameter": {
                "/whistlestop/url": {"Parameter": {"Value": URL}},
                "/empty": {"Parameter": {"Value": "-"}},
                "/ca": {"Parameter": {"Value": self.ca}},
            },
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
    assert database_url(FunctionSettings(database_url=URL, dsql_host="other"), AWS).startswith(
        f"{URL}?sslmode=verify-full&"
    )


@pytest.mark.parametrize("where", ["ssm:/whistlestop/url", "secretsmanager:arn:of:url"])
def test_a_url_that_aws_keeps(where: str) -> None:
    assert database_url(FunctionSettings(database_url=where), AWS).startswith(f"{URL}?")


def test_no_database_is_configured() -> None:
    assert database_url(FunctionSettings()) == ""


@pytest.mark.parametrize("named", ["ssm:/empty", "mysql://there"])
def test_an_invalid_url_is_reported_without_its_value(named: str) -> None:
    with pytest.raises(ValueError, match="has to be a URL that begins with postgresql://") as raised:
        database_url(FunctionSettings(database_url=named), AWS)
    assert "mysql" not in str(raised.value)


def _parts(url: str) -> tuple[str | None, str, str | None, str, str]:
    parts = urlsplit(url)
    return (
        parts.username,
        unquote(parts.password or ""),
        parts.hostname,
        parts.path,
        parse_qs(parts.query)["sslmode"][0],
    )


def test_a_secret() -> None:
    """Passwords have characters that URLs do not take."""
    url = database_url(FunctionSettings(database_host="db.example", database_secret="arn:of:login"), AWS)
    assert _parts(url) == ("whistlestop", "p:/?#@%w", "db.example", "/whistlestop", "verify-full")


def token_of(settings: FunctionSettings, url: str) -> str:
    password = database_password(settings, url, AWS)
    assert password is not None
    return password()


def test_a_token_of_dsql() -> None:
    """Signed here: nobody is asked."""
    host = "cluster.dsql.eu-central-1.on.aws"
    settings = FunctionSettings(dsql_host=host)
    url = database_url(settings, AWS)
    assert _parts(url) == ("admin", "", host, "/postgres", "verify-full")
    token = token_of(settings, url)
    assert f"X-Amz-Expires={TOKEN_S}" in token
    assert "Action=DbConnectAdmin" in token


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        (FunctionSettings(database_user="app", database_host="aurora.example"), "aurora.example:5432"),
        (FunctionSettings(database_user="app", database_url="postgresql://there:6000/db"), "there:6000"),
        (FunctionSettings(database_user="app", database_url="ssm:/whistlestop/url"), "there:5432"),
    ],
)
def test_a_token_of_rds_is_what_boto3_makes(
    settings: FunctionSettings, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the user that is named, whoever the URL names; the password of a URL goes nowhere."""
    now = dt.datetime(2026, 11, 30, 4, 0, tzinfo=dt.UTC)
    monkeypatch.setattr("whistlestop.net.aws._now", lambda: now)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_: now.replace(tzinfo=None), raising=False)
    url = database_url(settings, AWS)
    assert _parts(url)[:2] == ("app", "")
    host, _, port = place.partition(":")
    client = boto3.client("rds", region_name=REGION, aws_access_key_id="key", aws_secret_access_key="secret")
    theirs = client.generate_db_auth_token(DBHostname=host, Port=int(port), DBUsername="app")
    ours = token_of(settings, url)
    assert ours.split("?")[0] == f"{place}/"
    assert sorted(ours.split("?")[1].split("&")) == sorted(theirs.split("?")[1].split("&"))


def test_a_url_with_a_password_needs_no_token() -> None:
    assert database_password(FunctionSettings(database_url=URL), URL, AWS) is None


@pytest.mark.parametrize(
    ("url", "added"),
    [
        ("postgresql://db.example/x", "?sslmode=verify-full&sslrootcert=%2Froots.pem"),
        ("postgresql://db.example/x?connect_timeout=3", "&sslmode=verify-full&sslrootcert=%2Froots.pem"),
        ("postgresql://db.example/x?sslrootcert=/mine.pem", "&sslmode=verify-full"),
        ("postgresql://a.example,localhost/x", "?sslmode=verify-full&sslrootcert=%2Froots.pem"),
        ("postgresql://localhost.example/x", "?sslmode=verify-full&sslrootcert=%2Froots.pem"),
        ("postgresql:///x?host=db.example", "&sslmode=verify-full&sslrootcert=%2Froots.pem"),
        # What the URL says holds, and nothing leaves the machine of a loopback address or a socket.
        ("postgresql://db.example/x?sslmode=require", ""),
        ("postgresql://db.example/x?sslmode=disable", ""),
        ("postgresql://u:p%40w@127.0.0.1:5432/x", ""),
        ("postgresql://localhost/x", ""),
        ("postgresql://[::1]:5432/x", ""),
        ("postgresql:///x", ""),
        ("postgresql:///x?host=/var/run/postgresql", ""),
        ("postgresql://%2Fvar%2Frun/x", ""),
    ],
)
def test_certificates_are_verified_unless_the_url_says_otherwise(
    url: str, added: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    assert verified(url, "verify-full", lambda: "/roots.pem") == url + added


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://db.example/x", False),
        ("postgresql://db.example/x?sslmode=require", False),
        ("postgresql://db.example/x?sslmode=verify-full", True),
        ("postgresql://db.example/x?sslmode=verify-ca", True),
        ("postgresql://127.0.0.1/x", True),
        ("postgresql:///x?host=/run", True),
    ],
)
def test_a_server_detects_whether_certificates_are_verified(
    url: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert is_verified(url) is expected


def test_weaker_verification_can_be_configured() -> None:
    url = database_url(FunctionSettings(database_url=URL, database_tls="require"), AWS)
    assert url == f"{URL}?sslmode=require"


def test_authorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's, a file, a text, or what AWS keeps."""
    pem = Authority(tmp_path).path.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert authorities("/mine.pem") == "/mine.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert authorities("") == str(tmp_path / "ca.pem")
    for made in (authorities(pem), authorities("ssm:/ca", _Kept(REGION, AWS.credentials, {}, ca=pem))):
        assert Path(made).read_text() == pem
        assert Path(made).stat().st_mode & 0o777 == 0o600
    with pytest.raises(ValueError, match="ssm:/empty has to be certificates in PEM"):
        authorities("ssm:/empty", AWS)
