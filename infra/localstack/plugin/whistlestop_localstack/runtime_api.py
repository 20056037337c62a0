"""The Runtime API (2018-06-01) of an execution environment: the HTTP requests of the runtime's process.

The process asks for work with GET invocation/next, which waits; it answers with POST invocation/<id>/response (or
/error), or init/error when the handler could not be imported. Everything that it sends is put into one queue, in
order.
"""

from __future__ import annotations

import base64
import queue
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_PREFIX = "/2018-06-01/runtime/"
Job = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ready:
    """The process has imported the handler and asks for work."""


@dataclass(frozen=True, slots=True)
class InitFailed:
    """The handler could not be imported."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an invocation."""

    request_id: str
    payload: bytes
    is_error: bool


@dataclass(frozen=True, slots=True)
class Exited:
    """The process has ended."""

    status: int


Said = Ready | InitFailed | Answer | Exited


class RuntimeApi:
    """Serves one process, on a port of its own on loopback."""

    def __init__(self, deadline_s: Callable[[], float]) -> None:
        """Start to serve.

        `deadline_s` returns the deadline of an invocation that begins now, by the clock that functions see.
        """
        self.said: queue.Queue[Said] = queue.Queue()
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._deadline_s = deadline_s
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def give(self, job: Job) -> None:
        """Give the process an invocation to work on."""
        self._jobs.put(job)

    def close(self) -> None:
        self._jobs.put(None)
        self._server.shutdown()
        self._server.server_close()

    def next_job(self) -> tuple[dict[str, str], bytes] | None:
        """Wait for the next invocation and return its headers and body; None when there will be none."""
        self.said.put(Ready())
        job = self._jobs.get()
        if job is None:
            return None
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": job["invoke-id"],
            "Lambda-Runtime-Invoked-Function-Arn": job["invoked-function-arn"],
            "Lambda-Runtime-Trace-Id": job.get("trace-id") or "",
            "Lambda-Runtime-Deadline-Ms": str(round(self._deadline_s() * 1000)),
        }
        if job.get("client-context"):
            headers["Lambda-Runtime-Client-Context"] = base64.b64decode(job["client-context"]).decode()
        return headers, job["payload"].encode()

    def take(self, what: str, body: bytes) -> None:
        """Take what the process posted to `what`."""
        if what == "init/error":
            self.said.put(InitFailed(body))
            return
        _, request_id, kind = what.split("/")
        self.said.put(Answer(request_id, body, kind == "error"))


def _handler(api: RuntimeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            return None

        def do_GET(self) -> None:
            found = api.next_job()
            if found is None:
                self.close_connection = True
                self._answer(410, {}, b"")
                return
            self._answer(200, *found)

        def do_POST(self) -> None:
            api.take(self.path.removeprefix(_PREFIX), self._body())
            self._answer(202, {"Content-Type": "application/json"}, b'{"status":"OK"}')

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            chunks = []
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    return Handler
