"""The names in a client's TLS certificate, which a certificate authority trusted by the server has signed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

HEADER = ":certificate"
"""The call header that carries the names, one a line. A client cannot send a header that begins with ":"."""
_KINDS = frozenset({"DNS", "URI", "email"})


def names_of(transport: asyncio.BaseTransport) -> str:
    """Return the common names, then the alternative names, one a line; empty without a certificate."""
    certificate = transport.get_extra_info("peercert") or {}
    names = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    names += [value for kind, value in certificate.get("subjectAltName", ()) if kind in _KINDS]
    return "\n".join(dict.fromkeys(name for name in names if "\n" not in name))
