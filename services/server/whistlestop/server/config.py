"""Configuration of a server process. The command line fills it in; tests may construct it directly."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.net.listen_address import bind_ip, is_loopback
from whistlestop.server.settings.dynamic_config import DynamicConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from whistlestop.frontend.auth.config import AuthConfig
    from whistlestop.server.settings.dynamic_file import DynamicSource

DEFAULT_PORT = 7233
DEFAULT_NAMESPACE = "default"
MEMORY = ":memory:"
_MAX_SECRETS = 2


class Role(StrEnum):
    """What a process does. A role opens ports or starts background work.

    History and matching run in this process whatever its roles, unless the configuration says where they are served.
    """

    FRONTEND = "frontend"
    """Opens the gRPC and HTTP ports."""
    HISTORY = "history"
    """Fires timers and delivers transfer tasks."""
    MATCHING = "matching"
    """Hands tasks to the polls that reach this process."""


INTERNAL_ROLES = frozenset({Role.HISTORY, Role.MATCHING})
"""The services that the internal endpoint serves."""


ALL_ROLES = frozenset(Role)


class BadConfig(ValueError):
    """The configuration is invalid; the message is one line."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where the state is stored: a SQLite file (or memory), or a Postgres database."""

    sqlite_path: str = MEMORY
    database_url: str = field(default="", repr=False)
    """May contain a password."""
    pragmas: Mapping[str, str] = field(default_factory=dict)
    listen_url: str = field(default="", repr=False)
    """The database's own address for LISTEN, if `database_url` is that of a connection pooler."""

    @property
    def in_memory(self) -> bool:
        """Whether the state is lost when the process ends."""
        return not self.database_url and self.sqlite_path == MEMORY

    @property
    def kind(self) -> str:
        """`postgres` or `sqlite`."""
        return "postgres" if self.database_url else "sqlite"

    def describe(self) -> str:
        """Return a description without passwords."""
        if self.database_url:
            return f"Postgres, {without_password(self.database_url)}"
        return "in memory" if self.in_memory else f"SQLite file {self.sqlite_path}"


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """PEM files for the gRPC and HTTP ports. With `client_ca`, clients must present a certificate signed by it."""

    certificate: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Configuration of a server. For ports, 0 means a free one and None means not to listen."""

    store: StoreConfig = field(default_factory=StoreConfig)
    ip: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    http_port: int | None = 0
    metrics_port: int | None = 0
    metrics_ip: str = ""
    """Address of `/metrics`, which needs no authentication. If empty: `ip` if that is a loopback address, else
    127.0.0.1."""
    namespaces: tuple[str, ...] = (DEFAULT_NAMESPACE,)
    search_attributes: Mapping[str, int] = field(default_factory=dict)
    """Name -> number of Temporal's IndexedValueType; registered in each of `namespaces`."""
    dynamic: DynamicConfig = field(default_factory=lambda: DynamicConfig({}))
    dynamic_source: DynamicSource | None = None
    """The file that `dynamic` was read from, and the flags that override it."""
    roles: frozenset[Role] = ALL_ROLES
    tls: TlsConfig | None = None
    auth: AuthConfig | None = None
    """How callers are authenticated; None: not at all."""
    allow_outbound: tuple[str, ...] = ()
    """Non-public addresses, networks and hosts to which callers' requests may go."""
    allow_anonymous: bool = False
    """Listen on addresses that other machines can reach, although callers are not authenticated."""
    broadcast_address: str = ""
    """The address published to other members; if empty, the bound address."""
    retention_s: int = 24 * 3600
    """Retention of the namespaces that this process creates."""
    http_cors_origins: tuple[str, ...] = ()
    """Origins of other sites whose pages may call the HTTP endpoints."""
    drain_s: float = 5.0
    internal_ip: str = ""
    """Address of the internal endpoint; if empty, `ip`."""
    internal_port: int | None = None
    internal_secret: str = field(default="", repr=False)
    """The secret by which processes of a deployment authenticate each other. During a rotation two of them, one a
    line: the first is sent, and both are accepted."""
    history_urls: tuple[str, ...] = ()
    """Internal endpoints of the processes that serve history; empty: this process does."""
    matching_urls: tuple[str, ...] = ()

    def metrics_address(self) -> str:
        """Return the address of `/metrics`. Raises BadConfig."""
        if self.metrics_ip:
            return self.metrics_ip
        ip = bind_address(self.ip)
        return ip if is_loopback(ip) else "127.0.0.1"

    def internal_secrets(self) -> tuple[str, ...]:
        """Return the secrets of the internal endpoint, the one to send first. Raises BadConfig for more than two."""
        secrets = tuple(line.strip() for line in self.internal_secret.splitlines() if line.strip())
        if len(secrets) > _MAX_SECRETS:
            raise BadConfig(
                f"the internal secret has {len(secrets)} lines: give one secret, or two during a rotation, one a line"
            )
        if self.internal_secret and not secrets:
            raise BadConfig("the internal secret is empty")
        return secrets

    def __post_init__(self) -> None:
        self.internal_secrets()
        _check_outbound(self.allow_outbound)
        if Role.FRONTEND in self.roles and Role.MATCHING not in self.roles and not self.matching_urls:
            raise BadConfig(
                "--services frontend serves polls, so it needs matching: in this process, or --matching-url"
            )
        if Role.MATCHING in self.roles and Role.FRONTEND not in self.roles and self.internal_port is None:
            raise BadConfig("--services matching has no endpoint of its own: add frontend, or give --internal-port")
        if self.internal_port is not None and not self.roles & INTERNAL_ROLES:
            raise BadConfig("--internal-port serves history and matching, and --services has neither of them")
        for urls, role in ((self.history_urls, Role.HISTORY), (self.matching_urls, Role.MATCHING)):
            if urls and role in self.roles:
                raise BadConfig(
                    f"--{role}-url says that other processes serve {role}, and --services that this one does"
                )
            for url in urls:
                _check_url(url, f"--{role}-url")
            if urls and not self.store.database_url:
                raise BadConfig(f"--{role}-url needs --database-url: several processes share no SQLite file")


