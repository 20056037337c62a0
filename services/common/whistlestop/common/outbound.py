"""One HTTP request to an address that somebody else named: webhooks, Nexus endpoints, callbacks.

Rules of this file: the whole exchange has one time limit, however slowly the other side goes on; an answer is read up
to a limit; redirects are not followed; and whoever named headers has no say in how the request is framed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whistlestop.common.http1 import Answer, Http1Client, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Answer", "post"]

MOST_READ = 4 * 1024 * 1024
_FRAMING = frozenset({"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"})


async def post(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
    """Raises OSError when there is no answer, and for what can't be asked."""
    sent = {name: value for name, value in headers.items() if name.lower() not in _FRAMING} | {"connection": "close"}
    try:
        parts = urlsplit(url)
        client = Http1Client(url, most_body=MOST_READ)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        try:
            async with asyncio.timeout(timeout_s):
                return await client.post(target, sent, body)
        finally:
            client.close()
    except (Unreachable, ValueError) as error:
        raise OSError(str(error)) from error
