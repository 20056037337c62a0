"""Destinations that do not answer are left alone for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import common_pb2 as common_enums

from tests.history.test_executions import bench as bench  # noqa: PLC0414 - a fixture
from tests.history.test_nexus_external import Elsewhere
from tests.support.history_ports import replace_ports
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.history.nexus import circuit_breakers
from whistlestop.history.nexus.circuit_breakers import CHECK_AGAIN_NS, MOST_FAILURES, OPEN_NS, CircuitBreakers
from whistlestop.net.outbound import Answer
from whistlestop.storage.records import SLOTS

if TYPE_CHECKING:
    from tests.history.test_executions import Bench

KEY, OTHER = ("namespace", "nexus_start", "endpoint"), ("namespace", "nexus_start", "other")


async def _opened(clock: FakeClock) -> CircuitBreakers:
    breakers = CircuitBreakers(clock)
    for _ in range(MOST_FAILURES):
        breakers.report(KEY, failed=True)
        assert breakers.admit(KEY) == 0
    breakers.report(KEY, failed=True)
    return breakers


async def test_six_failures_in_a_row_open_it_for_a_minute() -> None:
    clock = FakeClock()
    breakers = await _opened(clock)
    assert breakers.is_open(KEY)
    assert breakers.admit(KEY) == clock.now_ns() + OPEN_NS
    assert not breakers.is_open(OTHER)
    assert breakers.admit(OTHER) == 0


async def test_a_success_in_between_starts_the_count_again() -> None:
    breakers = CircuitBreakers(FakeClock())
    for failed in [True] * MOST_FAILURES + [False] + [True] * MOST_FAILURES:
        breakers.report(KEY, failed=failed)
    assert not breakers.is_open(KEY)


async def test_after_a_minute_one_request_is_let_through_and_decides() -> None:
    clock = FakeClock()
    breakers = await _opened(clock)
    await clock.advance(60)
    assert not breakers.is_open(KEY)
    assert breakers.admit(KEY) == 0
    assert breakers.admit(KEY) == clock.now_ns() + CHECK_AGAIN_NS
    breakers.report(KEY, failed=True)
    assert breakers.is_open(KEY)
    await clock.advance(60)
    assert breakers.admit(KEY) == 0
    breakers.report(KEY, failed=False)
    assert breakers.admit(KEY) == breakers.admit(KEY) == 0


async def test_a_request_that_never_ends_does_not_keep_it_open_for_ever() -> None:
    clock = FakeClock()
    breakers = await _opened(clock)
    await clock.advance(60)
    assert breakers.admit(KEY) == 0
    await clock.advance(60)
    assert breakers.admit(KEY) == 0


async def test_the_number_of_breakers_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(circuit_breakers, "MOST_BREAKERS", 3)
    breakers = CircuitBreakers(FakeClock())
    for n in range(10):
        breakers.report(("namespace", "nexus_start", str(n)), failed=True)
    assert len(breakers._breakers) == 3


async def _callback(bench: Bench) -> Any:
    described = await bench.call("DescribeWorkflowExecution", execution={"workflow_id": "wf"})
    return described.callbacks[0]


async def test_a_callback_to_a_host_that_is_down_is_blocked_until_it_answers(bench: Bench) -> None:
    elsewhere = Elsewhere()
    replace_ports(bench.history, outbound=elsewhere)
    callback = {"nexus": {"url": "http://elsewhere.example/x"}}
    await bench.start(completion_callbacks=[callback])
    await bench.call("TerminateWorkflowExecution", workflow_execution={"workflow_id": "wf"})
    await bench.history.transfers.drain()
    while len(elsewhere.headers) <= MOST_FAILURES:
        (row,) = await bench.store.scan_transfer_tasks(0, SLOTS, bench.clock.now_ns() + 3600 * SECOND_NS, 10)
        await bench.clock.advance((row.visible_at_ns - bench.clock.now_ns()) / SECOND_NS)
        await bench.history.transfers.sweep_once()
        await bench.history.transfers.drain()
    await bench.start("another", completion_callbacks=[callback])
    await bench.call("TerminateWorkflowExecution", workflow_execution={"workflow_id": "another"})
    await bench.history.transfers.drain()
    assert len(elsewhere.headers) == MOST_FAILURES + 1
    described = await bench.call("DescribeWorkflowExecution", execution={"workflow_id": "another"})
    (shown,) = described.callbacks
    assert shown.state == common_enums.CALLBACK_STATE_BLOCKED
    assert shown.blocked_reason == "The circuit breaker is open."
    elsewhere.answers += [Answer(200, {}, b""), Answer(200, {}, b"")]
    for _ in range(3):
        await bench.clock.advance(61)
        await bench.history.transfers.sweep_once()
        await bench.history.transfers.drain()
    assert (await _callback(bench)).state == common_enums.CALLBACK_STATE_SUCCEEDED
    described = await bench.call("DescribeWorkflowExecution", execution={"workflow_id": "another"})
    assert described.callbacks[0].state == common_enums.CALLBACK_STATE_SUCCEEDED
