"""Page tokens of lists in the order of a key: opaque to clients, they hold the last key of a page."""

from __future__ import annotations

import json

from whistlestop.common.errors import invalid_argument


def page_token(last: str) -> bytes:
    """The token of the page behind `last`."""
    return json.dumps({"l": last}).encode()


def last_of(token: bytes, refusal: str = "invalid page token") -> str:
    """The key behind which a page begins; empty: the first one. Raises INVALID_ARGUMENT for what is no token."""
    if not token:
        return ""
    try:
        return str(json.loads(token)["l"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise invalid_argument(refusal) from None
