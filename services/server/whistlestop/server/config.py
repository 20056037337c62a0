"""What one server process is asked to be. The command line fills it; tests may build it by hand."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.listen_address import bind_ip, is_loopback
from whistlestop.server.dynamic_config import DynamicConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from whistlestop.frontend.auth.config import AuthConfig
    from whistlestop.server.dynamic_file import DynamicSource

DEFAULT_PORT = 7233
DEFAULT_NAMESPACE = "default"
MEMORY = ":memory:"
_MOST_SECRETS = 2


class Role(StrEnum):
    """What a process does. A role opens doors or starts processors.

    History and matching are served by this process's own code, whatever its roles, unless the configuration says where
    they are served instead.
    """

    FRONTEND = "frontend"
    """Opens the gRPC and HTTP doors."""
    HISTORY = "history"
    """Fires timers and delivers transfer tasks."""
    MATCHING = "matching"
    """Hands tasks to the polls that come through this process's doors."""


INTERNAL_ROLES = frozenset({Role.HISTORY, Role.MATCHING})
"""What the internal door serves."""


ALL_ROLES = frozenset(Role)


class BadConfig(ValueError):
    """The configuration can't be served; the message is one line for a person."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where the state is: one SQLite file (or memory), or a Postgres database."""

    sqlite_path: str = MEMORY
    database_url: str = field(default="", repr=False)
    """It may hold a password."""
    pragmas: Mapping[str, str] = field(default_factory=dict)
    listen_url: str = field(default="", repr=False)
    """The database's own address, where `database_url` is that of a pooler: to listen to hints of other processes."""

    @property
    def in_memory(self) -> bool:
        """Whether the state goes with the process."""
        return not self.database_url and self.sqlite_path == MEMORY

    @property
    def kind(self) -> str:
        """`postgres` or `sqlite`."""
        return "postgres" if self.database_url else "sqlite"

    def describe(self) -> str:
        """The place in words, without a password."""
        if self.database_url:
            return f"Postgres, {without_password(self.database_url)}"
        return "in memory" if self.in_memory else f"SQLite file {self.sqlite_path}"


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """PEM files of the gRPC and HTTP doors. With `client_ca`, clients must show a certificate that it signed."""

    certificate: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Ports: 0 asks for a free one, None leaves the door shut."""

    store: StoreConfig = field(default_factory=StoreConfig)
    ip: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    http_port: int | None = 0
    metrics_port: int | None = 0
    metrics_ip: str = ""
    """Address of `/metrics`, which asks nobody. Where empty: `ip` if that is a loopback address, else 127.0.0.1."""
    namespaces: tuple[str, ...] = (DEFAULT_NAMESPACE,)
    search_attributes: Mapping[str, int] = field(default_factory=dict)
    """Name -> number of Temporal's IndexedValueType; registered in each of `namespaces`."""
    dynamic: DynamicConfig = field(default_factory=lambda: DynamicConfig({}))
    dynamic_source: DynamicSource | None = None
    """The file that `dynamic` was read from, with the flags that go before it."""
    roles: frozenset[Role] = ALL_ROLES
    tls: TlsConfig | None = None
    auth: AuthConfig | None = None
    """How callers are known; None: nobody is asked."""
    allow_outbound: tuple[str, ...] = ()
    """Addresses, networks and hosts that requests named by callers may go to although they are not public."""
    allow_anonymous: bool = False
    """Open doors to strangers although nobody is asked."""
    broadcast_address: str = ""
    """What other members are told; the bound address where empty."""
    retention_s: int = 24 * 3600
    """Of the namespaces that this process creates."""
    http_cors_origins: tuple[str, ...] = ()
    """Other sites whose pages may call the HTTP endpoints."""
    drain_s: float = 5.0
    internal_ip: str = ""
    """Address of the internal door; `ip` where empty."""
    internal_port: int | None = None
    internal_secret: str = field(default="", repr=False)
    """What processes of one deployment show each other. Two of them, one a line, while it is rotated: the first is
    shown, and both are taken."""
    history_urls: tuple[str, ...] = ()
    """Internal doors of the processes that serve history; empty: this one does."""
    matching_urls: tuple[str, ...] = ()

    def metrics_address(self) -> str:
        """Where `/metrics` is served. Raises BadConfig."""
        if self.metrics_ip:
            return self.metrics_ip
        ip = bind_address(self.ip)
        return ip if is_loopback(ip) else "127.0.0.1"

    def internal_secrets(self) -> tuple[str, ...]:
        """The secrets of the internal door, the one that is shown first. Raises BadConfig for more than two."""
        secrets = tuple(line.strip() for line in self.internal_secret.splitlines() if line.strip())
        if len(secrets) > _MOST_SECRETS:
            raise BadConfig(
                f"the internal secret has {len(secrets)} lines: give one secret, or while it is rotated two, one a line"
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
            raise BadConfig("--services matching has no door of its own: it needs frontend, or --internal-port")
        if self.internal_port is not None and not self.roles & INTERNAL_ROLES:
            raise BadConfig("--internal-port opens the door of history and matching: --services has neither")
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
    # Imported here: the command line reads this module for each of its commands, and few need asyncio.
    from whistlestop.common.outbound import Named

    try:
        Named.parse(entries)
    except ValueError as error:
        raise BadConfig(f"--allow-outbound: {error}") from None


def _check_url(url: str, flag: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadConfig(f"{flag} {url}: expected http://HOST:PORT")


def check_internal_address(ip: str, secrets: Sequence[str]) -> None:
    """Raise BadConfig where strangers could reach a door that asks for nothing."""
    if not secrets and not is_loopback(ip):
        raise BadConfig(
            f"the internal door on {ip} needs a secret: --internal-secret-file, or WHISTLESTOP_INTERNAL_SECRET"
        )


_ANYBODY = "anybody who reaches this address"


def callers(config: ServerConfig, ip: str) -> str:
    """Who may call, in words; empty where it goes without saying: on loopback, and without public doors."""
    if Role.FRONTEND not in config.roles:
        return ""
    ways = [] if config.auth is None else [config.auth.describe()]
    if config.tls is not None and config.tls.client_ca:
        ways.insert(0, f"a certificate of {config.tls.client_ca}")
    if ways:
        return f"with {' and '.join(ways)}"
    return "" if is_loopback(ip) else _ANYBODY


def refuse_strangers(config: ServerConfig, ip: str) -> None:
    """Raise BadConfig where others would reach doors at which nobody asks who they are."""
    if config.allow_anonymous or callers(config, ip) != _ANYBODY:
        return
    raise BadConfig(
        f"{ip} can be reached from other machines, and nobody would be asked who they are: give --api-keys, "
        "WHISTLESTOP_JWT_JWKS_URL or --tls-client-ca, or say --allow-anonymous"
    )


def bind_address(ip: str, flag: str = "--ip") -> str:
    """Return the address to bind for `--ip`, which may be a name (`localhost`). Raises BadConfig."""
    try:
        return bind_ip(ip)
    except ValueError as error:
        raise BadConfig(f"{flag}: {error}") from error


def development_outbound(ip: str) -> tuple[str, ...]:
    """What a development server may call besides public addresses: this machine, if it serves this machine alone.

    Whoever can call such a server can reach the loopback addresses anyway.
    """
    try:
        on_loopback = is_loopback(bind_address(ip))
    except BadConfig:
        return ()  # the start of the server says so
    return ("127.0.0.0/8", "::1/128") if on_loopback else ()


def without_password(url: str) -> str:
    """A database URL fit for logs and terminals."""
    scheme, separator, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user = credentials.partition(":")[0]
    # Options after the question mark may hold secrets, too.
    place = place.partition("?")[0]
    return f"{scheme}{separator}{user}{at}{place}"
