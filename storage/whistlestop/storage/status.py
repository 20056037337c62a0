"""The gRPC errors that callers get for errors of the store."""

from __future__ import annotations

from whistlestop.common.errors import (
    ServiceError,
    data_loss,
    deadline_exceeded,
    failed_precondition,
    invalid_argument,
    unavailable,
)
from whistlestop.storage.errors import (
    PermanentError,
    Refused,
    SchemaMismatch,
    StorageError,
    TimedOut,
    TooLarge,
    Unreadable,
)


def service_error(error: StorageError) -> ServiceError:
    """Return the error for a caller: retryable only where a retry may help, and without the database's own message."""
    if isinstance(error, TooLarge):
        return invalid_argument(f"The request is too large for the store: {error}")
    if isinstance(error, Refused):
        return invalid_argument(f"The store can't hold the request: {error}")
    if isinstance(error, TimedOut):
        return deadline_exceeded()
    if isinstance(error, Unreadable):
        return data_loss(str(error))
    if isinstance(error, SchemaMismatch):
        return failed_precondition("The database's schema is not that of this release: run `whistlestop db migrate`.")
    if isinstance(error, PermanentError):
        return failed_precondition("The database refused the call and will until repaired: see the server's log.")
    return unavailable("The store did not answer. Try again.")
