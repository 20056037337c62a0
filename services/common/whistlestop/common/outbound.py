"""HTTP requests to addresses that a caller can choose: webhooks, completion callbacks, Nexus endpoints, JWKS.

Rules of this file:

    - A host name is resolved once, and the connection goes to an address of that answer. The name is not resolved
      again, so DNS that changes its answers (rebinding) leads nowhere else.
    - Every address of the answer must be public or named in the configuration; one that is neither refuses the request.
    - TLS verifies the certificate for the host name of the URL, whatever the address is.
    - Redirects are not followed, proxies of the environment are not used, and whoever names headers has no say in how
      the request is framed.
    - The whole exchange, name and handshake included, has one time limit, however slowly the other side goes on. Head
      and body of an answer are read up to a limit.
    - However a request fails on its way, the caller hears one text. So nobody learns from this server which names,
      addresses and ports of its network exist. The reason is in the log.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from whistlestop.common.http1 import MOST_HEAD, Answer, Http1Client, Unreachable
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.public_addresses import is_link_local, is_public, parsed, unmapped

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from urllib.parse import SplitResult

    from whistlestop.common.public_addresses import Address, Network

    Endpoint = tuple[int, tuple[Any, ...]]
    """An address family and an address of it, as sockets take them."""
    Resolve = Callable[[str, int], Awaitable[Sequence[Endpoint]]]
    Connect = Callable[[Endpoint], Awaitable[socket.socket]]

__all__ = ["Answer", "BadRequest", "Named", "NoAnswer", "Outbound"]

log = logging.getLogger(__name__)

MOST_READ = 4 * 1024 * 1024
NO_ANSWER = "no usable answer (the server's log has the reason)"
_MOST_TRIED = 4
"""Addresses of one name that are tried, one after the other."""
_RESOLVERS = 8
_FRAMING = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"})
_BRACKETS = re.compile(r"^\[([^\[\]]+)\]$")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s*/:@\[\]]+))(?::(\d{1,5}|\*))?")


class NoAnswer(OSError):
    """The one failure that callers hear of, whatever happened between here and there."""

    def __init__(self) -> None:
        super().__init__(NO_ANSWER)


class BadRequest(OSError):
    """A request that HTTP can't carry: its URL or a header. Nothing was resolved or sent."""


class _Refused(Exception):
    """The address may not be called."""


