"""Metrics and traces of the functions: what is written when they are on, and that nothing is when they are off."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from whistlestop.common.clock import FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.proto import internal_pb2
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.functions.instrumented_store import instrumented
from whistlestop.functions.metrics import FunctionMetrics, metrics_of
from whistlestop.functions.settings import FunctionSettings
from whistlestop.functions.traces import traces_of
from whistlestop.history.timers.aws_wake_ups import lateness_ms
from whistlestop.storage.errors import VersionConflict
from whistlestop.storage.records import ExecutionKey, Transition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from whistlestop.common.rpcs.rpc import Rpc

SAMPLED = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


class _Store:
    """As much of a store as is watched here."""

    notifications = None

    def __init__(self, *, conflict: bool = False) -> None:
        self.committed: list[Transition] = []
        self.conflict = conflict

    async def commit(self, transition: Transition) -> None:
        if self.conflict:
            raise VersionConflict(ExecutionKey("ns", "w", "r"))
        self.committed.append(transition)

    def describe(self) -> str:
        return "store"


def test_one_line_for_each_call(capsys: pytest.CaptureFixture[str]) -> None:
    """In CloudWatch's embedded format, with the function as its only dimension."""
    counts = FunctionMetrics("history")
    counts.transition()
    counts.transition()
    counts.conflict("version")
    counts.tasks_added(2, 3)
    counts.request("any", "UNAVAILABLE", 0.25)
    counts.count("TimersFired", 0)
    counts.flush()
    (line,) = capsys.readouterr().out.splitlines()
    written: dict[str, Any] = json.loads(line)
    (said,) = written.pop("_aws")["CloudWatchMetrics"]
    assert said["Namespace"] == "Whistlestop"
    assert said["Dimensions"] == [["service"]]
    units = {each["Name"]: each["Unit"] for each in said["Metrics"]}
    assert units == {
        "Transitions": "Count", "VersionConflicts": "Count", "ActivityTasksAdded": "Count", "Requests": "Count",
        "RequestsFailed": "Count", "RequestTime": "Milliseconds",
    }  # fmt: skip
    assert written == {
        "service": "history", "Transitions": [2.0], "VersionConflicts": [1.0], "ActivityTasksAdded": [3.0],
        "Requests": [1.0], "RequestsFailed": [1.0], "RequestTime": [250.0],
    }  # fmt: skip
    counts.flush()
    assert capsys.readouterr().out == ""


def test_totals_are_counted_by_their_growth(capsys: pytest.CaptureFixture[str]) -> None:
    counts = FunctionMetrics("matching")
    for empty in (2, 5):
        counts.count_growth("polls", {"empty": empty}, {"empty": "PollsEmpty"})
        counts.flush()
    assert [json.loads(line)["PollsEmpty"] for line in capsys.readouterr().out.splitlines()] == [[2.0], [3.0]]


def test_the_wrapper_is_off_by_default() -> None:
    clock = FakeClock()
    assert metrics_of("history", FunctionSettings()) is None
    assert traces_of(clock, FunctionSettings(), {"AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:1"}) is None
    assert traces_of(clock, FunctionSettings(tracing="Active"), {}) is None
    store: Any = _Store()
    assert instrumented(store, None, None) is store


async def test_commits_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A conflict is raised all the same; what is set goes to the store itself."""
    inner: Any = _Store()
    counts = FunctionMetrics("history")
    store: Any = instrumented(inner, counts, None)
    await store.commit(Transition(()))
    inner.conflict = True
    with pytest.raises(VersionConflict):
        await store.commit(Transition(()))
    store.notifications = "somebody"
    assert (inner.notifications, store.describe(), len(inner.committed)) == ("somebody", "store", 1)
    counts.flush()
    written = json.loads(capsys.readouterr().out)
    assert (written["Transitions"], written["VersionConflicts"]) == ([1.0], [1.0])


@pytest.fixture
def daemon() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(5)
        yield listening


class _Other:
    async def call(self, rpc: Rpc[Any, Any], request: Message, context: CallContext) -> Message:
        if rpc is HistoryService.ResetStickyTask:
            raise RuntimeError("broken")
        return request


async def test_subsegments(daemon: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the function's own segment, at once and side by side."""
    clock = FakeClock(start_ns=1_500_000_000_250_000_000)
    address = f"tcp:127.0.0.1:9 udp:127.0.0.1:{daemon.getsockname()[1]}"
    traces = traces_of(clock, FunctionSettings(tracing="Active"), {"AWS_XRAY_DAEMON_ADDRESS": address})
    assert traces is not None
    monkeypatch.setenv("_X_AMZN_TRACE_ID", SAMPLED)
    inner: Any = _Store()
    store, other = instrumented(inner, None, traces), traces.client(_Other(), "matching")
    await asyncio.gather(
        store.commit(Transition(())),
        other.call(HistoryService.FireTimers, internal_pb2.FireTimersRequest(), CallContext()),
    )
    with pytest.raises(RuntimeError):
        await other.call(HistoryService.ResetStickyTask, internal_pb2.ResetStickyTaskRequest(), CallContext())
    monkeypatch.setenv("_X_AMZN_TRACE_ID", SAMPLED.replace("Sampled=1", "Sampled=0"))
    await store.commit(Transition(()))
    traces.close()
    sent = []
    for _ in range(3):
        header, _, document = daemon.recv(65536).partition(b"\n")
        assert json.loads(header) == {"format": "json", "version": 1}
        sent.append(json.loads(document))
    assert {each.pop("id") for each in sent} != {""}
    at = {"start_time": 1500000000.25, "end_time": 1500000000.25, "type": "subsegment"}
    place = {"trace_id": "1-5759e988-bd862e3fe1be46a994272793", "parent_id": "53995c3f42cd8ad8"}
    assert sorted(sent, key=str) == sorted(
        [
            {"name": "storage.commit", **place, **at},
            {"name": "matching", **place, **at, "namespace": "remote", "annotations": {"method": "FireTimers"}},
            {
                "name": "matching",
                **place,
                **at,
                "fault": True,
                "namespace": "remote",
                "annotations": {"method": "ResetStickyTask"},
            },
        ],
        key=str,
    )
    daemon.setblocking(False)
    with pytest.raises(BlockingIOError):
        daemon.recv(1)


def test_lateness_of_a_wake_up() -> None:
    """By what its message was armed for; a schedule that comes early is not late."""
    body = '{"wake": "timers", "due": "2026-01-01T00:00:00.500+00:00"}'
    due_ns = 1_767_225_600_500_000_000
    assert lateness_ms({"Records": [{"body": body}, {"body": "?"}]}, due_ns + 2_000_000_000) == [2000.0]
    assert lateness_ms({"Records": [{"body": body}]}, due_ns - 5) == [0.0]
    assert lateness_ms({"wake": "sweep"}, due_ns) == []
