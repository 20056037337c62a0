"""The only errors that an adapter raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whistlestop.storage.records import CurrentExecution, ExecutionKey


class StorageError(Exception):
    """An operation of the store failed."""


class Unavailable(StorageError):
    """The store can't be reached or did not answer in time; whether a write took place is unknown."""


class TimedOut(StorageError):
    """A read took longer than its caller allowed and was stopped."""


class VersionConflict(StorageError):
    """Another writer changed (or created) the execution since it was read; nothing was written."""

    def __init__(self, key: ExecutionKey) -> None:
        super().__init__(f"execution {key.workflow_id}/{key.run_id} was changed by another writer")
        self.key = key


class CurrentConflict(StorageError):
    """The current run of the workflow id is not the expected one; nothing was written."""

    def __init__(self, current: CurrentExecution | None) -> None:
        super().__init__("the current run of the workflow id is not the expected one")
        self.current = current


class NamespaceExists(StorageError):
    """A namespace of that name or id exists already; nothing was written."""


class NamespaceConflict(StorageError):
    """The namespace was changed by another writer, or is gone; nothing was written."""


class EndpointExists(StorageError):
    """A Nexus endpoint of that name or id exists already; nothing was written."""


class EndpointConflict(StorageError):
    """The Nexus endpoint was changed by another writer, or is gone; nothing was written."""


class LeaseLost(StorageError):
    """Another holder has the lease (the row has a different `range_id`); nothing was written."""


class Unreadable(StorageError):
    """A stored value can't be parsed: it is damaged or not ours. A retry does not help."""


class PermanentError(StorageError):
    """Nothing was written, and a retry does not help: the request or the database has to be changed."""


class Refused(PermanentError):
    """No store can hold a value of this kind. The message is for the caller: it names the value and holds no SQL."""


class TooLarge(Refused):
    """A single value exceeds what the store accepts."""


class SchemaMismatch(PermanentError):
    """The database's schema is too new or too old for this code; the message has both versions and the remedy."""


class CannotOpen(StorageError):
    """The database can't be opened: path not writable, not a database, wrong address or credentials."""


_TRANSIENT = (
    Unavailable, TimedOut, VersionConflict, CurrentConflict, NamespaceConflict, EndpointConflict, LeaseLost,
    SchemaMismatch, CannotOpen,
)  # fmt: skip


def is_transient(error: BaseException) -> bool:
    """Return whether the store may accept the same operation later, so that the processed row is not to blame."""
    return isinstance(error, _TRANSIENT)
