"""The database of a function: a given URL, one stored in AWS, or one put together from credentials.

    database_url      postgresql://…; or ssm:<parameter name> or secretsmanager:<secret ARN>, where the URL is stored
    dsql_host         host of an Aurora DSQL cluster; the function signs in with its own role
    database_host     with database_secret, a secret of Secrets Manager with username and password
    database_user     with database_url or database_host: sign in as this user with an IAM token, without a password

The database's certificate, including its name, is verified, unless the URL or `database_tls` says otherwise or the
database is on this machine. Credentials are never logged. A token is made for each connection and expires after 15
minutes, so that a leaked one is of little use.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.functions.settings import FunctionSettings
    from whistlestop.net.aws import Aws

DATABASE = "whistlestop"
TOKEN_S = 15 * 60
"""Lifetime of a token. It is checked only when a connection is made."""
PORT = 5432
BY_PARAMETER, BY_SECRET = "ssm:", "secretsmanager:"
VERIFIED = "verify-full"
_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/tls/cert.pem",
    "/etc/ssl/cert.pem", "/etc/ssl/ca-bundle.pem",
)  # fmt: skip
"""Where Debian, Amazon Linux, Alpine, macOS and SUSE keep the trusted certificate authorities."""
_LOCAL = frozenset({"", "localhost", "127.0.0.1", "::1"})


def database_url(settings: FunctionSettings, aws: Aws | None = None) -> str:
    """Return the URL of the configured Postgres; empty when none is configured.

    Raises ValueError for a malformed URL, and AwsError when AWS does not return a stored one.
    """
    url = _named(settings, aws)
    return verified(url, settings.database_tls, lambda: authorities(settings.database_ca, aws)) if url else ""


def _named(settings: FunctionSettings, aws: Aws | None) -> str:
    if settings.database_url:
        url = kept_url(settings.database_url, aws)
        return _with_user(url, settings.database_user) if settings.database_user else url
    if settings.dsql_host:
        return _url("admin", settings.dsql_host, "postgres")
    if settings.database_host and settings.database_user:
        return _url(quote(settings.database_user, safe=""), settings.database_host, DATABASE)
    if settings.database_host:
        secret = json.loads(_secret(settings.database_secret, aws))
        login = f"{quote(secret['username'], safe='')}:{quote(secret['password'], safe='')}"
        return _url(login, settings.database_host, DATABASE)
    return ""


def database_password(settings: FunctionSettings, url: str, aws: Aws | None = None) -> Callable[[], str] | None:
    """Return a function that makes the password for each new connection; None when the URL has it or needs none.

    Raise AwsError.
    """
    if not settings.dsql_host and not settings.database_user:
        return None
    if aws is None:
        from whistlestop.net.aws import from_environment

        aws = from_environment()
    made_by = aws
    if host := settings.dsql_host:
        return lambda: made_by.dsql_token(host, TOKEN_S)
    parts = urlsplit(url)
    host, port, user = parts.hostname or "", parts.port or PORT, settings.database_user
    return lambda: made_by.rds_token(host, port, user, TOKEN_S)


def signed_in(settings: FunctionSettings, aws: Aws | None = None) -> str:
    """Return `database_url` with a password that is valid for at least 15 minutes, for a single task run by hand.

    Raise ValueError.
    """
    url = database_url(settings, aws)
    password = database_password(settings, url, aws)
    if password is None:
        return url
    parts = urlsplit(url)
    login, place = parts.username or "", parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{login}:{quote(password(), safe='')}@{place}").geturl()


def kept_url(named: str, aws: Aws | None = None) -> str:
    """Return the URL that `named` is, or refers to (ssm:…, secretsmanager:…). Raises ValueError, AwsError."""
    url, where = named, "the URL of the database"
    if named.startswith(BY_PARAMETER):
        where = named
        url = parameter(named.removeprefix(BY_PARAMETER), aws)
    elif named.startswith(BY_SECRET):
        where, url = named, _secret(named.removeprefix(BY_SECRET), aws)
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError(f"{where} has to be a URL that begins with postgresql://")
    return url


def parameter(name: str, aws: Aws | None) -> str:
    """Return the value of a parameter of Systems Manager, decrypted. Raises AwsError.

    Without `aws`, calls are made with the credentials of the function.
    """
    from whistlestop.net.aws import client

    found = client("ssm", aws).get_parameter(Name=name, WithDecryption=True)
    return str(found["Parameter"]["Value"])


def _secret(name: str, aws: Aws | None) -> str:
    from whistlestop.net.aws import client

    return str(client("secretsmanager", aws).get_secret_value(SecretId=name)["SecretString"])


def _with_user(url: str, user: str) -> str:
    """Return the URL with this user and without a password."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{quote(user, safe='')}@{parts.netloc.rpartition('@')[2]}").geturl()


