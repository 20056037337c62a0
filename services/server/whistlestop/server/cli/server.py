"""`whistlestop server start-dev` and `whistlestop server start`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from whistlestop.server.cli.auth_flags import AllowAnonymous, ApiKeys, auth_config
from whistlestop.server.cli.config_file import ConfigFile  # noqa: TC001 - typer reads it at run time
from whistlestop.server.cli.errors import CommandError
from whistlestop.server.config import (
    ALL_ROLES,
    DEFAULT_NAMESPACE,
    DEFAULT_PORT,
    MEMORY,
    BadConfig,
    Role,
    ServerConfig,
    StoreConfig,
    TlsConfig,
    development_outbound,
)
from whistlestop.server.dynamic_config import DynamicConfig, InvalidDynamicConfig

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

SEARCH_ATTRIBUTE_TYPES = ("Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList")
"""In the order of Temporal's IndexedValueType, from 1."""

LOG_LEVELS = ("debug", "info", "warn", "error", "never")
LOG_FORMATS = ("text", "json", "pretty")

_Namespaces = Annotated[
    list[str] | None,
    typer.Option("--namespace", "-n", help='Namespaces to create; "default" is always there. Repeatable.'),
]
_Dynamic = Annotated[
    list[str] | None,
    typer.Option("--dynamic-config-value", metavar="KEY=JSON", help="A dynamic configuration value. Repeatable."),
]
_Attributes = Annotated[
    list[str] | None,
    typer.Option("--search-attribute", metavar="NAME=TYPE", help="A search attribute to register. Repeatable."),
]
_Pragmas = Annotated[
    list[str] | None, typer.Option("--sqlite-pragma", metavar="PRAGMA=VALUE", help="A pragma for SQLite. Repeatable.")
]
_LogLevel = Annotated[str, typer.Option("--log-level", help=f"One of {', '.join(LOG_LEVELS)}.")]
_LogFormat = Annotated[str, typer.Option("--log-format", help=f"One of {', '.join(LOG_FORMATS)}.")]
_Port = Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port of the gRPC door; 0: a free one.")]
_TlsClientCa = Annotated[str, typer.Option("--tls-client-ca", help="PEM file; clients must show a certificate of it.")]
_AllowOutbound = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-outbound", metavar="ADDRESS|NETWORK|HOST[:PORT]", envvar="WHISTLESTOP_ALLOW_OUTBOUND",
        help="What callbacks, webhooks and Nexus endpoints may reach although it is not public. Repeatable.",
    ),
]  # fmt: skip
_BroadcastAddress = Annotated[
    str,
    typer.Option("--broadcast-address", metavar="HOST:PORT", help="What others are told this process's address is."),
]
_CorsOrigins = Annotated[
    list[str] | None,
    typer.Option(
        "--http-cors-origin", metavar="ORIGIN",
        help="Site whose pages may call the HTTP API, such as https://ui.example.com. Repeatable.",
    ),
]  # fmt: skip
_MetricsPort = Annotated[
    int,
    typer.Option(
        "--metrics-port", min=0, max=65535, help="Port of /metrics; 0: a free one.", show_default="a free one"
    ),
]


