"""Whose a client's certificate is. TLS has checked it: an authority that the server trusts has signed these names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

HEADER = ":certificate"
"""Where a door puts the names among a call's headers, one a line. No client can send a header that begins so."""
_KINDS = frozenset({"DNS", "URI", "email"})


def names_of(transport: asyncio.BaseTransport) -> str:
    """Common names, then alternative ones, one a line; empty without a certificate."""
    shown = transport.get_extra_info("peercert") or {}
    names = [value for part in shown.get("subject", ()) for kind, value in part if kind == "commonName"]
    names += [value for kind, value in shown.get("subjectAltName", ()) if kind in _KINDS]
    return "\n".join(dict.fromkeys(name for name in names if "\n" not in name))
