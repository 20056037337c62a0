"""The ASGI application that serves `/metrics` for Prometheus."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from whistlestop.net.http.answer import HttpAnswer
from whistlestop.net.http.asgi import PEER, headers_of, local_ip_of, send_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from whistlestop.frontend.endpoints.browsers import BrowserRules
    from whistlestop.net.http.asgi import App, Receive, Send
    from whistlestop.server.metrics.prometheus import PrometheusMetrics

_TEXT = {"content-type": "text/plain; charset=utf-8"}


def metrics_app(metrics: PrometheusMetrics, refresh: Callable[[], Awaitable[None]], browsers: BrowserRules) -> App:
    """Return the ASGI application that serves `GET /metrics`, without authentication."""
    text_of: Callable[[], bytes] | None = None

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
            nonlocal text_of
            if text_of is None:
                from whistlestop.server.metrics import exposition

                text_of = exposition.text_of(metrics)
            from prometheus_client import CONTENT_TYPE_LATEST

            answer = HttpAnswer(200, text_of(), {"content-type": CONTENT_TYPE_LATEST})
        if peer is not None:
            peer.spend_cpu(time.thread_time() - began_s)
        await send_answer(send, answer)

    return app
