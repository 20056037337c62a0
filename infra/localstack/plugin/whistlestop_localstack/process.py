"""An execution environment: a process of the runtime that is started, given invocations, and killed.

Nothing here depends on LocalStack, so that it can be tested (and handlers be loaded) without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .runtime_api import Answer, Exited, InitFailed, Ready, RuntimeApi

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .runtime_api import Job

MOST_LOG_LINES = 10_000
_GRACE_S = 0.5
_AHEAD = Path(__file__).with_name("ahead")
"""Folder with a sitecustomize module that sets a process's clock ahead."""


@dataclass(frozen=True, slots=True)
class Code:
    """What runs: an unzipped bundle, its handler, and the interpreter."""

    interpreter: str
    task_root: str
    handler: str
    layers: Sequence[str] = ()
    timeout_s: float = 60.0
    start_s: float = 10.0
    clock_ahead_file: str = ""
    """A file with the seconds that the process's clock is ahead of this machine's; empty: none."""


class StartFailed(Exception):
    """The process did not ask for work; `payload` is Lambda's answer in this case."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(payload.decode(errors="replace"))
        self.payload = payload


@dataclass(slots=True)
class Environment:
    """A process that serves one invocation at a time and is reused. If it dies, another one is started."""

    code: Code
    variables: dict[str, str]
    log: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_LOG_LINES))
    _api: RuntimeApi | None = None
    _process: subprocess.Popen[bytes] | None = None
    _folder: str = ""

    def start(self) -> None:
        """Start the process and wait until it asks for work. Raises StartFailed."""
        self._api = RuntimeApi(lambda: time.time() + ahead_s(self.code.clock_ahead_file) + self.code.timeout_s)
        self._folder = tempfile.mkdtemp(prefix="function-")
        self._process = subprocess.Popen(
            [self.code.interpreter, "-m", "awslambdaric", self.code.handler],
            cwd=self.code.task_root, env=self._environ(self._api.address), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._watch, args=(self._process, self._api), daemon=True).start()
        try:
            said = self._api.said.get(timeout=self.code.start_s)
        except queue.Empty:
            said = InitFailed(lambda_error("Sandbox.Timedout", f"Init timed out after {self.code.start_s:.2f} seconds"))
        if not isinstance(said, Ready):
            self.stop()
            assert isinstance(said, InitFailed | Exited)
            raise StartFailed(said.payload if isinstance(said, InitFailed) else _exit_error("", said.status))

    def invoke(self, job: Job) -> Answer:
        """Run an invocation and return its result; a crash or a timeout of the process is a result too."""
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self.start()
        assert self._api is not None
        request_id = str(job["invoke-id"])
        self._api.give(job)
        ends_s = time.monotonic() + self.code.timeout_s
        while True:
            try:
                said = self._api.said.get(timeout=max(ends_s - time.monotonic(), 0))
            except queue.Empty:
                self.stop()
                text = f"RequestId: {request_id} Error: Task timed out after {self.code.timeout_s:.2f} seconds"
                return Answer(request_id, lambda_error("Sandbox.Timedout", text), is_error=True)
            if isinstance(said, Answer) and said.request_id == request_id:
                return said
            if isinstance(said, Exited):
                self.stop()
                return Answer(request_id, _exit_error(request_id, said.status), is_error=True)

    def stop(self) -> None:
        """Kill the process and its children, if it still runs."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_S)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._api is not None:
            self._api.close()
            self._api = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self, process: subprocess.Popen[bytes], api: RuntimeApi) -> None:
        """Record the output of the process, and report its end."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.log.append(line.decode(errors="replace").rstrip("\n"))
        api.said.put(Exited(process.wait()))

    def _environ(self, api_address: str) -> dict[str, str]:
        """Return the environment of a function: what Lambda would set, and only PATH from this process."""
        packages = [str(Path(layer, "python")) for layer in self.code.layers if Path(layer, "python").is_dir()]
        shown = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "en_US.UTF-8",
            "HOME": self._folder,
            **self.variables,
            "LAMBDA_TASK_ROOT": self.code.task_root,
            "TMPDIR": self._folder,
            "TZ": "UTC",
            "PYTHONUNBUFFERED": "1",
            "AWS_LAMBDA_RUNTIME_API": api_address,
        }
        if self.code.clock_ahead_file:
            shown["CLOCK_AHEAD_FILE"] = self.code.clock_ahead_file
            packages.append(str(_AHEAD))
        return {**shown, "PYTHONPATH": ":".join([self.code.task_root, *packages])}


def ahead_s(file: str) -> float:
    """Return how many seconds the clock of functions is ahead: the content of the file, 0 without one."""
    return float(Path(file).read_text("ascii") or 0) if file else 0.0


def lambda_error(kind: str, message: str) -> bytes:
    """Return an error in Lambda's format, for failures outside of the handler."""
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()


def _exit_error(request_id: str, status: int) -> bytes:
    how = f"signal: {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return lambda_error("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited with error: {how}")