_ListenUrl = Annotated[
    str,
    typer.Option(
        "--database-listen-url",
        help="The database's own address, to hear other processes, where --database-url is that of a pooler.",
        envvar="WHISTLESTOP_DATABASE_LISTEN_URL",
    ),
]
_DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database-url",
        help="postgresql://… to serve from, with any number of processes.",
        envvar="WHISTLESTOP_DATABASE_URL",
    ),
]
_Services = Annotated[
    str,
    typer.Option(
        "--services",
        help="What this process does: frontend (public doors), matching (polls), history (timers, transfers).",
    ),
]
_HistoryUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--history-url", metavar="URL", envvar="WHISTLESTOP_HISTORY_URL",
        help="Internal door of a process that serves history, when this one does not. Repeatable.",
    ),
]  # fmt: skip
_MatchingUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--matching-url", metavar="URL", envvar="WHISTLESTOP_MATCHING_URL", help="As --history-url, of matching.",
    ),
]  # fmt: skip
_InternalPort = Annotated[
    int | None,
    typer.Option(
        "--internal-port", min=0, max=65535, envvar="WHISTLESTOP_INTERNAL_PORT", show_default="none",
        help="Port of the internal door, where other processes find history and matching.",
    ),
]  # fmt: skip
_InternalIp = Annotated[
    str, typer.Option("--internal-ip", help="Address of the internal door.", show_default="that of --ip")
]
_InternalSecret = Annotated[
    str,
    typer.Option(
        "--internal-secret", envvar="WHISTLESTOP_INTERNAL_SECRET", show_envvar=True,
        help="What processes show each other. A flag stands in the list of processes: better in the environment.",
    ),
]  # fmt: skip
_InternalSecretFile = Annotated[
    str,
    typer.Option(
        "--internal-secret-file", help="File that holds the secret instead; while it is rotated two, one a line."
    ),
]
_MetricsIp = Annotated[
    str,
    typer.Option(
        "--metrics-ip", envvar="WHISTLESTOP_METRICS_IP", show_default="that of --ip on loopback, else 127.0.0.1",
        help="Address of /metrics, where nobody is asked who they are.",
    ),
]  # fmt: skip


@app.command("start-dev")
def start_dev(
    *,
    port: _Port = DEFAULT_PORT,
    ip: Annotated[str, typer.Option("--ip", help="Address to bind.")] = "localhost",
    http_port: Annotated[
        int, typer.Option("--http-port", min=0, max=65535, help="Port of the HTTP door.", show_default="a free one")
    ] = 0,
    metrics_port: _MetricsPort = 0,
    metrics_ip: _MetricsIp = "",
    http_cors_origin: _CorsOrigins = None,
    ui_port: Annotated[int, typer.Option("--ui-port", help="Taken for compatibility: no web UI is shipped.")] = 0,
    ui_ip: Annotated[str, typer.Option("--ui-ip", help="As --ui-port.")] = "",
    ui_asset_path: Annotated[str, typer.Option("--ui-asset-path", help="As --ui-port.")] = "",
    ui_codec_endpoint: Annotated[str, typer.Option("--ui-codec-endpoint", help="As --ui-port.")] = "",
    ui_public_path: Annotated[str, typer.Option("--ui-public-path", help="As --ui-port.")] = "",
    ui_disable_news_fetch: Annotated[bool, typer.Option("--ui-disable-news-fetch", help="As --ui-port.")] = False,
    headless: Annotated[bool, typer.Option("--headless", help="No web UI wanted.")] = False,
    db_filename: Annotated[
        str,
        typer.Option("--db-filename", "-f", help="SQLite file that keeps the state. Without it, state is in memory."),
    ] = "",
    namespace: _Namespaces = None,
    search_attribute: _Attributes = None,
    dynamic_config_value: _Dynamic = None,
    log_level: _LogLevel = "warn",
    log_format: _LogFormat = "text",
    log_config: Annotated[
        bool, typer.Option("--log-config", help="Print the server's configuration to stderr.")
    ] = False,
    sqlite_pragma: _Pragmas = None,
    api_keys: ApiKeys = "",
    allow_anonymous: AllowAnonymous = False,
    allow_outbound: _AllowOutbound = None,
) -> None:
    """Start a development server: everything in one process, state in memory unless --db-filename is given."""
    _configure_logs(log_level, log_format)
    config = _config(
        store=StoreConfig(db_filename or MEMORY, pragmas=_pairs("--sqlite-pragma", sqlite_pragma)),
        ip=ip,
        port=port,
        http_port=http_port,
        metrics_port=metrics_port,
        metrics_ip=metrics_ip,
        http_cors_origins=_origins(http_cors_origin),
        namespaces=_namespaces(namespace),
        search_attributes=_search_attributes(search_attribute),
        dynamic=_dynamic(dynamic_config_value),
        auth=auth_config(api_keys),
        allow_anonymous=allow_anonymous,
        allow_outbound=(*development_outbound(ip), *_urls(allow_outbound)),
        drain_s=1.0,
    )
    if log_config:
        _print_config(config)
    hints = []
    if config.store.in_memory:
        hints.append("State is in memory and ends with this process. To keep it: --db-filename FILE")
    if not headless:
        hints.append("No web UI is shipped. Temporal's works: set its TEMPORAL_ADDRESS to the gRPC address above")
    raise typer.Exit(_run(config, "Whistlestop development server", hints))


