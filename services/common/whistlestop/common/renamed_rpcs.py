"""RPCs of our own that have another name than in release 0.1.0.

Processes of both releases call each other during an upgrade. The receiver takes an old name for the new one and warns;
the caller falls back to the old name where the receiver does not know the new one. The release after this one may drop
both.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply, ServiceClient
    from whistlestop.common.context import CallContext

log = logging.getLogger(__name__)

OLD_NAMES: Final[Mapping[str, str]] = {"ProbeBacklog": "LookForTasks", "FireTimers": "FireDue"}
"""The name in release 0.1.0, by the present one."""
_NEW_NAMES: Final[Mapping[str, str]] = {old: new for new, old in OLD_NAMES.items()}
_warned: set[str] = set()


def current_name(method: str) -> str:
    """Return the present name of a method that is called by either; warn of an old one, once in a process."""
    name = _NEW_NAMES.get(method)
    if name is None:
        return method
    if method not in _warned:
        _warned.add(method)
        log.warning(
            "a caller of release 0.1.0 uses %s, which is called %s now: upgrade it before the next release",
            method,
            name,
        )
    return name


async def call_renamed(client: ServiceClient, method: str, request: Message, context: CallContext) -> Reply:
    """Call a method of OLD_NAMES by its present name, or by the old one where the receiver does not know that.

    Raise ServiceError.
    """
    try:
        return await client.call(method, request, context)
    except ServiceError as error:
        if error.code is not Code.UNIMPLEMENTED:
            raise
    return await client.call(OLD_NAMES[method], request, context)
