"""Which failures pass by themselves: then what was being worked on is tried again, and is not set aside."""

from __future__ import annotations

from whistlestop.common.errors import Code, ServiceError
from whistlestop.storage import errors as storage_errors

_PASSING = frozenset({
    Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.UNAVAILABLE,
})  # fmt: skip


def is_passing(error: BaseException) -> bool:
    """Whether trying again may do: the store or another service did not answer, or somebody else was in the way."""
    if isinstance(error, ServiceError):
        return error.code in _PASSING
    return storage_errors.is_passing(error)
