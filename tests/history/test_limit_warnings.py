"""What is near its limit is said to the operator, once it is committed and not too often."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tests.history.test_executions import Bench
from whistlestop.common.clock import FakeClock
from whistlestop.common.timing.throttle import ThrottledWarnings
from whistlestop.history.core.limits import Limits
from whistlestop.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    import pytest


async def _warnings(caplog: pytest.LogCaptureFixture, limits: Limits) -> list[str]:
    """What is said of a workflow that gets two signals of 1 KiB."""
    store = SqliteStore(":memory:")
    await store.open()
    await store.migrate()
    bench = Bench(store, limits)
    await bench.start()
    caplog.clear()
    for name in ("one", "two"):
        await bench.call(
            "SignalWorkflowExecution",
            workflow_execution={"workflow_id": "wf"},
            signal_name=name,
            input={"payloads": [{"data": b"x" * 1024}]},
        )
    await store.close()
    return [message.partition(": ")[2] for message in caplog.messages]


async def test_no_warning_below_the_limits(caplog: pytest.LogCaptureFixture) -> None:
    assert await _warnings(caplog, Limits()) == []


async def test_a_large_signal_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert (
        await _warnings(caplog, Limits(blob_size_warn=1000)) == ["a signal of 1030 bytes is over the warning limit"] * 2
    )


async def test_a_history_of_many_events_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert await _warnings(caplog, Limits(history_count_warn=2)) == ["3 events are over the warning limit of 2"]


async def test_a_history_of_many_bytes_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    said = await _warnings(caplog, Limits(history_size_warn=1000))
    assert [text.partition(" ")[2] for text in said] == ["bytes of history are over the warning limit of 1000"]


def test_warnings_are_throttled(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    warn = ThrottledWarnings(logging.getLogger("throttled"), clock, per_s=2)
    for number in range(4):
        warn("number %d", number)
    assert caplog.messages == ["number 0", "number 1"]


async def test_the_next_second_has_warnings_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    warn = ThrottledWarnings(logging.getLogger("throttled"), clock, per_s=1)
    warn("first")
    await clock.advance(1)
    warn("second")
    assert caplog.messages == ["first", "second"]
