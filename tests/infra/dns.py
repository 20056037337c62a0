"""Stands in for the DNS that Function URLs need: an endpoint on loopback that knows one of them."""

from __future__ import annotations

import http.client
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

_CALL_S = PATIENCE_S
_OF_THE_CONNECTION = {"host", "connection", "transfer-encoding", "content-length", "keep-alive"}


@contextmanager
def door_to(endpoint: str, port: int) -> Iterator[str]:
    """The address of an endpoint whose calls reach `endpoint`, served by whoever listens on `port`, under its own name."""
    host = urlsplit(endpoint).netloc

    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return None

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_THE_CONNECTION}
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_CALL_S)
            try:
                connection.request(self.command, self.path, body, {**headers, "Host": host})
                response = connection.getresponse()
                answer = response.read()
            finally:
                connection.close()
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _OF_THE_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = _pass  # noqa: N815 - the base class looks for these names

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A caller that went away is none of ours."""

    with Server(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
