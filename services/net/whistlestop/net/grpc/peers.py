"""Facts about a peer beside its frames: where it is, whether it is alive, whether it speaks HTTP/1."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

_MESSAGE = b"This port speaks gRPC, which needs HTTP/2. Use the port of the HTTP API for HTTP/1.\n"
HTTP_1_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
) % (len(_MESSAGE), _MESSAGE)
# Half-open connections are found in two minutes: otherwise the poll of a vanished machine would be given a task.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3))


def is_on_this_machine(transport: asyncio.BaseTransport) -> bool:
    """Return whether the peer has a loopback address."""
    peer = transport.get_extra_info("peername")
    return isinstance(peer, tuple) and ipaddress.ip_address(str(peer[0]).partition("%")[0]).is_loopback


def speaks_http_1(data: bytes) -> bool:
    """Return whether the first bytes are an HTTP/1 request."""
    verb = data.split(b" ", 1)[0]
    return verb.isalpha() and verb.isupper() and len(verb) <= 16 and b"HTTP/1." in data[:8_192]


def keep_alive(connection: socket.socket | None) -> None:
    """Enable TCP keep-alive, so that a vanished peer is noticed. Does nothing for other sockets or None."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
