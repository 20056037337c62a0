"""The frontend as a Lambda function: HTTP events in (see `functions.http_events`), HTTP answers out.

It is configured by FrontendSettings (`functions.settings`): where the database and the other two functions are,
and who may call. Without the latter, every call is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from whistlestop.common.clock import SECOND_NS, FunctionClock
from whistlestop.common.ids import RandomIds
from whistlestop.frontend.auth.config import of_function
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.doors.http import HttpApi
from whistlestop.frontend.service import Frontend
from whistlestop.functions import http_events, lambda_shell
from whistlestop.functions.counts import counts_of
from whistlestop.functions.database import database_password, database_url
from whistlestop.functions.settings import FrontendSettings, read
from whistlestop.functions.traces import traces_of
from whistlestop.functions.watched import watched
from whistlestop.net.http.answer import HttpAnswer, HttpRequest
from whistlestop.storage.presence import Presence

if TYPE_CHECKING:
    from whistlestop.functions.counts import Counts
    from whistlestop.storage.interface import Store

_clock = FunctionClock()
_instances: list[tuple[Frontend, HttpApi, Presence, Counts | None]] = []
_FAILED = 500
"""HTTP statuses from here on are server errors."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Serve an HTTP request, or a scheduled sweep (any other event)."""
    _clock.resume()
    return lambda_shell.run(_serve(event, context))


async def _serve(event: dict[str, Any], context: Any) -> dict[str, Any]:
    began_ns = _clock.steady_ns()
    frontend, api, presence, counts = await _instance()
    if not http_events.is_http(event):
        # Imported here, because only scheduled invocations need it.
        from whistlestop.frontend.api.namespaces import finish_deletions
        from whistlestop.frontend.batch.worker import work_on_batches

        return {"deleted": await finish_deletions(frontend), "batches": await work_on_batches(frontend)}
    answer = await _answer(api, event, lambda_shell.latest_ns(context, _clock))
    await presence.note()
    if counts is not None:
        seconds = (_clock.steady_ns() - began_ns) / SECOND_NS
        counts.request("", "OK" if answer.status < _FAILED else str(answer.status), seconds)
        counts.flush()
    return http_events.answer_to(event, answer.status, answer.headers, answer.body)


async def _answer(api: HttpApi, event: dict[str, Any], latest_ns: int | None) -> HttpAnswer:
    """Return the answer to an HTTP event. The body is decoded only if the headers are acceptable."""
    try:
        head = http_events.head_of(event)
        request = HttpRequest(head.method, head.path, head.query, head.headers, path_was_decoded=head.path_was_decoded)
        found = await api.look(request)
        if isinstance(found, HttpAnswer):
            return found
        return await api.serve(replace(request, body=http_events.body_of(event)), found, latest_ns)
    except ValueError as error:
        return HttpAnswer(400, str(error).encode(), {"content-type": "text/plain; charset=utf-8"})


async def _instance() -> tuple[Frontend, HttpApi, Presence, Counts | None]:
    """Return the objects of this instance, which are made at the first call and kept."""
    if not _instances:
        settings = read(FrontendSettings)
        lambda_shell.log_through_powertools("frontend", settings.log_level)
        counts, traces = counts_of("frontend", settings), traces_of(_clock, settings)
        store = watched(_store(settings), counts, traces)
        await store.open()
        kind = "sqlite" if settings.sqlite_path else "postgres"
        config = FrontendConfig(
            persistence_store=kind, auth=of_function(settings), time_skipping_enabled=settings.time_skipping
        )
        if settings.dynamic_config:
            config = _configured(config, settings.dynamic_config)
        history = lambda_shell.other_function(settings.history_function, settings.history_url, _clock)
        matching = lambda_shell.other_function(settings.matching_function, settings.matching_url, _clock)
        if traces is not None:
            history, matching = traces.client(history, "history"), traces.client(matching, "matching")
        frontend = Frontend(store, history, matching, _clock, RandomIds(), config)
        presence = Presence(store, _clock, lambda_shell.instance_name(), "frontend")
        browsers = None
        if settings.auth_mode == "NONE" and config.auth is None:
            from whistlestop.frontend.doors.browsers import BrowserRules

            browsers = BrowserRules()
        api = HttpApi(frontend, _clock, can_hold=False, browsers=browsers)
        _instances.append((frontend, api, presence, counts))
    return _instances[0]


def _configured(config: FrontendConfig, given: str) -> FrontendConfig:
    """Return the configuration with the values of the dynamic one."""
    # Imported where it is needed: a cold start pays for every module.
    from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
    from whistlestop.functions.dynamic import read_document

    return read_document(given, FRONTEND_KEYS).apply(config, FRONTEND_KEYS)


def _store(settings: FrontendSettings) -> Store:
    url = database_url(settings)
    if url:
        from whistlestop.storage.postgres.store import PostgresStore

        return PostgresStore(url, pool_size=1, prepare=False, password=database_password(settings, url))
    from whistlestop.storage.sqlite.store import SqliteStore

    return SqliteStore(settings.sqlite_path)
