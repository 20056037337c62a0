"""What `whistlestop server start-dev` and `server start` do with their flags.

Neither typer nor anything that a start does not need is imported here (see `quick_start`).
"""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from whistlestop.common.dynamic_config import InvalidDynamicConfig
from whistlestop.server.cli.errors import CommandError
from whistlestop.server.config import (
    ALL_ROLES,
    DEFAULT_NAMESPACE,
    MEMORY,
    BadConfig,
    Role,
    ServerConfig,
    StoreConfig,
    TlsConfig,
    development_outbound,
)
from whistlestop.server.settings.dynamic_config import DynamicConfig

if TYPE_CHECKING:
    from whistlestop.frontend.auth.config import AuthConfig
    from whistlestop.server.settings.dynamic_file import DynamicSource

SEARCH_ATTRIBUTE_TYPES = ("Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList")
"""In the order of Temporal's IndexedValueType, from 1."""

LOG_LEVELS = ("debug", "info", "warn", "error", "never")
LOG_FORMATS = ("text", "json", "pretty")


def start_dev(
    *,
    port: int,
    ip: str,
    http_port: int,
    metrics_port: int,
    metrics_ip: str,
    http_cors_origin: list[str] | None,
    headless: bool,
    db_filename: str,
    namespace: list[str] | None,
    search_attribute: list[str] | None,
    dynamic_config_value: list[str] | None,
    dynamic_config_file: str,
    log_level: str,
    log_format: str,
    log_config: bool,
    sqlite_pragma: list[str] | None,
    api_keys: str,
    allow_anonymous: bool,
    allow_outbound: list[str] | None,
    **ui: object,
) -> int:
    """Run a development server until it is asked to stop; return its exit code.

    The flags `ui_…` are ignored, because there is no web UI. Raise CommandError for flags that contradict each other,
    and files that can't be read.
    """
    del ui
    _configure_logs(log_level, log_format)
    dynamic, source = _dynamic(dynamic_config_value, dynamic_config_file)
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
        dynamic=dynamic,
        dynamic_source=source,
        auth=_auth(api_keys),
        allow_anonymous=allow_anonymous,
        allow_outbound=(*development_outbound(ip), *_urls(allow_outbound)),
        drain_s=1.0,
    )
    if log_config:
        _print_config(config)
    advice = []
    if config.store.in_memory:
        advice.append("State is in memory and ends with this process. To keep it: --db-filename FILE")
    if not headless:
        advice.append("No web UI is shipped. Temporal's works: set its TEMPORAL_ADDRESS to the gRPC address above")
    return _run(config, "Whistlestop development server", advice)


def start(
    *,
    port: int,
    ip: str,
    http_port: int | None,
    metrics_port: int | None,
    http_cors_origin: list[str] | None,
    metrics_ip: str,
    db_filename: str,
    database_url: str,
    database_listen_url: str,
    services: str,
    history_url: list[str] | None,
    matching_url: list[str] | None,
    internal_port: int | None,
    internal_ip: str,
    internal_secret: str,
    internal_secret_file: str,
    namespace: list[str] | None,
    search_attribute: list[str] | None,
    dynamic_config_value: list[str] | None,
    dynamic_config_file: str,
    log_level: str,
    log_format: str,
    sqlite_pragma: list[str] | None,
    tls_cert: str,
    tls_key: str,
    tls_client_ca: str,
    broadcast_address: str,
    drain_s: float,
    api_keys: str,
    allow_anonymous: bool,
    allow_outbound: list[str] | None,
) -> int:
    """Run a server until it is asked to stop; return its exit code.

    Raise CommandError for flags that contradict each other, and files that can't be read.
    """
    _configure_logs(log_level, log_format)
    if database_url and db_filename:
        raise CommandError("--database-url and --db-filename exclude each other", 2)
    if bool(tls_cert) != bool(tls_key) or (tls_client_ca and not tls_cert):
        raise CommandError("TLS needs --tls-cert and --tls-key together (and --tls-client-ca only with them)", 2)
    dynamic, source = _dynamic(dynamic_config_value, dynamic_config_file)
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
        dynamic=dynamic,
        dynamic_source=source,
        roles=_roles(services),
        tls=TlsConfig(tls_cert, tls_key, tls_client_ca) if tls_cert else None,
        auth=_auth(api_keys),
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
    return _run(config, "Whistlestop server", [])


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
    from whistlestop.server.cli.start.message_imports import import_messages_alone

    import_messages_alone()  # before anything imports Temporal's API
    from whistlestop.frontend.endpoints.browsers import origins_of

    try:
        return tuple(sorted(origins_of(given)))
    except ValueError as error:
        raise CommandError(f"--http-cors-origin {error}", 2) from error


def _auth(api_keys: str) -> AuthConfig | None:
    """Return the authentication set by flag and environment; None for none. Raises CommandError."""
    from whistlestop.frontend.auth.config import BadAuth, of_settings
    from whistlestop.functions.settings import BadSettings, CallerSettings, read

    try:
        config = replace(of_settings(read(CallerSettings)), keys=api_keys)
    except (BadAuth, BadSettings) as error:
        raise CommandError(str(error), 2) from error
    return config if config.configured else None


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
    """Return the values of a repeated flag, each of which may be a list as in an environment variable."""
    return tuple(dict.fromkeys(url for text in given or () for url in text.replace(",", " ").split()))


def _namespaces(given: list[str] | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys((DEFAULT_NAMESPACE, *(given or ()))))


def _dynamic(given: list[str] | None, path: str) -> tuple[DynamicConfig, DynamicSource | None]:
    try:
        dynamic, source = DynamicConfig.parse(given or ()), None
        dynamic.check()
        if path:
            from whistlestop.server.settings.dynamic_file import DynamicSource

            source = DynamicSource(path, dynamic)
            dynamic = source.read()
    except InvalidDynamicConfig as error:
        raise CommandError(str(error), 2) from error
    dynamic.warn()
    return dynamic, source


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

    printed = {
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
    print(json.dumps(printed, indent=2), file=sys.stderr)


def _run(config: ServerConfig, title: str, advice: list[str]) -> int:
    from whistlestop.server.cli.start.message_imports import import_messages_alone

    import_messages_alone()
    gc.disable()  # importing makes many permanent objects and nearly no garbage
    from whistlestop.server.cli.start.serve import serve
    from whistlestop.server.process import Server

    return serve(Server(config), title, advice)
