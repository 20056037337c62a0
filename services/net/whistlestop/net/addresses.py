"""Match addresses against host patterns, with the syntax of Temporal's `allowedAddresses` setting."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from urllib.parse import SplitResult


def host_of(parts: SplitResult) -> str:
    """Return the host and port of a URL as written, without user information.

    User information is left out because it does not affect where the request is sent.
    """
    return parts.netloc.rpartition("@")[2]


def matches(parts: SplitResult, pattern: str) -> bool:
    """Return whether the host and port match the pattern, where `*` matches any text."""
    return _compiled(pattern).fullmatch(host_of(parts)) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(literal) for literal in pattern.split("*")), re.DOTALL)
