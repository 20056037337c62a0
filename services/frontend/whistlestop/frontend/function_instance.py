"""An instance of the frontend function: HTTP events in (see `functions.http_events`), HTTP answers out.

It is configured by FrontendSettings (`functions.settings`): where the database and the other two functions are, and
who may call. Without the latter, every call is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.ids import RandomIds
from whistlestop.frontend.auth.config import of_function
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.endpoints.http import HttpApi
from whistlestop.frontend.service import Frontend
from whistlestop.functions import http_events
from whistlestop.net.http.answer import HttpAnswer, HttpRequest

if TYPE_CHECKING:
    from whistlestop.functions.bootstrap import Environment, Invocation
    from whistlestop.functions.settings import FrontendSettings

_FAILED = 500
"""HTTP statuses from here on are server errors."""


class FrontendInstance:
    """The objects with which an instance serves calls."""

    def __init__(self, environment: Environment[FrontendSettings]) -> None:
        settings, clock = environment.settings, environment.clock
        config = FrontendConfig(
            persistence_store="sqlite" if settings.sqlite_path else "postgres", auth=of_function(settings),
            time_skipping_enabled=settings.time_skipping,
        )  # fmt: skip
        if settings.dynamic_config:
            config = _configured(config, settings.dynamic_config)
        history = environment.client("history", settings.history_function, settings.history_url)
        matching = environment.client("matching", settings.matching_function, settings.matching_url)
        self.frontend = Frontend(environment.store, history, matching, clock, RandomIds(), config)
        browsers = None
        if settings.auth_mode == "NONE" and config.auth is None:
            from whistlestop.frontend.endpoints.browsers import BrowserRules

            browsers = BrowserRules()
        self._api = HttpApi(self.frontend, clock, can_long_poll=False, browsers=browsers)
        self._environment = environment

    async def serve(self, event: dict[str, Any], invocation: Invocation) -> dict[str, Any]:
        """Serve an HTTP request, or a scheduled sweep (any other event)."""
        if not http_events.is_http(event):
            # Imported here, because only scheduled invocations need it.
            from whistlestop.frontend.api.namespaces import finish_deletions
            from whistlestop.frontend.batch.worker import work_on_batches

            return {
                "deleted": await finish_deletions(self.frontend.ports),
                "batches": await work_on_batches(self.frontend.ports),
            }
        answer = await answer_event(self._api, event, invocation.latest_ns)
        await self._environment.heartbeat.renew()
        metrics = self._environment.metrics
        if metrics is not None:
            seconds = (self._environment.clock.steady_ns() - invocation.began_ns) / SECOND_NS
            metrics.request("", "OK" if answer.status < _FAILED else str(answer.status), seconds)
            metrics.flush()
        return http_events.answer_to(event, answer.status, answer.headers, answer.body)


async def answer_event(api: HttpApi, event: dict[str, Any], latest_ns: int | None) -> HttpAnswer:
    """Return the answer to an HTTP event. The body is decoded only if the headers are acceptable.

    Errors are in the answer.
    """
    try:
        head = http_events.head_of(event)
        request = HttpRequest(head.method, head.path, head.query, head.headers, path_was_decoded=head.path_was_decoded)
        found = await api.check_headers(request)
        if isinstance(found, HttpAnswer):
            return found
        return await api.serve(replace(request, body=http_events.body_of(event)), found, latest_ns)
    except ValueError as error:
        return HttpAnswer(400, str(error).encode(), {"content-type": "text/plain; charset=utf-8"})


def _configured(config: FrontendConfig, given: str) -> FrontendConfig:
    """Return the configuration with the values of the dynamic one."""
    # Imported where it is needed: a cold start pays for every module.
    from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
    from whistlestop.functions.dynamic import read_document

    return read_document(given, FRONTEND_KEYS).apply(config, FRONTEND_KEYS)
