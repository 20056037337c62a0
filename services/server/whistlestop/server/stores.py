"""The storage adapter and notifier of a process; no other module of the server package imports an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from whistlestop.common.metrics import NO_METRICS, Metrics
from whistlestop.functions.instrumented_store import counted

if TYPE_CHECKING:
    from whistlestop.common.clock import Clock
    from whistlestop.common.notify import Notifier
    from whistlestop.server.config import StoreConfig
    from whistlestop.storage.interface import Store
    from whistlestop.storage.records import Transition


class _Commits:
    """Mixin for an adapter that counts its commits."""

    metrics: Metrics = NO_METRICS

    async def commit(self, transition: Transition) -> None:
        await counted(cast("Any", super()).commit, transition, self.metrics)


def make_store(config: StoreConfig, metrics: Metrics = NO_METRICS) -> Store:
    """Return the configured adapter, not opened yet."""
    if config.database_url:
        from whistlestop.storage.postgres import PostgresStore

        class CountedPostgres(_Commits, PostgresStore):
            pass

        postgres = CountedPostgres(config.database_url)
        postgres.metrics = metrics
        return cast("Store", postgres)

    from whistlestop.storage.sqlite import SqliteStore

    class CountedSqlite(_Commits, SqliteStore):
        pass

    sqlite = CountedSqlite(config.sqlite_path, dict(config.pragmas))
    sqlite.metrics = metrics
    return cast("Store", sqlite)


async def make_notifier(config: StoreConfig, clock: Clock) -> Notifier:
    """Return a started notifier: within the process, and by LISTEN/NOTIFY if other processes share the database.

    Raise StorageError.
    """
    if not config.database_url:
        from whistlestop.common.notify import LocalNotifier

        return LocalNotifier(clock)
    from whistlestop.storage.postgres.notify import PostgresNotifier

    notifier = PostgresNotifier(config.database_url, clock, listen_url=config.listen_url)
    await notifier.start()
    return notifier


async def close_notifier(notifier: Notifier) -> None:
    """Close the notifier's connections, if it has any."""
    close = getattr(notifier, "close", None)
    if close is not None:
        await close()


def note_alone(notifier: Notifier) -> None:
    """Tell the notifier that no other server is alive, so that it need not send until one is found."""
    mark_alone = getattr(notifier, "mark_alone", None)
    if mark_alone is not None:
        mark_alone()


def notify_waiters(notifier: Notifier) -> None:
    """Wake all waiters, because another server has gone, perhaps between a commit and its notification."""
    notify_all = getattr(notifier, "notify_all", None)
    if notify_all is not None:
        notify_all()