def _url(login: str, host: str, database: str) -> str:
    return f"postgresql://{login}@{host}:{PORT}/{database}"


# ---- certificate verification ----------------------------------------------------------------------------------------


def verified(url: str, tls: str, root: Callable[[], str]) -> str:
    """Return the URL with `sslmode=<tls>` and a CA file, unless the URL or the environment sets them.

    `root` returns the path of the CA file; it is called only when the file is needed.
    """
    separator = "&" if "?" in url else "?"
    parameters = parse_qs(urlsplit(url).query)
    if parameters.keys() & {"sslmode", "ssl"} or "PGSSLMODE" in os.environ or _is_local(url, parameters):
        return url
    added = {"sslmode": tls}
    if tls.startswith("verify-") and "sslrootcert" not in parameters and "PGSSLROOTCERT" not in os.environ:
        added["sslrootcert"] = root()
    return f"{url}{separator}{urlencode(added)}"


def is_verified(url: str) -> bool:
    """Return whether the database's certificate is verified, or the connection does not leave this machine."""
    parameters = parse_qs(urlsplit(url).query)
    mode = (parameters.get("sslmode") or [os.environ.get("PGSSLMODE", "")])[0]
    return mode.startswith("verify-") or _is_local(url, parameters)


def _is_local(url: str, parameters: dict[str, list[str]]) -> bool:
    """Return whether the connection does not leave this machine: a Unix socket, or a loopback address."""
    places = [urlsplit(url).netloc.rpartition("@")[2], *parameters.get("host", []), *parameters.get("hostaddr", [])]
    hosts = [_without_port(unquote(each)) for place in places for each in place.split(",")]
    return all(host in _LOCAL or host.startswith("/") for host in hosts)


def _without_port(place: str) -> str:
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place if place.count(":") > 1 or place.startswith("/") else place.partition(":")[0]


def authorities(ca: str, aws: Aws | None = None) -> str:
    """Return the path of a file with the authorities that may sign the database's certificate.

    `ca` is such a file, PEM text, or where AWS stores the text (ssm:…, secretsmanager:…); empty means the system's
    authorities. Raises ValueError for text that contains no certificate.
    """
    if not ca:
        return _system_roots()
    text, where = ca, "the authority of the database"
    if ca.startswith(BY_PARAMETER):
        text, where = parameter(ca.removeprefix(BY_PARAMETER), aws), ca
    elif ca.startswith(BY_SECRET):
        text, where = _secret(ca.removeprefix(BY_SECRET), aws), ca
    elif "-----BEGIN" not in ca:
        return ca
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise ValueError(f"{where} has to be certificates in PEM")
    import tempfile  # imported here, because it and its imports slow a cold start

    # mkstemp: mode 0600 and an unpredictable name, so that nobody else can put their own authority there.
    handle, path = tempfile.mkstemp(prefix="whistlestop-database-ca-", suffix=".pem")
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)
    return path


def _system_roots() -> str:
    named = os.environ.get("SSL_CERT_FILE", "")
    for path in filter(None, (named, *_SYSTEM_ROOTS)):
        if Path(path).is_file():
            return path
    return "system"  # libpq's name for the authorities that its OpenSSL was built with
