"""The metrics of a process in Prometheus' text format; imported with the first scrape."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from whistlestop.server.metrics.prometheus import BUCKETS, TASK_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

    from whistlestop.server.metrics.prometheus import PrometheusMetrics


def text_of(metrics: PrometheusMetrics) -> Callable[[], bytes]:
    """Return a function that renders the current values of `metrics` and of the process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(metrics))
    return lambda: generate_latest(registry)


class _Collector:
    def __init__(self, metrics: PrometheusMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        requests = CounterMetricFamily("whistlestop_requests", "RPCs by name and gRPC status", labels=("rpc", "code"))
        for (rpc, code), count in metrics.requests.items():
            requests.add_metric((rpc, code), count)
        yield requests
        yield self._durations()
        yield CounterMetricFamily("whistlestop_transitions", "Committed transitions of runs", metrics.transitions)
        yield _counter("whistlestop_conflicts", "Commits that lost against another writer", "kind", metrics.conflicts)
        yield _counter("whistlestop_tasks", "Tasks written to task queues", "task_type", _by_name(metrics.tasks))
        backlog = _by_name(metrics.backlog)
        yield _gauge("whistlestop_backlog_tasks", "Tasks that wait in task queues, by kind", "task_type", backlog)
        yield _counter(
            "whistlestop_rows_failed", "Stored rows that could not be processed", "table", metrics.failed_rows
        )
        yield _gauge(
            "whistlestop_rows_set_aside", "Stored rows that are set aside now", "table", metrics.rows_set_aside
        )
        if metrics.polls is not None:
            ended, waiting = metrics.polls
            yield _counter("whistlestop_polls", "Polls by how they ended", "outcome", ended())
            yield GaugeMetricFamily("whistlestop_polls_waiting", "Polls that wait for a task now", value=waiting())
        if metrics.loops is not None:
            yield _counter(
                "whistlestop_loop_failures", "Turns of background loops that failed, and were tried again", "loop",
                metrics.loops(),
            )  # fmt: skip

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "whistlestop_request_seconds", "How long RPCs took; polls wait on purpose", labels=("rpc",)
        )
        bounds = [*map(floatToGoString, BUCKETS), "+Inf"]
        for rpc, durations in self._metrics.seconds.items():
            buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
            family.add_metric((rpc,), buckets, durations.sum_s)
        return family


def _by_name(counts: Mapping[int, int]) -> dict[str, int]:
    return {TASK_TYPES[number]: count for number, count in counts.items()}


def _counter(name: str, about: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, about, labels=(label,))
    for each, count in counts.items():
        family.add_metric((each,), count)
    return family


def _gauge(name: str, about: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=(label,))
    for each, count in counts.items():
        family.add_metric((each,), count)
    return family
