"""HTTP requests to addresses that a caller can choose: webhooks, completion callbacks, Nexus endpoints, JWKS.

- A host name is resolved once, and the connection goes to one of the resolved addresses. It is not resolved again, so
  DNS that changes its answers (rebinding) has no effect.
- Every resolved address must be public or allowed by the configuration; otherwise the request is refused.
- TLS verifies the certificate against the host name of the URL, whatever the address is.
- Redirects are not followed, proxies of the environment are not used, and callers' headers cannot change how the
  request is framed.
- The whole exchange, including name resolution and handshake, has one time limit, however slow the other side is. The
  head and body of an answer are read up to a limit.
- The caller gets the same message however a request fails, so that it learns nothing about names, addresses and ports
  of this server's network. The reason is logged.
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

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.net.http.client import MAX_HEAD, Answer, Http1Client, Unreachable
from whistlestop.net.public_addresses import is_link_local, is_public, parsed, unmapped

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from urllib.parse import SplitResult

    from whistlestop.net.public_addresses import Address, Network

    Endpoint = tuple[int, tuple[Any, ...]]
    """An address family and an address, as sockets take them."""
    Resolve = Callable[[str, int], Awaitable[Sequence[Endpoint]]]
    Connect = Callable[[Endpoint], Awaitable[socket.socket]]

__all__ = ["Answer", "BadRequest", "Named", "NoAnswer", "Outbound"]

log = logging.getLogger(__name__)

MAX_READ = 4 * 1024 * 1024
NO_ANSWER = "no usable answer (the server's log has the reason)"
_MAX_TRIED = 4
"""Resolved addresses of a name that are tried, one after the other."""
_RESOLVERS = 8
_FRAMING = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"})
_BRACKETS = re.compile(r"^\[([^\[\]]+)\]$")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s*/:@\[\]]+))(?::(\d{1,5}|\*))?")


class NoAnswer(OSError):
    """The request failed; callers are told nothing more."""

    def __init__(self) -> None:
        super().__init__(NO_ANSWER)


class BadRequest(OSError):
    """The URL or a header cannot be sent over HTTP. Nothing was resolved or sent."""


class _Refused(Exception):
    """Requests to the address are not allowed."""


@dataclass(frozen=True, slots=True)
class Named:
    """Destinations that the operator allows although they are not public."""

    networks: tuple[Network, ...] = ()
    hosts: tuple[tuple[str, int], ...] = ()
    """Host names (or addresses, as in URLs) and ports; 0: any port."""

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Parse addresses, networks (CIDR) and host names. Raises ValueError with a one-line message."""
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
        """Return the patterns of Temporal's `allowedAddresses` that name a single host, without `*`."""
        return cls((), tuple(host for host in map(_host, patterns) if host is not None))

    @classmethod
    def by_url(cls, url: str) -> Self:
        """Return the host of a URL in the configuration, with any port."""
        return cls((), ((urlsplit(url).hostname or "", 0),))

    def __or__(self, other: Named) -> Named:
        return Named(self.networks + other.networks, self.hosts + other.hosts)

    def has_host(self, host: str, port: int) -> bool:
        """Return whether the host of a URL (in lower case) is allowed."""
        return any(host == name and wanted in {0, port} for name, wanted in self.hosts)

    def has_address(self, address: Address) -> bool:
        """Return whether an address is in an allowed network."""
        return any(address in network or unmapped(address) in network for network in self.networks)


def _host(text: str) -> tuple[str, int] | None:
    """Parse `host`, `host:port` or `host:*` into host and port (0: any); None for anything else."""
    found = _HOST.fullmatch(text)
    if found is None:
        return None
    return (found[1] or found[2]).lower(), int(found[3]) if found[3] and found[3] != "*" else 0


class Outbound:
    """Sends such requests."""

    def __init__(
        self,
        named: Named | None = None,
        *,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create a sender; by default it uses the machine's resolver, sockets and trusted authorities."""
        self.named = self._always = named or Named()
        self._resolve = resolve or _resolve
        self._connect = connect or _connect
        self._tls = tls

    def allow(self, patterns: Iterable[str]) -> None:
        """Replace the hosts allowed by Temporal's `allowedAddresses`; those named at construction stay allowed."""
        self.named = self._always | Named.by_patterns(patterns)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        """POST a request. Raises NoAnswer, and BadRequest for what cannot be sent."""
        return await self._request("POST", url, headers, body, timeout_s, MAX_READ)

    async def get(self, url: str, timeout_s: float, most_body: int = MAX_READ) -> Answer:
        """GET a URL. Raises NoAnswer, and BadRequest for what cannot be sent."""
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
            # TimeoutError is an OSError. Messages of TLS and sockets contain addresses, so they are only logged.
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
        for endpoint in endpoints[:_MAX_TRIED]:
            try:
                connected = await self._connect(endpoint)
            except OSError as error:
                problem = error
                continue
            try:
                return await asyncio.open_connection(
                    sock=connected, ssl=tls, server_hostname=host if tls is not None else None, limit=MAX_HEAD
                )
            except BaseException:
                connected.close()
                raise
        raise problem or OSError("the name has no address")

    def may_be_called(self, host: str, port: int, address: str) -> bool:
        """Return whether requests to the host may go to this resolved address of it."""
        found = parsed(address)
        if is_public(found) or self.named.has_address(found):
            return True
        # Even an allowed name must not lead to the metadata service of a cloud.
        return self.named.has_host(host, port) and (not is_link_local(found) or host == address)

    def may_be_stored(self, parts: SplitResult) -> bool:
        """Return whether a URL may be stored for later. Host names are accepted, and checked when called."""
        host = parts.hostname or ""
        try:
            parsed(host)
        except ValueError:
            return True
        return self.may_be_called(host, _port(parts), host)

    def _check(self, host: str, port: int, endpoints: Sequence[Endpoint]) -> None:
        """Raise _Refused unless all addresses may be called."""
        for _, (address, *_) in endpoints:
            if not self.may_be_called(host, port, address):
                raise _Refused(f"{address} is not public, and not allowed by the configuration (--allow-outbound)")


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


_threads = ThreadPoolExecutor(_RESOLVERS, "resolve")
"""A pool of its own, so that slow name resolution delays only such requests and no other work in threads."""


async def _resolve(host: str, port: int) -> Sequence[Endpoint]:
    resolve = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(_threads, resolve)
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
    """Return the default context, cached because loading the system's authorities takes 20 ms."""
    import ssl

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
