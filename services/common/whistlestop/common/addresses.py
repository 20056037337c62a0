"""Which addresses of others may be called: patterns of hosts, as Temporal's `allowedAddresses` has them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from urllib.parse import SplitResult


def host_of(parts: SplitResult) -> str:
    """Host and port as they were written, without a user: that is not where a request goes."""
    return parts.netloc.rpartition("@")[2]


def matches(parts: SplitResult, pattern: str) -> bool:
    """Whether the address is of the pattern, in which `*` stands for anything and all else for itself."""
    return _compiled(pattern).fullmatch(host_of(parts)) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(literal) for literal in pattern.split("*")), re.DOTALL)
