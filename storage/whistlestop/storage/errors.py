"""The only errors that an adapter raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whistlestop.storage.records import CurrentExecution, ExecutionKey


class StorageError(Exception):
    """Something in the store went wrong."""


class Unavailable(StorageError):
    """The store can't be reached or did not answer in time; whether a write took place is unknown."""


class TimedOut(StorageError):
    """A read took longer than its caller would wait; it was stopped."""


class VersionConflict(StorageError):
    """Somebody else changed the execution since it was read (or it was created meanwhile); nothing was written."""

    def __init__(self, key: ExecutionKey) -> None:
        super().__init__(f"execution {key.workflow_id}/{key.run_id} was changed by another writer")
        self.key = key


class CurrentConflict(StorageError):
    """Another run holds the workflow id, or not the run that was expected; nothing was written."""

    def __init__(self, current: CurrentExecution | None) -> None:
        super().__init__("the current run of the workflow id is not the expected one")
        self.current = current


class NamespaceExists(StorageError):
    """A namespace of that name or id is there already."""


class NamespaceConflict(StorageError):
    """The namespace was changed by another writer, or is gone; nothing was written."""


class EndpointExists(StorageError):
    """A Nexus endpoint of that name (or id) is there already; nothing was written."""


class EndpointConflict(StorageError):
    """The Nexus endpoint was changed by another writer, or is gone; nothing was written."""


class LeaseLost(StorageError):
    """The range lease is held by somebody else (a newer `range_id`); nothing was written."""


class Unreadable(StorageError):
    """A stored value is not what it should be: damaged, or written by something else. Trying again does not help."""


class PermanentError(StorageError):
    """Nothing was written, and trying again does not help: somebody has to change the request or the database."""


class Refused(PermanentError):
    """No store can hold a value of this kind. The message is for the caller: it names the value and holds no SQL."""


class TooLarge(Refused):
    """A single value exceeds what the store accepts."""


class SchemaMismatch(PermanentError):
    """The database's schema is newer (or older) than this code can serve; says both versions and what to do."""


class CannotOpen(StorageError):
    """The database can't be opened: path not writable, not a database, wrong address or credentials."""


_PASSING = (
    Unavailable, TimedOut, VersionConflict, CurrentConflict, NamespaceConflict, EndpointConflict, LeaseLost,
    SchemaMismatch, CannotOpen,
)  # fmt: skip


def is_passing(error: BaseException) -> bool:
    """Whether the store may well take the same again later: the row that was being worked on is not to blame."""
    return isinstance(error, _PASSING)
