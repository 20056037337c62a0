"""Handlers of RPCs use these parts of the frontend: its store, the other functions, time, ids and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.context import CallContext
    from whistlestop.common.ids import Ids
    from whistlestop.common.rpcs.history_service import HistoryService
    from whistlestop.common.rpcs.matching_service import MatchingService
    from whistlestop.common.rpcs.rpc import Rpc
    from whistlestop.common.timing.throttle import ThrottledWarnings
    from whistlestop.frontend.config import FrontendConfig
    from whistlestop.net.tasks.background import Background
    from whistlestop.storage.interface import Store
    from whistlestop.storage.namespaces import NamespaceCache
    from whistlestop.storage.set_aside import SetAside


@dataclass(frozen=True, slots=True)
class FrontendPorts:
    """A handler gets these beside its request. They stand below the handlers, which never see the service."""

    store: Store
    history: HistoryService
    matching: MatchingService
    clock: Clock
    ids: Ids
    config: FrontendConfig
    namespaces: NamespaceCache
    aside: SetAside
    """Rows that could not be shown, and work that could not be done."""
    warn: ThrottledWarnings
    """Logs warnings for the operator."""
    background: Background
    """Tasks that outlive the call that starts them; they are cancelled when the frontend closes."""
    call_as_server: Callable[[Rpc[Any, Any], Message, CallContext], Awaitable[Reply]]
    """Serves a call by the server itself, without authorisation. Raises ServiceError.

    Never use it for a call from outside.
    """
