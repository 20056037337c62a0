"""Every transition that was accepted ends, with a result or an error, without a database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.patience import PATIENCE_S
from tests.storage.factories import start
from whistlestop.storage.errors import StorageError
from whistlestop.storage.postgres.transition import Prepared
from whistlestop.storage.postgres.writer import GROUP_LIMIT, TransitionWriter
from whistlestop.storage.records import Transition

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from whistlestop.storage.postgres.connection import Pool


class _Pool:
    """A pool that lends nothing."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def connection(self) -> AbstractAsyncContextManager[Any]:
        return self

    async def __aenter__(self) -> Any:
        await asyncio.sleep(0)
        raise self._error

    async def __aexit__(self, *_: object) -> None:
        return


@pytest.mark.parametrize("error", [asyncio.CancelledError(), OSError(24, "Too many open files"), MemoryError()])
async def test_no_connection_can_be_had(error: BaseException) -> None:
    writer = TransitionWriter(cast("Pool", _Pool(error)), lanes=1)
    prepared = Prepared(b"", [], Transition((start(),)), locked=False)
    waiting = [asyncio.ensure_future(writer.commit(prepared)) for _ in range(GROUP_LIMIT + 2)]
    done, _ = await asyncio.wait(waiting, timeout=PATIENCE_S)
    assert len(done) == len(waiting), "somebody waits for ever"
    assert all(isinstance(each.exception(), StorageError) for each in waiting)
    await writer.close()