@dataclass(frozen=True, slots=True)
class Named:
    """Destinations that an operator has named, and which may therefore be called although they are not public."""

    networks: tuple[Network, ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()
    """Host names (or addresses, as they stand in URLs) and ports; 0: any port."""

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Read addresses, networks (CIDR) and host names. Raises ValueError with one line for a person."""
        networks: list[Network] = []
        hosts: list[tuple[str, int]] = []
        for entry in entries:
            try:
                networks.append(ip_network(_BRACKETS.sub(r"\1", entry), strict=False))
                continue
            except ValueError:
                host = _host(entry)
            if host is None:
                raise ValueError(f'"{entry}" is no address, network (10.0.0.0/8) or host name with or without a port')
            hosts.append(host)
        return cls(tuple(networks), tuple(hosts))

    @classmethod
    def by_patterns(cls, patterns: Iterable[str]) -> Self:
        """Those of Temporal's `allowedAddresses` that name one host. `*` names none in particular."""
        return cls((), tuple(host for host in map(_host, patterns) if host is not None))

    @classmethod
    def by_url(cls, url: str) -> Self:
        """The host of a URL that stands in the configuration."""
        return cls((), ((urlsplit(url).hostname or "", 0),))

    def __or__(self, other: Named) -> Named:
        return Named(self.networks + other.networks, self.hosts + other.hosts)

    def has_host(self, host: str, port: int) -> bool:
        """Whether the host of a URL (in lower case) is named."""
        return any(host == name and wanted in {0, port} for name, wanted in self.hosts)

    def has_address(self, address: Address) -> bool:
        """Whether an address is in a named network."""
        return any(address in network or unmapped(address) in network for network in self.networks)


def _host(text: str) -> tuple[str, int] | None:
    """Host and port of `host`, `host:port` or `host:*`; None for what names no single host."""
    found = _HOST.fullmatch(text)
    if found is None:
        return None
    return (found[1] or found[2]).lower(), int(found[3]) if found[3] and found[3] != "*" else 0


class Outbound:
    """Makes such requests."""

    def __init__(
        self,
        named: Named | None = None,
        *,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`resolve`, `connect` and `tls`: the machine's resolver, sockets and trusted authorities where not given."""
        self.named = self._always = named or Named()
        self._resolve = resolve or _resolve
        self._connect = connect or _connect
        self._tls = tls

    def allow(self, patterns: Iterable[str]) -> None:
        """Name the hosts of Temporal's `allowedAddresses`, in place of those that were named by them before."""
        self.named = self._always | Named.by_patterns(patterns)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        """Raises NoAnswer, and BadRequest for what can't be sent."""
        return await self._request("POST", url, headers, body, timeout_s, MOST_READ)

    async def get(self, url: str, timeout_s: float, most_body: int = MOST_READ) -> Answer:
        """As `post`."""
        return await self._request("GET", url, {}, b"", timeout_s, most_body)

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float, most_body: int
    ) -> Answer:
        sent = {name: value for name, value in headers.items() if name.lower() not in _FRAMING}
        sent["connection"] = "close"
        try:
            parts = urlsplit(url)
            tls = (self._tls or _default_tls()) if parts.scheme == "https" else None
            client = Http1Client(url, tls, most_body=most_body, connect=partial(self._open, parts, tls))
        except ValueError as error:
            raise BadRequest(str(error)) from None
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        try:
            async with asyncio.timeout(timeout_s):
                return await client.request(method, target, sent, body)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        except (Unreachable, OSError, _Refused) as error:
            # TimeoutError is an OSError. The text of TLS and of sockets names addresses, so it goes no further.
            log.info("a request to %r got no answer: %s: %s", client.host, type(error).__name__, error)
            raise NoAnswer from None
        finally:
            client.close()

    async def _open(
        self, parts: SplitResult, tls: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = parts.hostname or "", _port(parts)
        endpoints = await self._resolve(host, port)
        self._check(host, port, endpoints)
        problem: OSError | None = None
        for endpoint in endpoints[:_MOST_TRIED]:
            try:
                connected = await self._connect(endpoint)
            except OSError as error:
                problem = error
                continue
            try:
                return await asyncio.open_connection(
                    sock=connected, ssl=tls, server_hostname=host if tls is not None else None, limit=MOST_HEAD
                )
            except BaseException:
                connected.close()
                raise
        raise problem or OSError("the name has no address")

    def may_be_called(self, host: str, port: int, address: str) -> bool:
        """Whether the configuration lets requests to the host go to this address of it."""
        found = parsed(address)
        if is_public(found) or self.named.has_address(found):
            return True
        # A name that somebody trusts is still no reason to ask the metadata service of a cloud.
        return self.named.has_host(host, port) and (not is_link_local(found) or host == address)

    def may_be_stored(self, parts: SplitResult) -> bool:
        """Whether a URL may be kept for later. What a name resolves to is found out when it is called."""
        host = parts.hostname or ""
        try:
            parsed(host)
        except ValueError:
            return True
        return self.may_be_called(host, _port(parts), host)

    def _check(self, host: str, port: int, endpoints: Sequence[Endpoint]) -> None:
        """Raise _Refused unless all may be called."""
        for _, (address, *_) in endpoints:
            if not self.may_be_called(host, port, address):
                raise _Refused(f"{address} is not public, and not named in the configuration (--allow-outbound)")


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


_threads = ThreadPoolExecutor(_RESOLVERS, "resolve")
"""Names that are answered slowly hold up other such requests, and not what else the process does in threads."""


async def _resolve(host: str, port: int) -> Sequence[Endpoint]:
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(_threads, look_up)
    except UnicodeError as error:
        raise OSError(f"not a host name: {error}") from None
    return [(family, address) for family, _, _, _, address in found]


async def _connect(endpoint: Endpoint) -> socket.socket:
    family, address = endpoint
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made


@lru_cache(maxsize=1)
def _default_tls() -> ssl.SSLContext:
    """Loading the system's authorities takes 20 ms, so once."""
    import ssl

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
