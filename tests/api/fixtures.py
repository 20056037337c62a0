"""A frontend over a real store in memory, and stand-ins for history and matching that remember what reached them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from google.protobuf.message import Message
from temporalio.api.enums.v1.common_pb2 import IndexedValueType
from temporalio.api.operatorservice.v1 import request_response_pb2 as operator_pb

from whistlestop.common.clock import FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.ids import CountedIds
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.common.rpcs.matching_service import MatchingService
from whistlestop.frontend.api.namespaces import ensure_namespace
from whistlestop.frontend.registry import OPERATOR_SERVICE, REGISTRY, WORKFLOW_SERVICE
from whistlestop.frontend.service import Frontend
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.clients import Reply
    from whistlestop.common.clock import Clock
    from whistlestop.common.errors import ServiceError
    from whistlestop.common.rpcs.rpc import Rpc


class Remembering:
    """A service that answers with what it was told to, or with an empty response."""

    rpcs: ClassVar[Mapping[str, Rpc[Any, Any]]] = {**HistoryService.rpcs, **MatchingService.rpcs}

    def __init__(self) -> None:
        self.calls: list[tuple[str, Message, CallContext]] = []
        self.answers: dict[str, Reply | ServiceError] = {}

    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Reply:
        self.calls.append((rpc.method, request, context))
        found = self.answers.get(rpc.method)
        if isinstance(found, Exception):
            raise found
        return found if found is not None else rpc.response_type()


class World:
    """Everything a test of the frontend needs. Close the store when done."""

    def __init__(self, frontend: Frontend, history: Remembering, matching: Remembering, clock: Clock) -> None:
        self.frontend = frontend
        self.history = history
        self.matching = matching
        self.clock = clock

    async def call(self, method: str, request: Message, context: CallContext | None = None) -> Message:
        """Call by the method's name alone."""
        operator = f"{OPERATOR_SERVICE}/{method}"
        name = operator if operator in REGISTRY else f"{WORKFLOW_SERVICE}/{method}"
        reply = await self.frontend.call(name, request, context or CallContext())
        assert isinstance(reply, Message)
        return reply


async def new_world() -> World:
    """A frontend with the namespace `default` and two custom search attributes."""
    clock = FakeClock()
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    history, matching = Remembering(), Remembering()
    frontend = Frontend(store, history, matching, clock, CountedIds())
    world = World(frontend, history, matching, clock)
    await ensure_namespace(frontend.ports, "default")
    await world.call(
        "AddSearchAttributes",
        operator_pb.AddSearchAttributesRequest(
            namespace="default",
            search_attributes={
                "CustomInt": IndexedValueType.INDEXED_VALUE_TYPE_INT,
                "CustomKeyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
            },
        ),
    )
    return world
