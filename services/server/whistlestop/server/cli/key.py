"""`whistlestop key create`, `list` and `revoke`: the document of API keys, in a file or stored in AWS."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whistlestop.server.cli.errors import CommandError
from whistlestop.server.cli.output import Output, instant, print_json, print_table, wants_json

if TYPE_CHECKING:
    from whistlestop.frontend.auth.keys import ApiKey

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_BY_PARAMETER, _BY_SECRET = "ssm:", "secretsmanager:"
_SPAN = re.compile(r"(\d+)([mhdw])")
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}

Name = Annotated[str, typer.Argument(help="Name of the key in lists and logs.", show_default=False)]
Where = Annotated[
    str,
    typer.Option(
        "--api-keys",
        envvar="WHISTLESTOP_API_KEYS",
        metavar="FILE",
        help="File of API keys for servers, or ssm:NAME, secretsmanager:ARN for functions.",
    ),
]
_DEFAULT = "whistlestop-keys.json"


@app.command()
def create(
    name: Name,
    *,
    grant: Annotated[
        list[str],
        typer.Option(
            "--grant",
            metavar="NAMESPACE:ROLE",
            help="Permission: read, write, worker or admin; temporal-system:… for all namespaces. Repeatable.",
            show_default=False,
        ),
    ],
    expires_in: Annotated[
        str, typer.Option("--expires-in", metavar="SPAN", help="Such as 90d, 12h.", show_default="never")
    ] = "",
    certificate: Annotated[
        str,
        typer.Option(
            "--certificate",
            metavar="NAME",
            show_default=False,
            help="Instead of a key: a name in client certificates (CN, DNS, URI, email); needs --tls-client-ca.",
        ),
    ] = "",
    api_keys: Where = _DEFAULT,
    output: Output = "table",
) -> None:
    """Create a key and print it; it cannot be shown again. Or let a client certificate stand for a key."""
    from whistlestop.frontend.auth.grants import BadGrant, parse_grant
    from whistlestop.frontend.auth.keys import ApiKey, hash_of, new_key

    as_json = wants_json(output)
    now_ns = time.time_ns()
    expires_ns = now_ns + _span_s(expires_in) * 10**9 if expires_in else 0
    try:
        for text in grant:
            parse_grant(text)
    except BadGrant as error:
        raise CommandError(str(error), 2) from error
    keys = _read(api_keys)
    if any(key.name == name for key in keys):
        raise CommandError(f'there is a key "{name}" already: revoke it first, or choose another name')
    if certificate and any(key.certificate == certificate for key in keys):
        raise CommandError(f'there is an entry for the certificate "{certificate}" already')
    secret = "" if certificate else new_key()
    hashed = hash_of(secret) if secret else ""
    _write(api_keys, [*keys, ApiKey(name, hashed, tuple(grant), now_ns, expires_ns, certificate)])
    if as_json:
        known_by = {"key": secret} if secret else {"certificate": certificate}
        print_json({"name": name, **known_by, "grants": grant, "expires": instant(expires_ns)})
    elif secret:
        print(secret)


@app.command("list")
def list_keys(api_keys: Where = _DEFAULT, output: Output = "table") -> None:
    """List the keys, without their secrets."""
    as_json = wants_json(output)
    keys = _read(api_keys, must_exist=True)
    columns = ("name", "grants", "created", "expires", "certificate")
    rows = [
        (key.name, list(key.grants), instant(key.created_ns), instant(key.expires_ns), key.certificate) for key in keys
    ]
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table(columns, [(name, ", ".join(grants), *others) for name, grants, *others in rows])


@app.command()
def revoke(name: Name, api_keys: Where = _DEFAULT) -> None:
    """Revoke a key. Servers notice within seconds, functions within five minutes."""
    keys = _read(api_keys, must_exist=True)
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        raise CommandError(f'there is no key "{name}"')
    _write(api_keys, left)


def _span_s(text: str) -> int:
    found = _SPAN.fullmatch(text)
    if found is None or not int(found[1]):
        raise CommandError(f'--expires-in "{text}": expected a number of m, h, d or w, such as 90d', 2)
    return int(found[1]) * _UNITS_S[found[2]]


def _read(place: str, *, must_exist: bool = False) -> list[ApiKey]:
    from whistlestop.frontend.auth.keys import BadKeys, parse

    try:
        text = _text(place)
        if text is None and must_exist:
            raise CommandError(f"there is no {place}: `whistlestop key create` makes it")
        return parse(text or "")
    except BadKeys as error:
        raise CommandError(f"{place}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{place}: {error}") from error


def _text(place: str) -> str | None:
    """Return the document stored at the place; None if there is none."""
    if place.lstrip().startswith("{"):
        raise CommandError("--api-keys contains the document itself: name the place where it is stored", 2)
    if place.startswith(_BY_PARAMETER):
        return _of_aws("ssm", "get_parameter", "ParameterNotFound", Name=place.removeprefix(_BY_PARAMETER))
    if place.startswith(_BY_SECRET):
        return _of_aws(
            "secretsmanager", "get_secret_value", "ResourceNotFoundException", SecretId=place.removeprefix(_BY_SECRET)
        )
    path = Path(place)
    return path.read_text("utf-8") if path.exists() else None


def _of_aws(service: str, method: str, missing: str, **fields: Any) -> str | None:
    import boto3  # type: ignore[import-untyped]  # carries no types
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]  # as above

    if service == "ssm":
        fields["WithDecryption"] = True
    try:
        found = getattr(boto3.client(service), method)(**fields)
    except ClientError as error:
        if error.response["Error"]["Code"] == missing:
            return None
        raise CommandError(f"{service}: {error}") from error
    except BotoCoreError as error:
        raise CommandError(f"{service}: {error}") from error
    return str(found["Parameter"]["Value"] if service == "ssm" else found.get("SecretString", ""))


def _write(place: str, keys: list[ApiKey]) -> None:
    from whistlestop.frontend.auth.keys import render

    text = render(keys)
    if place.startswith((_BY_PARAMETER, _BY_SECRET)):
        _to_aws(place, text)
        return
    path = Path(place)
    # A server may read at any moment, so replace the file atomically.
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        _take_after(path, scratch)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def _take_after(path: Path, scratch: str) -> None:
    """Give the new file the owner and mode of the previous one; without one, mode 0600.

    The owner matters because the server may run as another user.
    """
    from whistlestop.common import private_files

    try:
        before = path.stat()
    except FileNotFoundError:
        Path(scratch).chmod(private_files.MODE)
        return
    with contextlib.suppress(PermissionError):
        os.chown(scratch, before.st_uid, before.st_gid)
    Path(scratch).chmod(stat.S_IMODE(before.st_mode))
    private_files.warn_if_open("the file of API keys", str(path))


def _to_aws(place: str, text: str) -> None:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        if place.startswith(_BY_PARAMETER):
            boto3.client("ssm").put_parameter(
                Name=place.removeprefix(_BY_PARAMETER), Value=text, Type="SecureString", Overwrite=True
            )
            return
        client, secret = boto3.client("secretsmanager"), place.removeprefix(_BY_SECRET)
        try:
            client.put_secret_value(SecretId=secret, SecretString=text)
        except client.exceptions.ResourceNotFoundException:
            client.create_secret(Name=secret, SecretString=text)
    except (BotoCoreError, ClientError) as error:
        raise CommandError(f"{place}: {error}") from error
