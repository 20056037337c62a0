"""How a delivery of a transfer task may end: with a part that remains, put off, or with an error that is final."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from whistlestop.common.errors import Code, ServiceError
from whistlestop.storage.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Rest: TypeAlias = Callable[[], Awaitable[None]]
    """The part of a delivery that calls another server."""


class PutOff(Exception):
    """The transfer task has to be delivered again at that time."""

    def __init__(self, until_ns: int) -> None:
        super().__init__(f"until {until_ns}")
        self.until_ns = until_ns


def is_final(error: Exception) -> bool:
    """Return whether no retry of a delivery can succeed."""
    return isinstance(error, Refused) or (isinstance(error, ServiceError) and error.code is Code.INVALID_ARGUMENT)
