"""The flags of `whistlestop server start-dev` and `whistlestop server start`; `starting` implements them."""

from __future__ import annotations

from typing import Annotated

import typer

from whistlestop.server.cli.auth_flags import AllowAnonymous, ApiKeys  # noqa: TC001 - typer reads them at run time
from whistlestop.server.cli.start import starting
from whistlestop.server.cli.start.config_file import (  # noqa: TC001 - as above
    ConfigFile,
    DynamicConfigFile,
    DynamicConfigValues,
)
from whistlestop.server.cli.start.starting import LOG_FORMATS, LOG_LEVELS
from whistlestop.server.config import DEFAULT_PORT

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_Namespaces = Annotated[
    list[str] | None,
    typer.Option("--namespace", "-n", help='Namespaces to create; "default" is always there. Repeatable.'),
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
_Port = Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="gRPC port; 0: a free one.")]
_TlsClientCa = Annotated[str, typer.Option("--tls-client-ca", help="PEM file of CAs for required client certificates.")]
_AllowOutbound = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-outbound", metavar="ADDRESS|NETWORK|HOST[:PORT]", envvar="WHISTLESTOP_ALLOW_OUTBOUND",
        help="Non-public destination of callbacks, webhooks and Nexus endpoints to allow. Repeatable.",
    ),
]  # fmt: skip
_BroadcastAddress = Annotated[
    str,
    typer.Option("--broadcast-address", metavar="HOST:PORT", help="Address of this process to publish to others."),
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
        help="The database's own address for LISTEN, if --database-url is that of a connection pooler.",
        envvar="WHISTLESTOP_DATABASE_LISTEN_URL",
    ),
]
_DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database-url",
        help="postgresql://… with the state, which any number of processes may share.",
        envvar="WHISTLESTOP_DATABASE_URL",
    ),
]
_Services = Annotated[
    str,
    typer.Option(
        "--services",
        help="Roles of this process: frontend (public ports), matching (polls), history (timers, transfer tasks).",
    ),
]
_HistoryUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--history-url", metavar="URL", envvar="WHISTLESTOP_HISTORY_URL",
        help="Internal endpoint of a process that serves history, if this one does not. Repeatable.",
    ),
]  # fmt: skip
_MatchingUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--matching-url", metavar="URL", envvar="WHISTLESTOP_MATCHING_URL", help="Like --history-url, for matching.",
    ),
]  # fmt: skip
_InternalPort = Annotated[
    int | None,
    typer.Option(
        "--internal-port", min=0, max=65535, envvar="WHISTLESTOP_INTERNAL_PORT", show_default="none",
        help="Internal port, where other processes call history and matching.",
    ),
]  # fmt: skip
_InternalIp = Annotated[
    str, typer.Option("--internal-ip", help="Address of the internal port.", show_default="that of --ip")
]
_InternalSecret = Annotated[
    str,
    typer.Option(
        "--internal-secret", envvar="WHISTLESTOP_INTERNAL_SECRET", show_envvar=True,
        help="Shared secret of the processes. Better set in the environment: a flag is visible in the process list.",
    ),
]  # fmt: skip
_InternalSecretFile = Annotated[
    str,
    typer.Option("--internal-secret-file", help="File with the secret instead; during a rotation two, one a line."),
]
_MetricsIp = Annotated[
    str,
    typer.Option(
        "--metrics-ip", envvar="WHISTLESTOP_METRICS_IP", show_default="that of --ip on loopback, else 127.0.0.1",
        help="Address of /metrics, which needs no authentication.",
    ),
]  # fmt: skip


@app.command("start-dev")
def start_dev(
    *,
    port: _Port = DEFAULT_PORT,
    ip: Annotated[str, typer.Option("--ip", help="Address to bind.")] = "localhost",
    http_port: Annotated[
        int, typer.Option("--http-port", min=0, max=65535, help="HTTP port; 0: a free one.", show_default="a free one")
    ] = 0,
    metrics_port: _MetricsPort = 0,
    metrics_ip: _MetricsIp = "",
    http_cors_origin: _CorsOrigins = None,
    ui_port: Annotated[int, typer.Option("--ui-port", help="Ignored: there is no web UI.")] = 0,
    ui_ip: Annotated[str, typer.Option("--ui-ip", help="As --ui-port.")] = "",
    ui_asset_path: Annotated[str, typer.Option("--ui-asset-path", help="As --ui-port.")] = "",
    ui_codec_endpoint: Annotated[str, typer.Option("--ui-codec-endpoint", help="As --ui-port.")] = "",
    ui_public_path: Annotated[str, typer.Option("--ui-public-path", help="As --ui-port.")] = "",
    ui_disable_news_fetch: Annotated[bool, typer.Option("--ui-disable-news-fetch", help="As --ui-port.")] = False,
    headless: Annotated[bool, typer.Option("--headless", help="Do not mention the web UI.")] = False,
    db_filename: Annotated[
        str,
        typer.Option("--db-filename", "-f", help="SQLite file for the state. Without it, state is in memory."),
    ] = "",
    namespace: _Namespaces = None,
    search_attribute: _Attributes = None,
    dynamic_config_value: DynamicConfigValues = None,
    dynamic_config_file: DynamicConfigFile = "",
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
    """Start a development server: everything in one process, with state in memory unless --db-filename is given."""
    raise typer.Exit(starting.start_dev(**locals()))


@app.command("start")
def start(
    *,
    config_file: ConfigFile = "",
    port: _Port = DEFAULT_PORT,
    ip: Annotated[str, typer.Option("--ip", help="Address to bind.")] = "127.0.0.1",
    http_port: Annotated[
        int | None, typer.Option("--http-port", min=0, max=65535, help="HTTP port; 0: a free one.", show_default="none")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", min=0, max=65535, help="Port of /metrics.", show_default="none")
    ] = None,
    http_cors_origin: _CorsOrigins = None,
    metrics_ip: _MetricsIp = "",
    db_filename: Annotated[str, typer.Option("--db-filename", "-f", help="SQLite file for the state.")] = "",
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
    dynamic_config_value: DynamicConfigValues = None,
    dynamic_config_file: DynamicConfigFile = "",
    log_level: _LogLevel = "info",
    log_format: _LogFormat = "json",
    sqlite_pragma: _Pragmas = None,
    tls_cert: Annotated[str, typer.Option("--tls-cert", help="PEM file of the server's certificate chain.")] = "",
    tls_key: Annotated[str, typer.Option("--tls-key", help="PEM file of its private key.")] = "",
    tls_client_ca: _TlsClientCa = "",
    broadcast_address: _BroadcastAddress = "",
    drain_s: Annotated[float, typer.Option("--drain", min=0, help="Seconds that running calls get at a stop.")] = 5.0,
    api_keys: ApiKeys = "",
    allow_anonymous: AllowAnonymous = False,
    allow_outbound: _AllowOutbound = None,
) -> None:
    """Start a server with persistent state: in a SQLite file, or in a Postgres shared with other processes."""
    flags = locals()
    del flags["config_file"]  # its callback has already applied it
    raise typer.Exit(starting.start(**flags))
