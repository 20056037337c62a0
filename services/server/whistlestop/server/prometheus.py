"""`/metrics` for Prometheus: the numbers, and the ASGI application that shows them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from whistlestop.frontend.doors.answer import HttpAnswer
from whistlestop.frontend.doors.asgi import PEER, headers_of, local_ip_of, send_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from prometheus_client import Metric

    from whistlestop.frontend.doors.asgi import App, Receive, Send
    from whistlestop.frontend.doors.browsers import BrowserRules

TASK_TYPES = {1: "workflow", 2: "activity", 3: "nexus"}
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TEXT = {"content-type": "text/plain; charset=utf-8"}


class PrometheusMetrics:
    """See whistlestop.common.metrics.Metrics. Children are looked up once per label set, then only added to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "whistlestop_requests", "RPCs by name and gRPC status", ("rpc", "code"), registry=self.registry
        )
        self._seconds = Histogram(
            "whistlestop_request_seconds",
            "How long RPCs took; polls wait on purpose",
            ("rpc",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._transitions = Counter("whistlestop_transitions", "Committed transitions of runs", registry=self.registry)
        self._conflicts = Counter(
            "whistlestop_conflicts", "Commits that lost against another writer", ("kind",), registry=self.registry
        )
        self._tasks = Counter(
            "whistlestop_tasks", "Tasks written to task queues", ("task_type",), registry=self.registry
        )
        self._backlog = Gauge(
            "whistlestop_backlog_tasks",
            "Tasks that wait in task queues, by kind",
            ("task_type",),
            registry=self.registry,
        )
        self._failed_rows = Counter(
            "whistlestop_rows_failed", "Stored rows that could not be processed", ("table",), registry=self.registry
        )
        self._aside = Gauge(
            "whistlestop_rows_set_aside", "Stored rows that are set aside now", ("table",), registry=self.registry
        )
        self._by_request: dict[tuple[str, str], Counter] = {}
        self._by_rpc: dict[str, Histogram] = {}
        self._by_type = {number: self._tasks.labels(name) for number, name in TASK_TYPES.items()}

    def request(self, rpc: str, code: str, seconds: float) -> None:
        counter = self._by_request.get((rpc, code))
        if counter is None:
            counter = self._by_request[rpc, code] = self._requests.labels(rpc, code)
        counter.inc()
        histogram = self._by_rpc.get(rpc)
        if histogram is None:
            histogram = self._by_rpc[rpc] = self._seconds.labels(rpc)
        histogram.observe(seconds)

    def transition(self) -> None:
        self._transitions.inc()

    def conflict(self, kind: str) -> None:
        self._conflicts.labels(kind).inc()

    def tasks_added(self, task_type: int, count: int) -> None:
        counter = self._by_type.get(task_type)
        if counter is not None:
            counter.inc(count)

    def set_backlog(self, counts: dict[int, int]) -> None:
        """Tasks that wait, by Temporal's TaskQueueType."""
        for number, name in TASK_TYPES.items():
            self._backlog.labels(name).set(counts.get(number, 0))

    def row_failed(self, table: str) -> None:
        """A row could not be processed."""
        self._failed_rows.labels(table).inc()

    def set_aside(self, counts: dict[str, int]) -> None:
        """Rows that are set aside, by table."""
        self._aside.clear()
        self._aside.labels("timer_tasks").set(0)
        for table, count in counts.items():
            self._aside.labels(table).set(count)

    def watch_polls(self, read: Callable[[], dict[str, int]], waiting: Callable[[], int]) -> None:
        """Read how polls ended, and how many wait, whenever somebody looks."""
        self.registry.register(_Polls(read, waiting))

    def watch_loops(self, read: Callable[[], dict[str, int]]) -> None:
        """Read how many turns of each background loop have failed, whenever somebody looks."""
        self.registry.register(_Loops(read))

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)


class _Polls:
    def __init__(self, read: Callable[[], dict[str, int]], waiting: Callable[[], int]) -> None:
        self._read = read
        self._waiting = waiting

    def collect(self) -> Iterator[Metric]:
        ended = CounterMetricFamily("whistlestop_polls", "Polls by how they ended", labels=("outcome",))
        for outcome, count in self._read().items():
            ended.add_metric((outcome,), count)
        yield ended
        yield GaugeMetricFamily("whistlestop_polls_waiting", "Polls that wait for a task now", value=self._waiting())


class _Loops:
    def __init__(self, read: Callable[[], dict[str, int]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        failed = CounterMetricFamily(
            "whistlestop_loop_failures", "Turns of background loops that failed, and were tried again", labels=("loop",)
        )
        for name, count in self._read().items():
            failed.add_metric((name,), count)
        yield failed


def metrics_app(metrics: PrometheusMetrics, refresh: Callable[[], Awaitable[None]], browsers: BrowserRules) -> App:
    """The ASGI application that answers `GET /metrics`, and nobody who calls is asked for."""

    async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        peer = scope.get("state", {}).get(PEER)
        began_s = time.thread_time()
        refused = browsers.refusal(headers_of(scope["headers"]), local_ip_of(scope))
        if refused is not None:
            answer = HttpAnswer(403, f"{refused.message}\n".encode(), dict(_TEXT))
        elif scope["method"] not in {"GET", "HEAD"} or scope["path"] != "/metrics":
            answer = HttpAnswer(404, b"metrics are at /metrics\n", dict(_TEXT))
        else:
            await refresh()
            began_s = time.thread_time()
            answer = HttpAnswer(200, metrics.render(), {"content-type": CONTENT_TYPE_LATEST})
        if peer is not None:
            peer.spend_cpu(time.thread_time() - began_s)
        await send_answer(send, answer)

    return app
