"""Tell temporary errors, after which work is retried, from permanent ones, after which it is set aside."""

from __future__ import annotations

from whistlestop.common.errors import Code, ServiceError
from whistlestop.storage import errors as storage_errors

_TRANSIENT = frozenset({
    Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.UNAVAILABLE,
})  # fmt: skip


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may help: the store or another service did not answer, or a conflict occurred."""
    if isinstance(error, ServiceError):
        return error.code in _TRANSIENT
    return storage_errors.is_transient(error)