def _check_outbound(entries: Sequence[str]) -> None:
    if not entries:
        return
    # Imported here, because every command imports this module, and few need asyncio.
    from whistlestop.net.outbound import Named

    try:
        Named.parse(entries)
    except ValueError as error:
        raise BadConfig(f"--allow-outbound: {error}") from None


def _check_url(url: str, flag: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadConfig(f"{flag} {url}: expected http://HOST:PORT")


def check_internal_address(ip: str, secrets: Sequence[str]) -> None:
    """Raise BadConfig if other machines could reach an internal endpoint that requires no secret."""
    if not secrets and not is_loopback(ip):
        raise BadConfig(
            f"the internal endpoint on {ip} needs a secret: --internal-secret-file, or WHISTLESTOP_INTERNAL_SECRET"
        )


_UNAUTHENTICATED_CALLERS = "anybody who reaches this address"


def callers(config: ServerConfig, ip: str) -> str:
    """Return a description of who may call; empty on loopback without authentication, and without public ports."""
    if Role.FRONTEND not in config.roles:
        return ""
    ways = [] if config.auth is None else [config.auth.describe()]
    if config.tls is not None and config.tls.client_ca:
        ways.insert(0, f"a certificate of {config.tls.client_ca}")
    if ways:
        return f"with {' and '.join(ways)}"
    return "" if is_loopback(ip) else _UNAUTHENTICATED_CALLERS


def require_authentication(config: ServerConfig, ip: str) -> None:
    """Raise BadConfig if other machines could reach ports without authentication."""
    if config.allow_anonymous or callers(config, ip) != _UNAUTHENTICATED_CALLERS:
        return
    raise BadConfig(
        f"{ip} can be reached from other machines, and callers would not be authenticated: set --api-keys, "
        "WHISTLESTOP_JWT_JWKS_URL or --tls-client-ca, or --allow-anonymous"
    )


def bind_address(ip: str, flag: str = "--ip") -> str:
    """Return the address to bind for `--ip`, which may be a name (`localhost`). Raises BadConfig."""
    try:
        return bind_ip(ip)
    except ValueError as error:
        raise BadConfig(f"{flag}: {error}") from error


def development_outbound(ip: str) -> tuple[str, ...]:
    """Return what a development server may call besides public addresses: loopback, if it listens on loopback only.

    Whoever can call such a server can reach loopback addresses anyway. Empty for an address that is none: starting the
    server reports it.
    """
    try:
        on_loopback = is_loopback(bind_address(ip))
    except BadConfig:
        return ()  # starting the server reports the error
    return ("127.0.0.0/8", "::1/128") if on_loopback else ()


def without_password(url: str) -> str:
    """Return a database URL without its password and options, for logs and terminals."""
    scheme, separator, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user = credentials.partition(":")[0]
    # Options after the question mark may contain secrets too.
    place = place.partition("?")[0]
    return f"{scheme}{separator}{user}{at}{place}"
