"""`/metrics` for Prometheus: the numbers, and the small HTTP door that shows them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from prometheus_client import Metric

TASK_TYPES = {1: "workflow", 2: "activity", 3: "nexus"}
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_HEADER_LIMIT = 64 * 1024


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

    def watch_polls(self, read: Callable[[], dict[str, int]], waiting: Callable[[], int]) -> None:
        """Read how polls ended, and how many wait, whenever somebody looks."""
        self.registry.register(_Polls(read, waiting))

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


class MetricsDoor:
    """Answers `GET /metrics`, one request a connection: a scrape every few seconds needs no more."""

    def __init__(self, metrics: PrometheusMetrics, refresh: Callable[[], Awaitable[None]]) -> None:
        self._metrics = metrics
        self._refresh = refresh
        self._server: asyncio.Server | None = None

    async def start(self, ip: str, port: int) -> int:
        """Listen; the bound port. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, ip, port, limit=_HEADER_LIMIT, reuse_address=True)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Let go of the port."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            writer.write(await self._answer(head.split(b"\r\n", 1)[0]))
            await writer.drain()
        writer.close()

    async def _answer(self, request_line: bytes) -> bytes:
        parts = request_line.split(b" ")
        path = parts[1].split(b"?", 1)[0] if len(parts) > 1 else b""
        if parts[0] not in (b"GET", b"HEAD") or path != b"/metrics":
            return _response("404 Not Found", "text/plain; charset=utf-8", b"metrics are at /metrics\n", b"GET")
        await self._refresh()
        return _response("200 OK", CONTENT_TYPE_LATEST, self._metrics.render(), parts[0])


def _response(status: str, content_type: str, body: bytes, method: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else body)
