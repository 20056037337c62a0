"""Run LocalStack as a process on loopback, without Docker: `with running(port, folder) as server: ...`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.localstack.environment import ensure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

START_S = 120.0
STOP_S = 15.0
REGION = "eu-central-1"


@dataclass(frozen=True, slots=True)
class LocalStack:
    """A running server, its log, and the file that sets the clock of its functions and schedules ahead."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    clock: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client_environ(self) -> dict[str, str]:
        """The environment in which AWS tools and SDKs use this server."""
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_DEFAULT_REGION": REGION, "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "SAM_CLI_TELEMETRY": "0",
        }  # fmt: skip

    def ahead(self, seconds: float) -> None:
        """Set the clock of functions and schedules ahead. Message delays of SQS use the machine's clock."""
        scratch = self.clock.with_suffix(".new")
        scratch.write_text(str(seconds), "ascii")
        scratch.rename(self.clock)


def start(port: int, folder: Path, settings: Mapping[str, str] | None = None) -> LocalStack:
    """Start LocalStack with its files in `folder`, and wait until it answers.

    Raises RuntimeError with the end of its log.
    """
    python, runtime = ensure("localstack") / "python", ensure("runtime") / "python"
    folder.mkdir(parents=True, exist_ok=True)
    log, clock = folder / "localstack.log", folder / "clock-ahead"
    clock.write_text("0", "ascii")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python), "-m", "localstack.runtime.main"],
            cwd=folder, env=_environ(port, folder, runtime, clock) | dict(settings or {}), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    ends_s = time.monotonic() + START_S
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > ends_s:
            close(process)
            tail = log.read_text("utf-8", "replace")[-4000:]
            raise RuntimeError(f"LocalStack did not come up on port {port}. The end of its log:\n{tail}")
        time.sleep(0.2)
    return LocalStack(port, process, log, clock)


def close(process: subprocess.Popen[bytes]) -> None:
    """Terminate the server, killing it after a while. The processes of its functions end with it."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stop(process_id: int) -> None:
    """Stop a server that another process started."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGTERM)
        ends_s = time.monotonic() + STOP_S
        while time.monotonic() < ends_s:
            os.kill(process_id, 0)
            time.sleep(0.1)
        os.kill(process_id, signal.SIGKILL)


@contextmanager
def running(port: int, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[LocalStack]:
    """Run a server during a `with` block."""
    server = start(port, folder, settings)
    try:
        yield server
    finally:
        close(server.process)


def _environ(port: int, folder: Path, runtime: Path, clock: Path) -> dict[str, str]:
    """Return the complete environment, so that no settings for other uses of LocalStack or AWS leak in."""
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "LOCALSTACK_HOST": f"127.0.0.1:{port}",
        "SQS_ENDPOINT_STRATEGY": "path",
        "DNS_ADDRESS": "0",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DISABLE_EVENTS": "1",
        "LAMBDA_RUNTIME_EXECUTOR": "process",
        "LAMBDA_PROCESS_PYTHON": str(runtime),
        "LAMBDA_SYNCHRONOUS_CREATE": "1",
        "LAMBDA_CLOCK_AHEAD_FILE": str(clock),
    }


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/_localstack/health")
        response = connection.getresponse()
        return response.status == 200 and "services" in json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
