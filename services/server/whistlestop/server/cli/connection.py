"""How commands connect to a server: options, environment variables and profiles as in Temporal's CLI.

The environment (`TEMPORAL_ADDRESS`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS_…`) and the profile file are read by the SDK
(`temporalio.envconfig`), so they have the same meaning here as there. An option on the command line takes precedence.

An API key is sent without TLS only to a loopback address, or if TLS is disabled explicitly (`--no-tls`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.server.cli.errors import CommandError
from whistlestop.server.config import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from temporalio.envconfig import ClientConfigProfile

    from whistlestop.server.cli.api_access import Api

DEFAULT_ADDRESS = "127.0.0.1:7233"
_TLS = "TLS"


_Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="The server's gRPC address. [env var: TEMPORAL_ADDRESS]",
        show_default=DEFAULT_ADDRESS,
    ),
]
_Namespace = Annotated[
    str,
    typer.Option(
        "--namespace", "-n", help="The namespace. [env var: TEMPORAL_NAMESPACE]", show_default=DEFAULT_NAMESPACE
    ),
]
_ApiKey = Annotated[
    str, typer.Option("--api-key", help="The API key to send. [env var: TEMPORAL_API_KEY]", show_default=False)
]
_Tls = Annotated[
    bool | None,
    typer.Option(
        "--tls/--no-tls",
        rich_help_panel=_TLS,
        help="Use TLS or not. [env var: TEMPORAL_TLS]",
        show_default="TLS with an API key or another TLS option",
    ),
]
_TlsCaPath = Annotated[
    str,
    typer.Option(
        "--tls-ca-path",
        metavar="FILE",
        help="Certificates of the CAs to trust.",
        show_default="the system's",
    ),
]
_TlsCaData = Annotated[str, typer.Option("--tls-ca-data", metavar="PEM", help="The same, as text.", show_default=False)]
_TlsCertPath = Annotated[
    str, typer.Option("--tls-cert-path", metavar="FILE", help="The client's certificate.", show_default=False)
]
_TlsCertData = Annotated[
    str, typer.Option("--tls-cert-data", metavar="PEM", help="The same, as text.", show_default=False)
]
_TlsKeyPath = Annotated[str, typer.Option("--tls-key-path", metavar="FILE", help="Private key.", show_default=False)]
_TlsKeyData = Annotated[
    str, typer.Option("--tls-key-data", metavar="PEM", help="The same, as text.", show_default=False)
]
_TlsServerName = Annotated[
    str,
    typer.Option(
        "--tls-server-name",
        metavar="NAME",
        help="Expect this name in the server's certificate.",
        show_default="the host's",
    ),
]
_Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        help="Profile of Temporal's client configuration. [env var: TEMPORAL_PROFILE]",
        show_default="default",
    ),
]
_ConfigFile = Annotated[
    str,
    typer.Option(
        "--config-file",
        metavar="FILE",
        show_default="Temporal's own",
        help="The configuration file with the profile. [env var: TEMPORAL_CONFIG_FILE]",
    ),
]
_DbFilename = Annotated[
    str,
    typer.Option("--db-filename", "-f", help="Read this SQLite file instead of asking a server.", show_default=False),
]
_DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar="WHISTLESTOP_DATABASE_URL",
        help="Read this Postgres database instead.",
        show_default=False,
    ),
]


def _options(
    *,
    address: _Address = "",
    namespace: _Namespace = "",
    api_key: _ApiKey = "",
    tls: _Tls = None,
    tls_ca_path: _TlsCaPath = "",
    tls_ca_data: _TlsCaData = "",
    tls_cert_path: _TlsCertPath = "",
    tls_cert_data: _TlsCertData = "",
    tls_key_path: _TlsKeyPath = "",
    tls_key_data: _TlsKeyData = "",
    tls_server_name: _TlsServerName = "",
    profile: _Profile = "",
    config_file: _ConfigFile = "",
    db_filename: _DbFilename = "",
    database_url: _DatabaseUrl = "",
) -> None:
    """Hold the options that every command on a server takes."""


_PARAMETERS = inspect.signature(_options, eval_str=True).parameters


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM texts; empty for the system's CAs, or for no client certificate."""

    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the API: a server at `address`, or a database if one is named."""

    address: str
    namespace: str
    api_key: str
    tls: Tls | None
    metadata: tuple[tuple[str, str], ...]
    db_filename: str
    database_url: str

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Api]:
        """Yield the API. Raises CommandError if a named database cannot be opened."""
        from whistlestop.server.cli import api_access

        if self.db_filename or self.database_url:
            async with api_access.over_store(self.db_filename, self.database_url) as api:
                yield api
            return
        async with self._channel() as channel:
            key = self.api_key
            metadata = (*self.metadata, *((("authorization", f"Bearer {key}"),) if key else ()))
            yield api_access.OverGrpc(channel, metadata, self.address, with_tls=self.tls is not None)

    def _channel(self) -> Any:
        import grpc.aio

        if self.tls is None:
            return grpc.aio.insecure_channel(self.address)
        name = self.tls.server_name
        options = [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)] if name else []
        credentials = grpc.ssl_channel_credentials(
            self.tls.ca or None, self.tls.key or None, self.tls.certificate or None
        )
        return grpc.aio.secure_channel(self.address, credentials, options)


def on_a_server(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command(connection, …)` as a command that also has the connection options."""
    own = [*inspect.signature(command, eval_str=True).parameters.values()][1:]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        connection = connection_of({name: given.pop(name) for name in _PARAMETERS})
        command(connection, **given)

    run.__signature__ = inspect.Signature([*own, *_PARAMETERS.values()])  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {}
    return run


