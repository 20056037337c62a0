"""Page tokens of lists: opaque to clients, they contain where a page ended and a mark of the list.

A token grants nothing: a page is read with the caller's namespace and filter, whatever the token says. So tokens are
not authenticated; the mark only detects a token of another list, in which the position would be meaningless.

A token of 0.1.0 has no mark and is accepted; the mark is placed where 0.1.0 ignores it.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from whistlestop.common.errors import invalid_argument

INVALID = "invalid page token"
_MARK = b"#"


def list_mark(namespace_id: str, *of: str) -> str:
    """Return the mark of a list, given its namespace and filter."""
    return blake2b("\0".join((namespace_id, *of)).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def page_token(last: str, mark: str) -> bytes:
    """Return the token of the page after the key `last`."""
    return json.dumps({"l": last, "of": mark}).encode()


def last_of(token: bytes, mark: str, refusal: str = INVALID) -> str:
    """Return the key after which a page begins; empty for the first page. Raises INVALID_ARGUMENT."""
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
    """Add the list's mark to a page token of visibility (`[close time, start time, "run id"]`).

    It is appended to the run id. No run id is a prefix of another, so that the position after "run id#mark" is the
    position after the run id.
    """
    return token[:-2] + _MARK + mark.encode() + token[-2:] if token else token


def check_mark(token: bytes, mark: str) -> None:
    """Raise INVALID_ARGUMENT if a page token of visibility belongs to another list."""
    _, found, of = token.partition(_MARK)
    if found and of[:-2] != mark.encode():
        raise invalid_argument(INVALID)
