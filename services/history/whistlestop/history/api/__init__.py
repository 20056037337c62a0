"""The RPCs that the history service answers, a module for each small group.

A module fills `METHODS` with coroutines `(service, request, context) -> reply`. Requests come validated in form by the
frontend; what depends on state is decided by the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whistlestop.common.clients import Reply
    from whistlestop.common.context import CallContext
    from whistlestop.history.service import History

METHODS: dict[str, Callable[[History, Any, CallContext], Awaitable[Reply]]] = {}