def connection_of(options: dict[str, Any]) -> Connection:
    """Combine options, environment and profile. Raises CommandError for unreadable files and contradictions."""
    from_database = bool(options["db_filename"] or options["database_url"])
    profile = _profile(options)
    address = options["address"] or profile.address or DEFAULT_ADDRESS
    api_key = options["api_key"] or profile.api_key or ""
    return Connection(
        address=address,
        namespace=options["namespace"] or profile.namespace or DEFAULT_NAMESPACE,
        api_key=api_key,
        tls=None
        if from_database
        else _tls(options, profile, key_leaves_machine=bool(api_key) and not _is_loopback(address)),
        metadata=tuple(profile.grpc_meta.items()),
        db_filename=options["db_filename"],
        database_url=options["database_url"],
    )


def _profile(options: dict[str, Any]) -> ClientConfigProfile:
    from temporalio.envconfig import ClientConfigProfile

    source = Path(options["config_file"]) if options["config_file"] else None
    try:
        return ClientConfigProfile.load(options["profile"] or None, config_source=source)
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise CommandError(f"Temporal's client configuration cannot be used: {error}", 2) from None


def _tls(options: dict[str, Any], profile: ClientConfigProfile, *, key_leaves_machine: bool) -> Tls | None:
    given = profile.tls
    asked = [name for name, value in options.items() if name.startswith("tls_") and value]
    if options["tls"] is False and asked:
        raise CommandError(f"--no-tls and --{asked[0].replace('_', '-')} exclude each other", 2)
    profile_wants = given is not None and given.disabled is not True
    profile_refuses = given is not None and given.disabled is True
    wanted: bool | None = options["tls"]
    if wanted is None:
        wanted = bool(asked) or profile_wants or (key_leaves_machine and not profile_refuses)
    if not wanted:
        return None
    made = Tls(
        ca=_pem(options, "tls_ca", given.server_root_ca_cert if given else None),
        certificate=_pem(options, "tls_cert", given.client_cert if given else None),
        key=_pem(options, "tls_key", given.client_private_key if given else None),
        server_name=options["tls_server_name"] or (given.server_name if given else None) or "",
    )
    if bool(made.certificate) != bool(made.key):
        raise CommandError("a client certificate and its key go together: --tls-cert-path and --tls-key-path", 2)
    return made


def _pem(options: dict[str, Any], name: str, source: Path | str | bytes | None) -> bytes:
    path, text = options[f"{name}_path"], options[f"{name}_data"]
    if path and text:
        flag = name.replace("_", "-")
        raise CommandError(f"--{flag}-path and --{flag}-data exclude each other", 2)
    if text:
        return str(text).encode()
    if not path:
        if isinstance(source, str):
            return source.encode()
        if not isinstance(source, Path):
            return source or b""
        path = str(source)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}", 2) from None


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]").removeprefix("dns:///")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
