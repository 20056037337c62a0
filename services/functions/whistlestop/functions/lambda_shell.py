"""Code shared by the three Lambda handlers: events, one event loop per instance, logs through Powertools.

Modules that not every invocation needs are imported where they are used, to keep cold starts short.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

from whistlestop.common.log_text import escaped
from whistlestop.functions import http_events
from whistlestop.net.internal.transports import LambdaClient, invoke_envelope

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from whistlestop.common.clients import ServiceClient
    from whistlestop.common.clock import Clock

T = TypeVar("T")
Event = dict[str, Any]

_loops: list[asyncio.AbstractEventLoop] = []


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the instance's event loop.

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


async def serve_event(service: ServiceClient, event: Event, clock: Clock, latest_ns: int | None = None) -> Event:
    """Serve an event of a function that only other functions call, and return its reply.

    The event is an envelope, invoked directly or posted to a Function URL. `latest_ns` limits the caller's own
    deadline.
    """
    if not http_events.is_http(event):
        return await invoke_envelope(service, event, clock, latest_ns=latest_ns)
    try:
        envelope = json.loads(http_events.body_of(event))
    except (ValueError, RecursionError):
        envelope = {}
    answer = await invoke_envelope(service, envelope if isinstance(envelope, dict) else {}, clock, latest_ns=latest_ns)
    return http_events.answer_to(event, 200, {"content-type": "application/json"}, json.dumps(answer).encode())


def other_function(function: str, url: str, clock: Clock) -> ServiceClient:
    """Return a client of another function: by `function`, a name or ARN to invoke; if that is empty, by its URL."""
    if function:
        return LambdaClient(function, clock)
    from whistlestop.net.internal.http_client import HttpClient

    return HttpClient(url, clock)


def instance_name() -> str:
    """Return a name that is unique to this instance: on Lambda its log stream, elsewhere a random one."""
    return os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME") or uuid.uuid4().hex


def latest_ns(context: Any, clock: Clock, margin_ms: int = 1_000) -> int | None:
    """Return the latest time (steady clock) at which to reply before Lambda ends the function; None outside Lambda."""
    left = getattr(context, "get_remaining_time_in_millis", None)
    return None if left is None else clock.steady_ns() + max(left() - margin_ms, 0) * 1_000_000


class _PowertoolsHandler(logging.Handler):
    """Writes log records as Powertools' JSON.

    Powertools is imported with the first record, since most invocations log none.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def emit(self, record: logging.LogRecord) -> None:
        if self.formatter is None:
            from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

            self.setFormatter(LambdaPowertoolsFormatter(service=self._service))
        sys.stdout.write(escaped(self.format(record)) + "\n")


def log_through_powertools(service: str, level: str = "INFO") -> None:
    """Send all log records of this process through Powertools' formatter."""
    logging.basicConfig(level=level, handlers=[_PowertoolsHandler(service)], force=True)
