"""The addresses that servers listen on: the one parser of them, for every command and option.

An address is always one address of this machine, as a number. A name is resolved once, so that what was checked is
what is bound. Without a host, a port is one of loopback; every address at once has to be said (`0.0.0.0`, `[::]`).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple

LOOPBACK = "127.0.0.1"
MOST_PORT = 65535


class ListenAddress(NamedTuple):
    """Where a server listens."""

    ip: str
    port: int

    def __str__(self) -> str:
        return host_port(self.ip, self.port)

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone reaches it."""
        return is_loopback(self.ip)


def parse_listen(text: str) -> ListenAddress:
    """Parse `PORT` (of 127.0.0.1), `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError with one line for a person."""
    if re.fullmatch(r"[0-9]+", text):
        return ListenAddress(LOOPBACK, _port(text, text))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"not host:port: {text}")
    if not host or host in {"*", "[]", "[*]"}:
        raise ValueError(
            f"{text} names no address: say 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for every address"
        )
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{text}: an IPv6 address stands in brackets, as in [::1]:7233")
    return ListenAddress(bind_ip(host), _port(port, text))


def _port(digits: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", digits) or int(digits) > MOST_PORT:
        raise ValueError(f"not host:port: {text}: a port is a number from 0 to {MOST_PORT}")
    return int(digits)


def bind_ip(host: str) -> str:
    """Return the address that a host stands for, which may be a name (`localhost`). Raises ValueError."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    if not bare or re.fullmatch(r"0[xX][0-9a-fA-F.xX]*|[0-9.]+", bare) or "*" in bare or bare != host:
        # What resolvers make of these (0.0.0.0, or 0.0.79.161 of a port) is not what anybody means.
        raise ValueError(f"{host!r} is not an address: say 127.0.0.1, 0.0.0.0 for every address, or a name")
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{host} is not an address of this machine: {error}") from error
    # IPv4 first: SDKs connect to 127.0.0.1.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def is_loopback(ip: str) -> bool:
    """Whether this machine alone reaches an address, given as a number."""
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def host_port(ip: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
