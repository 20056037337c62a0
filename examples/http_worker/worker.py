"""A worker of one page: it polls for activities and completes them with only an HTTP client and JSON.

    python examples/http_worker/worker.py http://127.0.0.1:7243 letters

The protocol is described in docs/http-protocol.md. WHISTLESTOP_API_KEY may contain an API key.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import traceback
import urllib.error
import urllib.request
from typing import Any

SERVICE = "temporal.api.workflowservice.v1.WorkflowService"
COMMON = {"namespace": os.environ.get("TEMPORAL_NAMESPACE", "default"), "identity": f"http-worker-{os.getpid()}"}
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('WHISTLESTOP_API_KEY', '')}"}
AGAIN = {"unavailable", "resource_exhausted", "deadline_exceeded", "aborted", "internal", "unknown"}


class Refused(Exception):
    """The server returned an error (`code` is Connect's), or could not be reached."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Cancelled(Exception):
    """The activity was cancelled."""


def call(url: str, method: str, timeout_s: float = 10, **fields: Any) -> Any:
    """Call an RPC and return its response. Raises Refused."""
    headers = {**HEADERS, "Connect-Timeout-Ms": str(int(timeout_s * 1000))}
    request = urllib.request.Request(f"{url}/{SERVICE}/{method}", json.dumps(COMMON | fields).encode(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout_s + 5) as answer:  # noqa: S310 - the address is ours
            return json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            told = json.load(error)
            raise Refused(told["code"], told.get("message", "")) from None
        except (ValueError, KeyError, TypeError):  # of something between us
            raise Refused("unavailable" if error.code >= 429 else "unknown", str(error)) from None
    except OSError as error:
        raise Refused("unavailable", str(error)) from None


def to_payloads(*values: Any) -> dict[str, Any]:
    """Encode values as Temporal payloads: bytes with their encoding. In JSON, bytes are base64."""

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    metadata = {"encoding": encoded(b"json/plain")}
    return {"payloads": [{"metadata": metadata, "data": encoded(json.dumps(value).encode())} for value in values]}


def from_payloads(payloads: dict[str, Any]) -> list[Any]:
    """Decode payloads with JSON values."""
    return [json.loads(base64.b64decode(each.get("data", "")) or "null") for each in payloads.get("payloads", [])]


def work(url: str, task: dict[str, Any]) -> None:
    """Run an activity and report its outcome."""

    def heartbeat(*details: Any) -> None:
        beat = call(url, "RecordActivityTaskHeartbeat", taskToken=task["taskToken"], details=to_payloads(*details))
        if beat.get("cancelRequested"):
            raise Cancelled

    fields: dict[str, Any]
    try:
        result = ACTIVITIES[task["activityType"]["name"]](task, heartbeat, *from_payloads(task.get("input", {})))
        method, fields = "RespondActivityTaskCompleted", {"result": to_payloads(result)}
    except Cancelled:
        method, fields = "RespondActivityTaskCanceled", {}
    except Exception as error:  # noqa: BLE001 - whatever it is, the workflow hears of it
        failure = {"message": str(error), "stackTrace": traceback.format_exc()}
        method = "RespondActivityTaskFailed"
        fields = {"failure": failure | {"applicationFailureInfo": {"type": type(error).__name__}}}
    for attempt in range(8):  # an answer must not get lost
        try:
            call(url, method, taskToken=task["taskToken"], **fields)
            break
        except Refused as error:
            if error.code not in AGAIN:  # the task is nobody's any more
                print(method, error, flush=True)
                break
            time.sleep(min(0.1 * 2**attempt, 10))


def serve(url: str, task_queue: str) -> None:
    """Poll for ever. A server holds a poll until there is a task; a function answers at once, so poll it less often."""
    pause_s = 0.05
    while True:
        began_s = time.monotonic()
        try:
            task = call(url, "PollActivityTaskQueue", 60, taskQueue={"name": task_queue})
        except Refused as error:
            if error.code not in AGAIN:  # we may not, or there is no such namespace: that will not pass
                raise
            task = {}
        if task:
            work(url, task)
            pause_s = 0.05
        elif time.monotonic() - began_s < 5:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 30)


def greet(task: Any, heartbeat: Any, name: str) -> str:
    """Return a greeting: an activity is a plain function."""
    return f"Hello {name}"


def flaky(task: Any, heartbeat: Any) -> str:
    """Fail at first, to show that failures are retried by the retry policy."""
    if task["attempt"] == 1:
        raise RuntimeError("not today")
    return "at last"


def endless(task: Any, heartbeat: Any) -> None:
    """Work until a heartbeat reports that the activity was cancelled."""
    while True:
        heartbeat("still at it")
        time.sleep(0.1)


ACTIVITIES: dict[str, Any] = {"greet": greet, "flaky": flaky, "endless": endless}

if __name__ == "__main__":
    serve(sys.argv[1].rstrip("/"), sys.argv[2])
