"""How inspecting commands call the API: on a running server over gRPC, or directly on a database.

Both speak the same RPCs, so a command is written once.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from whistlestop.server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from whistlestop.common.rpcs.rpc import RequestT, ResponseT, Rpc
    from whistlestop.server.config import StoreConfig
    from whistlestop.storage.interface import Store

    T = TypeVar("T")

CALL_TIMEOUT_S = 15.0

DbFilename = Annotated[
    str, typer.Option("--db-filename", "-f", help="A SQLite file to read instead of asking a server.")
]
DatabaseUrl = Annotated[
    str, typer.Option("--database-url", envvar="WHISTLESTOP_DATABASE_URL", help="A Postgres database to read instead.")
]


class Api(Protocol):
    """The public API, wherever it is."""

    async def call(self, rpc: Rpc[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """Call an RPC. Raises CommandError with the server's message."""
        ...


class OverGrpc:
    """The API of a server.

    `metadata` is sent with each call. `address` and `with_tls` say in errors how the channel was opened.
    """

    def __init__(self, channel: object, metadata: tuple[tuple[str, str], ...], address: str, *, with_tls: bool) -> None:
        self._channel = channel
        self._metadata = metadata
        self._address = address
        self._with_tls = with_tls

    async def call(self, rpc: Rpc[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """Call an RPC. Raises CommandError with the server's message."""
        import grpc

        send = self._channel.unary_unary(  # type: ignore[attr-defined]  # a grpc.aio.Channel
            f"/{rpc.full_name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=rpc.response_type.FromString,
        )
        try:
            reply: ResponseT = await send(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                manner = "with TLS (--no-tls)" if self._with_tls else "without TLS (--tls)"
                raise CommandError(
                    f"no server answers at {self._address} (--address) {manner}: {error.details()}"
                ) from error
            raise CommandError(f"{rpc.method}: {error.details()} ({error.code().name})") from error
        return reply


class _OverStore:
    def __init__(self, store: Store, config: StoreConfig) -> None:
        from whistlestop.common.clock import SystemClock
        from whistlestop.common.notify import LocalNotifier
        from whistlestop.server.assembly import assemble
        from whistlestop.server.config import ServerConfig

        self._frontend = assemble(ServerConfig(store=config), store, LocalNotifier(SystemClock())).frontend

    async def call(self, rpc: Rpc[RequestT, ResponseT], request: RequestT) -> ResponseT:
        from whistlestop.common.clients import decoded
        from whistlestop.common.context import CallContext
        from whistlestop.common.errors import ServiceError

        try:
            reply: Any = await self._frontend.call_as_server(rpc, request, CallContext(can_long_poll=False))
        except ServiceError as error:
            raise CommandError(f"{rpc.method}: {error.message} ({error.code.name})") from error
        response: ResponseT = decoded(reply, rpc.response_type)
        return response


@contextlib.asynccontextmanager
async def over_store(db_filename: str, database_url: str) -> AsyncIterator[Api]:
    """Yield the API on the given database. Raises CommandError."""
    async with open_store(db_filename, database_url) as (store, config):
        yield _OverStore(store, config)


def store_config(db_filename: str, database_url: str) -> StoreConfig:
    """Return the database that the flags name. Raises CommandError if they name none or both."""
    from whistlestop.server.config import StoreConfig

    if db_filename and database_url:
        raise CommandError("--database-url and --db-filename exclude each other", 2)
    if database_url:
        if not database_url.startswith(("postgresql://", "postgres://")):
            raise CommandError("--database-url must begin with postgresql://", 2)
        return StoreConfig(database_url=database_url)
    if not db_filename:
        raise CommandError("name a database: --db-filename FILE or --database-url postgresql://…", 2)
    return StoreConfig(db_filename)


@contextlib.asynccontextmanager
async def open_store(
    db_filename: str, database_url: str, *, create: bool = False
) -> AsyncIterator[tuple[Store, StoreConfig]]:
    """Yield the opened store that the flags name, and its configuration. Raises CommandError.

    A SQLite file must exist unless `create`.
    """
    from whistlestop.server.stores import make_store

    config = store_config(db_filename, database_url)
    if not create and not config.database_url and not await asyncio.to_thread(Path(config.sqlite_path).exists):
        raise CommandError(f"there is no file {config.sqlite_path}")
    store = make_store(config)
    await store.open()
    try:
        yield store, config
    finally:
        await store.close()


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run a command's coroutine. Raises CommandError for an error of the store."""
    from whistlestop.storage.errors import StorageError

    async def guarded() -> T:
        return await work()

    try:
        return asyncio.run(guarded())
    except StorageError as error:
        raise CommandError(str(error)) from error
