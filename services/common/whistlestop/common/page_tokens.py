"""Page tokens of lists: opaque to clients, they say where a page ended and of what list it is a page.

A token grants nothing: what a page shows is read with the caller's namespace and filter, whatever the token says. So
tokens are not authenticated; they are only held to their list, since a place in one list means nothing in another.
A token of 0.1.0 does not say what list it is of, and is taken; the mark is put where 0.1.0 does not mind it.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from whistlestop.common.errors import invalid_argument

INVALID = "invalid page token"
_MARK = b"#"


def list_mark(namespace_id: str, *of: str) -> str:
    """Names a list: of that namespace, with that filter."""
    return blake2b("\0".join((namespace_id, *of)).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def page_token(last: str, mark: str) -> bytes:
    """The token of the page behind `last`, in a list in the order of that key."""
    return json.dumps({"l": last, "of": mark}).encode()


def last_of(token: bytes, mark: str, refusal: str = INVALID) -> str:
    """The key behind which a page begins; empty: the first one. Raises INVALID_ARGUMENT for what is no token."""
    if not token:
        return ""
    try:
        fields: Any = json.loads(token)
        last, of = fields["l"], fields.get("of", mark)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise invalid_argument(refusal) from None
    if not isinstance(last, str) or of != mark:
        raise invalid_argument(refusal)
    return last


def marked(token: bytes, mark: str) -> bytes:
    """A page token of visibility (`[close time, start time, "run id"]`) with the mark of its list behind the run id.

    No run id begins with another, so what comes behind "run id#mark" is what comes behind the run id.
    """
    return token[:-2] + _MARK + mark.encode() + token[-2:] if token else token


def check_mark(token: bytes, mark: str) -> None:
    """Raise INVALID_ARGUMENT if that token of visibility is of another list."""
    _, found, of = token.partition(_MARK)
    if found and of[:-2] != mark.encode():
        raise invalid_argument(INVALID)