@app.command("start")
def start(
    *,
    config_file: ConfigFile = "",
    port: _Port = DEFAULT_PORT,
    ip: Annotated[str, typer.Option("--ip", help="Address to bind.")] = "127.0.0.1",
    http_port: Annotated[
        int | None, typer.Option("--http-port", min=0, max=65535, help="Port of the HTTP door.", show_default="none")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", min=0, max=65535, help="Port of /metrics.", show_default="none")
    ] = None,
    http_cors_origin: _CorsOrigins = None,
    metrics_ip: _MetricsIp = "",
    db_filename: Annotated[str, typer.Option("--db-filename", "-f", help="SQLite file that keeps the state.")] = "",
    database_url: _DatabaseUrl = "",
    database_listen_url: _ListenUrl = "",
    services: _Services = "frontend,history,matching",
    history_url: _HistoryUrls = None,
    matching_url: _MatchingUrls = None,
    internal_port: _InternalPort = None,
    internal_ip: _InternalIp = "",
    internal_secret: _InternalSecret = "",
    internal_secret_file: _InternalSecretFile = "",
    namespace: _Namespaces = None,
    search_attribute: _Attributes = None,
    dynamic_config_value: _Dynamic = None,
    log_level: _LogLevel = "info",
    log_format: _LogFormat = "json",
    sqlite_pragma: _Pragmas = None,
    tls_cert: Annotated[str, typer.Option("--tls-cert", help="PEM file of the server's certificate chain.")] = "",
    tls_key: Annotated[str, typer.Option("--tls-key", help="PEM file of its key.")] = "",
    tls_client_ca: _TlsClientCa = "",
    broadcast_address: _BroadcastAddress = "",
    drain_s: Annotated[float, typer.Option("--drain", min=0, help="Seconds that running calls get at the end.")] = 5.0,
    api_keys: ApiKeys = "",
    allow_anonymous: AllowAnonymous = False,
    allow_outbound: _AllowOutbound = None,
) -> None:
    """Start a server that keeps its state: in a SQLite file, or in Postgres with other processes beside it."""
    del config_file  # read before the flags were
    _configure_logs(log_level, log_format)
    if database_url and db_filename:
        raise CommandError("--database-url and --db-filename exclude each other", 2)
    if bool(tls_cert) != bool(tls_key) or (tls_client_ca and not tls_cert):
        raise CommandError("TLS needs --tls-cert and --tls-key together (and --tls-client-ca only with them)", 2)
    config = _config(
        store=_store(database_url, db_filename or "whistlestop.db", sqlite_pragma, database_listen_url),
        ip=ip,
        port=port,
        http_port=http_port,
        metrics_port=metrics_port,
        metrics_ip=metrics_ip,
        http_cors_origins=_origins(http_cors_origin),
        namespaces=_namespaces(namespace),
        search_attributes=_search_attributes(search_attribute),
        dynamic=_dynamic(dynamic_config_value),
        roles=_roles(services),
        tls=TlsConfig(tls_cert, tls_key, tls_client_ca) if tls_cert else None,
        auth=auth_config(api_keys),
        allow_anonymous=allow_anonymous,
        allow_outbound=_urls(allow_outbound),
        broadcast_address=broadcast_address,
        drain_s=drain_s,
        internal_ip=internal_ip,
        internal_port=internal_port,
        internal_secret=_secret(internal_secret, internal_secret_file),
        history_urls=_urls(history_url),
        matching_urls=_urls(matching_url),
    )
    raise typer.Exit(_run(config, "Whistlestop server", []))


def _config(**settings: object) -> ServerConfig:
    try:
        return ServerConfig(**settings)  # type: ignore[arg-type]  # named as the fields are
    except BadConfig as error:
        raise CommandError(str(error), 2) from error


