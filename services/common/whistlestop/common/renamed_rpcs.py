"""RPCs of our own that have another name than in release 0.1.0.

Processes of both releases call each other during an upgrade. The receiver takes an old name for the new one and warns;
the caller falls back to the old name where the receiver does not know the new one. In the `service` blocks the old
names are deprecated RPCs. The release after this one may drop all of it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.common.rpcs.rpc import Rpc

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


async def call_by_name(
    call: Callable[[str, Message, CallContext], Awaitable[Reply]],
    rpc: Rpc[Any, Any],
    request: Message,
    context: CallContext,
) -> Reply:
    """Call another process by the RPC's name, or by its old name where the receiver does not know that.

    Raise ServiceError.
    """
    try:
        return await call(rpc.method, request, context)
    except ServiceError as error:
        if error.code is not Code.UNIMPLEMENTED or not rpc.old_name:
            raise
    return await call(rpc.old_name, request, context)
