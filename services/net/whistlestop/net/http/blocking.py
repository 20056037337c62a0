"""Keep-alive HTTP connections to one server, for callers that may block."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whistlestop.common.clock import SECOND_NS, SystemClock
from whistlestop.net.http.client import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEPT_NS = 15 * SECOND_NS
"""The idle time after which a connection is replaced: the function may have been frozen, and its peer gone."""
_clock = SystemClock()


class Connections:
    """A pool of connections, safe to share between threads: each call has a connection to itself."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._idle: list[tuple[http.client.HTTPConnection, int, int]] = []
        """Idle connections, each with the steady and the wall clock's time since when it is idle."""

    def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """POST a request; retry on a new connection if a kept one turns out to be closed. Raises OSError."""
        kept = self._kept()
        for connection in filter(None, (kept, self._connection())):
            connection.timeout = timeout_s
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            try:
                connection.request("POST", path, body, dict(headers))
                response = connection.getresponse()
                content = response.read()
            except TimeoutError:
                connection.close()
                raise
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if connection is kept:
                    continue  # it was probably closed while idle; callers send only what is safe to send twice
                raise error if isinstance(error, OSError) else ConnectionError(repr(error)) from error
            if not response.will_close:
                self._idle.append((connection, _clock.steady_ns(), _clock.now_ns()))
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, content)
        raise AssertionError

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop()[0].close()

    def __len__(self) -> int:
        return len(self._idle)

    def _kept(self) -> http.client.HTTPConnection | None:
        while self._idle:
            connection, steady_ns, wall_ns = self._idle.pop()
            # The steady clock may stop while an instance is frozen.
            if max(_clock.steady_ns() - steady_ns, _clock.now_ns() - wall_ns) < KEPT_NS:
                return connection
            connection.close()
        return None

    def _connection(self) -> http.client.HTTPConnection:
        kind: Callable[..., http.client.HTTPConnection] = (
            http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        )
        return kind(self._host, self._port)
