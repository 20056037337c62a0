"""Count the cost of workers that are started on demand: `python benchmarks/functions.py pushed`.

There are two kinds: a Lambda function with the handler that we ship (`pushed_worker.py`, a process for each
invocation), and a webhook that gets an activity in a request and answers with its result, beside a worker that polls
workflow tasks.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.functions.small_lambda import CPU_SHARE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.functions.line import Line

VERSION = {"deployment_name": "counted", "build_id": "1"}
ARN = "arn:aws:lambda:eu-central-1:123456789012:function:worker"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "eu-central-1"}
HOOKED = "hooked"
"""The queue of activities that are sent to the webhook."""
_SECRET = "counted, and no secret"  # noqa: S105 - of a receiver that lives for a minute
WORKER = Path(__file__).with_name("pushed_worker.py")


@dataclass(slots=True)
class Workers:
    """The worker's function: every invocation is a process."""

    queue: str
    timeout_s: float
    max_idle_s: float
    target: str = ""
    started: int = 0
    billed_s: float = 0.0
    """Of all ended workers: waits as they were, and CPU (imports included) divided by the share of a processor."""
    _running: set[threading.Thread] = field(default_factory=set)

    def start(self) -> None:
        self.started += 1
        thread = threading.Thread(target=self._live)
        self._running.add(thread)
        thread.start()

    def _live(self) -> None:
        env = {
            **os.environ, **KEYS, "AWS_REGION": "eu-central-1", "WHISTLESTOP_URL": self.target,
            "DEPLOYMENT_NAME": VERSION["deployment_name"], "BUILD_ID": VERSION["build_id"],
            "TEMPORAL_TASK_QUEUE": self.queue, "TEMPORAL_NAMESPACE": "default", "MAX_IDLE": str(self.max_idle_s),
        }  # fmt: skip
        done = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, str(WORKER), str(self.timeout_s)], env=env, stdout=subprocess.PIPE, text=True, check=True
        )
        used = json.loads(done.stdout.splitlines()[-1])
        waited_s = used["seconds"] - used["cpu_s"]
        self.billed_s += max(waited_s, 0) + (used["cpu_s"] + used["init_cpu_s"]) / CPU_SHARE
        self._running.discard(threading.current_thread())

    async def gone(self) -> None:
        """Wait until no worker is alive."""
        while self._running:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.1)


@contextmanager
def served(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Yield the port of a server with this handler."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        return None

    def _answered(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@asynccontextmanager
async def pushed(line: Line, workers: Workers) -> AsyncIterator[Workers]:
    """Yield workers of a current version whose workers are invocations, none of them alive."""

    class Api(_Quiet):
        def do_POST(self) -> None:
            starts = self.headers["X-Amz-Invocation-Type"] == "Event"
            if starts:
                workers.start()
            self._answered(202 if starts else 204)

    workers.target = line.bridge.config.target
    with served(Api) as port:
        line.cloud.store_env |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", **KEYS}
        await _version(line, {"provider": {"type": "aws-lambda", "details": _json({"arn": ARN})}})
        async with asyncio.timeout(60):
            while len((await _described(line)).version_task_queues) < 2:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.5)
        await line.cloud.call("SetWorkerDeploymentCurrentVersion", deployment_name="counted", build_id="1")
        await workers.gone()
        yield workers
        await workers.gone()


@asynccontextmanager
async def hooked(line: Line) -> AsyncIterator[list[Any]]:
    """Yield the received tasks of a version whose activities are sent to a webhook that does the work."""
    tasks: list[Any] = []

    class Receiver(_Quiet):
        def do_POST(self) -> None:
            task = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["data"]["task"]
            tasks.append(task)
            self._answered(200, json.dumps({"result": task["input"]}).encode())

    with tempfile.TemporaryDirectory() as folder, served(Receiver, _certificate(Path(folder))) as port:
        line.cloud.store_env |= {"SSL_CERT_FILE": str(Path(folder, "cert.pem"))}
        details = {
            "url": f"https://127.0.0.1:{port}/", "secret": _SECRET, "mode": "task", "task_queues": [HOOKED],
        }  # fmt: skip
        group = {
            "provider": {"type": "webhook", "details": _json(details)},
            "task_queue_types": ["TASK_QUEUE_TYPE_ACTIVITY"],
        }
        await _version(line, group)
        await line.cloud.call("SetWorkerDeploymentCurrentVersion", deployment_name="counted", build_id="1")
        yield tasks


async def _version(line: Line, group: dict[str, Any]) -> None:
    await line.cloud.call("CreateWorkerDeployment", deployment_name="counted", request_id="d")
    await line.cloud.call(
        "CreateWorkerDeploymentVersion", deployment_version=VERSION, request_id="v",
        compute_config={"scaling_groups": {"default": group}},
    )  # fmt: skip


async def _described(line: Line) -> Any:
    return await line.cloud.call("DescribeWorkerDeploymentVersion", deployment_version=VERSION)


def _json(details: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"encoding": b"json/plain"}, "data": json.dumps(details).encode()}


def _certificate(folder: Path) -> ssl.SSLContext:
    cert, key = folder / "cert.pem", folder / "key.pem"
    asked = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(["openssl", *asked.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)  # noqa: S603, S607
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context
