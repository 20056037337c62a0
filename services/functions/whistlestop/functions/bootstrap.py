"""The start of the three functions on Lambda: an instance is built by the first call, and kept for the following ones.

Modules that not every invocation needs are imported where they are used, to keep cold starts short.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import uuid
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from whistlestop.common.clock import FunctionClock
from whistlestop.common.log_text import escaped
from whistlestop.functions import http_events
from whistlestop.functions.instrumented_store import instrumented
from whistlestop.functions.metrics import metrics_of
from whistlestop.functions.settings import FunctionSettings, read
from whistlestop.functions.stores import store_of
from whistlestop.functions.traces import traces_of
from whistlestop.net.internal.transports import LambdaClient, invoke_envelope
from whistlestop.storage.membership_heartbeat import MembershipHeartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from whistlestop.common.clock import Clock
    from whistlestop.common.rpcs.rpc import Channel, Server
    from whistlestop.functions.metrics import FunctionMetrics
    from whistlestop.functions.traces import Traces
    from whistlestop.storage.interface import Store

T = TypeVar("T")
SettingsT = TypeVar("SettingsT", bound=FunctionSettings)
InstanceT = TypeVar("InstanceT", bound="Instance")
Event = dict[str, Any]

_loops: list[asyncio.AbstractEventLoop] = []


class Invocation(NamedTuple):
    """When a call began, and the latest time at which to reply to it, by the steady clock; None outside Lambda."""

    began_ns: int
    latest_ns: int | None


class Instance(Protocol):
    """The objects with which an instance of a function serves its calls."""

    async def serve(self, event: Event, invocation: Invocation) -> Event:
        """Serve an event, finish what it caused, and return the reply."""
        ...


class Environment(Generic[SettingsT]):
    """What every instance is built from. `metrics` and `traces` are None when they are off."""

    def __init__(
        self,
        settings: SettingsT,
        clock: FunctionClock,
        store: Store,
        heartbeat: MembershipHeartbeat,
        metrics: FunctionMetrics | None,
        traces: Traces | None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.store = store
        self.heartbeat = heartbeat
        """Renews the row by which other processes and functions know of this instance."""
        self.metrics = metrics
        self._traces = traces

    def client(self, service: str, function: str, url: str) -> Channel:
        """Return a channel to another function: by `function`, its name or ARN; if that is empty, by its URL."""
        client = _client(function, url, self.clock)
        return client if self._traces is None else self._traces.client(client, service)


class Function(Generic[SettingsT, InstanceT]):
    """A function. `build` makes its instance from the settings in the environment variables."""

    def __init__(
        self, name: str, settings: type[SettingsT], build: Callable[[Environment[SettingsT]], InstanceT]
    ) -> None:
        self._name = name
        self._settings = settings
        self._build = build
        self.clock = FunctionClock()
        self.instance: InstanceT | None = None
        """None before the first call."""

    def handle(self, event: Event, context: Any) -> Event:
        """Serve a call, as Lambda makes it. Raise what the handler of the event raises."""
        self.clock.resume()
        return run(self._serve(event, context))

    async def _serve(self, event: Event, context: Any) -> Event:
        began_ns = self.clock.steady_ns()
        if self.instance is None:
            self.instance = self._build(await self._environment())
        return await self.instance.serve(event, Invocation(began_ns, latest_ns(context, self.clock)))

    async def _environment(self) -> Environment[SettingsT]:
        settings = read(self._settings)
        log_through_powertools(self._name, settings.log_level)
        metrics, traces = metrics_of(self._name, settings), traces_of(self.clock, settings)
        store = instrumented(store_of(settings), metrics, traces)
        await store.open()
        heartbeat = MembershipHeartbeat(store, self.clock, _instance_name(), self._name)
        return Environment(settings, self.clock, store, heartbeat, metrics, traces)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the instance's event loop; return its result, or raise its exception.

    The loop is kept between invocations, and with it the store's connections.
    """
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0].run_until_complete(work)


def is_call(event: Mapping[str, Any]) -> bool:
    """Return whether the event is a call from another function; any other event is a wake-up.

    Wake-ups come from schedules and from queues.
    """
    return "method" in event or http_events.is_http(event)


async def serve_event(service: Server, event: Event, clock: Clock, latest_ns: int | None = None) -> Event:
    """Serve an event of a function that only other functions call, and return its reply.

    The event is an envelope, invoked directly or posted to a Function URL. `latest_ns` limits the caller's own
    deadline. A ServiceError is in the reply; any other exception is raised.
    """
    if not http_events.is_http(event):
        return await invoke_envelope(service, event, clock, latest_ns=latest_ns)
    try:
        envelope = json.loads(http_events.body_of(event))
    except (ValueError, RecursionError):
        envelope = {}
    answer = await invoke_envelope(service, envelope if isinstance(envelope, dict) else {}, clock, latest_ns=latest_ns)
    return http_events.answer_to(event, 200, {"content-type": "application/json"}, json.dumps(answer).encode())


def latest_ns(context: Any, clock: Clock, margin_ms: int = 1_000) -> int | None:
    """Return the latest time (steady clock) at which to reply before Lambda ends the function; None outside Lambda."""
    left = getattr(context, "get_remaining_time_in_millis", None)
    return None if left is None else clock.steady_ns() + max(left() - margin_ms, 0) * 1_000_000


def _client(function: str, url: str, clock: Clock) -> Channel:
    if function:
        return LambdaClient(function, clock)
    from whistlestop.net.internal.http_client import HttpClient

    return HttpClient(url, clock)


def _instance_name() -> str:
    """Return a name that is unique to this instance: on Lambda its log stream, elsewhere a random one."""
    return os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME") or uuid.uuid4().hex


class PowertoolsHandler(logging.Handler):
    """Writes log records as Powertools' JSON.

    Powertools is imported with the first record, since most invocations log none.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record to Powertools' formatter and write the result. Never raises."""
        if self.formatter is None:
            from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

            self.setFormatter(LambdaPowertoolsFormatter(service=self._service))
        sys.stdout.write(escaped(self.format(record)) + "\n")


def log_through_powertools(service: str, level: str = "INFO") -> None:
    """Send all log records of this process through Powertools' formatter."""
    logging.basicConfig(level=level, handlers=[PowertoolsHandler(service)], force=True)
