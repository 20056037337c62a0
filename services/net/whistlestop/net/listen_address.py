"""The addresses that servers listen on: one parser for every command and option.

The result is always a single numeric address of this machine. A name is resolved once, so that the address that was
checked is the address that is bound. A port without a host means loopback; all addresses must be given explicitly
(`0.0.0.0`, `[::]`).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple

LOOPBACK = "127.0.0.1"
MAX_PORT = 65535


class ListenAddress(NamedTuple):
    """A numeric address and a port to listen on."""

    ip: str
    port: int

    def __str__(self) -> str:
        return host_port(self.ip, self.port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.ip)


def parse_listen(text: str) -> ListenAddress:
    """Parse `PORT` (on 127.0.0.1), `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError with a one-line message."""
    if re.fullmatch(r"[0-9]+", text):
        return ListenAddress(LOOPBACK, _port(text, text))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"not host:port: {text}")
    if not host or host in {"*", "[]", "[*]"}:
        raise ValueError(
            f"{text} names no address: use 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for every address"
        )
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{text}: put an IPv6 address in brackets, as in [::1]:7233")
    return ListenAddress(bind_ip(host), _port(port, text))


def _port(digits: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", digits) or int(digits) > MAX_PORT:
        raise ValueError(f"not host:port: {text}: a port is a number from 0 to {MAX_PORT}")
    return int(digits)


def bind_ip(host: str) -> str:
    """Return the numeric address of a host, which may be a name (`localhost`). Raises ValueError."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    if not bare or re.fullmatch(r"0[xX][0-9a-fA-F.xX]*|[0-9.]+", bare) or "*" in bare or bare != host:
        # Resolvers turn these into addresses that nobody means (0.0.0.0, or 0.0.79.161 for a port).
        raise ValueError(f"{host!r} is not an address: use 127.0.0.1, 0.0.0.0 for every address, or a name")
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{host} is not an address of this machine: {error}") from error
    # IPv4 first: SDKs connect to 127.0.0.1.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def is_loopback(ip: str) -> bool:
    """Return whether only this machine can reach a numeric address."""
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def host_port(ip: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