def _store(database_url: str, path: str, pragmas: list[str] | None, listen_url: str) -> StoreConfig:
    import os

    if listen_url and not database_url:
        raise CommandError("--database-listen-url goes with --database-url", 2)
    if listen_url and not listen_url.startswith(("postgresql://", "postgres://")):
        raise CommandError("--database-listen-url must begin with postgresql://", 2)
    if not database_url:
        return StoreConfig(os.path.abspath(path), pragmas=_pairs("--sqlite-pragma", pragmas))  # noqa: PTH100
    if not database_url.startswith(("postgresql://", "postgres://")):
        raise CommandError("--database-url must begin with postgresql://", 2)
    return StoreConfig(database_url=database_url, listen_url=listen_url)


def _origins(given: list[str] | None) -> tuple[str, ...]:
    if not given:
        return ()
    from whistlestop.server.cli.lean import leave_out_grpcio

    leave_out_grpcio()  # before anything imports Temporal's API
    from whistlestop.frontend.doors.browsers import origins_of

    try:
        return tuple(sorted(origins_of(given)))
    except ValueError as error:
        raise CommandError(f"--http-cors-origin {error}", 2) from error


def _secret(given: str, path: str) -> str:
    if not path:
        return given
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - one small file at start
            found = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--internal-secret-file {path}: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise CommandError(f"--internal-secret-file {path} is empty", 2)
    from whistlestop.common.private_files import warn_if_open

    warn_if_open("the internal secret", path)
    return found


def _urls(given: list[str] | None) -> tuple[str, ...]:
    """Flags, or a list in an environment variable."""
    return tuple(dict.fromkeys(url for text in given or () for url in text.replace(",", " ").split()))


def _namespaces(given: list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys((DEFAULT_NAMESPACE, *(given or ()))))


def _dynamic(given: list[str] | None) -> DynamicConfig:
    try:
        dynamic = DynamicConfig.parse(given or ())
        dynamic.check()
    except InvalidDynamicConfig as error:
        raise CommandError(str(error), 2) from error
    dynamic.log_unknown()
    return dynamic


def _pairs(flag: str, given: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise CommandError(f'{flag} "{text}": expected NAME=VALUE', 2)
        pairs[name] = value
    return pairs


def _search_attributes(given: list[str] | None) -> dict[str, int]:
    found = {}
    for name, kind in _pairs("--search-attribute", given).items():
        if kind not in SEARCH_ATTRIBUTE_TYPES:
            expected = ", ".join(SEARCH_ATTRIBUTE_TYPES)
            raise CommandError(f'--search-attribute {name}: "{kind}" is not one of {expected}', 2)
        found[name] = SEARCH_ATTRIBUTE_TYPES.index(kind) + 1
    return found


def _roles(text: str) -> frozenset[Role]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {role.value for role in ALL_ROLES}
    if not names or set(names) - known:
        raise CommandError(f'--services "{text}": expected some of {", ".join(sorted(known))}', 2)
    return frozenset(Role(name) for name in names)


def _configure_logs(level: str, log_format: str) -> None:
    from whistlestop.server.logs import LEVELS, LogFormat, configure

    if level.lower() not in LEVELS:
        raise CommandError(f'--log-level "{level}" is not one of {", ".join(LOG_LEVELS)}', 2)
    if log_format.lower() not in LOG_FORMATS:
        raise CommandError(f'--log-format "{log_format}" is not one of {", ".join(LOG_FORMATS)}', 2)
    configure(level, LogFormat(log_format.lower()))


def _print_config(config: ServerConfig) -> None:
    import json

    shown = {
        "store": config.store.describe(),
        "ip": config.ip,
        "port": config.port,
        "http_port": config.http_port,
        "metrics_port": config.metrics_port,
        "namespaces": list(config.namespaces),
        "search_attributes": {
            name: SEARCH_ATTRIBUTE_TYPES[kind - 1] for name, kind in config.search_attributes.items()
        },
        "dynamic_config": dict(config.dynamic.values),
        "sqlite_pragmas": dict(config.store.pragmas),
        "services": sorted(config.roles),
    }
    print(json.dumps(shown, indent=2), file=sys.stderr)


def _run(config: ServerConfig, title: str, hints: list[str]) -> int:
    from whistlestop.server.cli.lean import leave_out_grpcio

    leave_out_grpcio()
    from whistlestop.server.cli.serve import serve
    from whistlestop.server.process import Server

    return serve(Server(config), title, hints)
