"""The platform that these tests run functions on: a call gets a process of its own, and shares nothing with others.

    python instance.py <folder>

listens on `<folder>/<function>.sock` for the three functions. A request on a socket is one JSON object, {"event", "env"},
and the answer another one. Three ways to make an instance:

    forked   a copy of a process that has imported the handler's module and has never called it
    spawned  a new interpreter that imports everything anew
    warm     several processes of each function that live from call to call, one call at a time

An instance starts with what importing leaves behind, and shares with others nothing but the store. As in a bundle, of
`temporalio` there is the `api` part alone, and no `grpc`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FUNCTIONS = ("frontend", "history", "matching")
REMAINING_MS = 30_000
WARM = 4


class _NotInBundle:
    """Refuses to import what a function's bundle does not hold."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if name.partition(".")[0] == "grpc" or (name.startswith("temporalio.") and name.split(".")[1] != "api"):
            raise ModuleNotFoundError(f"{name} is not in the bundle", name=name)


def as_in_a_bundle() -> None:
    """Let this process import as if it ran from a bundle."""
    found = importlib.util.find_spec("temporalio")
    assert found is not None
    bare = types.ModuleType("temporalio")
    bare.__path__ = list(found.submodule_search_locations or ())
    sys.modules["temporalio"] = bare
    sys.meta_path.insert(0, _NotInBundle())


class _Lambda:
    """The part of boto3's Lambda client that functions use. One per process, as `LambdaClient` keeps it."""

    folder = Path()
    env: ClassVar[dict[str, str]] = {}
    used: ClassVar[list[tuple[str, float]]] = []

    def invoke(self, *, FunctionName: str, InvocationType: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803 - AWS's names
        assert InvocationType == "RequestResponse"
        answer = call(self.folder, FunctionName, json.loads(Payload), self.env)
        self.used.extend(answer.get("used", ()))
        failed = {"FunctionError": "Unhandled"} if "error" in answer else {}
        shown = answer.get("answer", {"errorMessage": answer.get("error", ""), "errorType": "Unhandled"})
        return {"StatusCode": 200, "Payload": io.BytesIO(json.dumps(shown).encode()), **failed}


class _Context:
    """What Lambda tells a handler of its call."""

    def __init__(self, function_name: str) -> None:
        self.function_name = function_name
        self.aws_request_id = "8f507cfc-example"
        self.memory_limit_in_mb = 512
        self.invoked_function_arn = f"arn:aws:lambda:eu-central-1:123456789012:function:{function_name}"
        self._ends_s = time.monotonic() + REMAINING_MS / 1000

    def get_remaining_time_in_millis(self) -> int:
        return max(round((self._ends_s - time.monotonic()) * 1000), 0)


def call(folder: Path, function: str, event: Any, env: dict[str, str]) -> dict[str, Any]:
    """Invoke a function: {"answer", "used"}, or {"error"} when the instance died of the call.

    `used` are pairs (function, milliseconds of CPU): this call, and the calls that it made of other functions.
    """
    data = b""
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.connect(str(folder / f"{function}.sock"))
        connection.sendall(json.dumps({"event": event, "env": env}).encode())
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as lines:
            data = lines.read()
    answer: dict[str, Any] = json.loads(data) if data else {"error": "the instance died"}
    return answer


def _serve(folder: Path, function: str, request: dict[str, Any]) -> dict[str, Any]:
    """One call in this process."""
    began_s = time.process_time()
    env: dict[str, str] = request["env"]
    os.environ.update(env)
    _Lambda.folder, _Lambda.env, _Lambda.used = folder, env, []
    from whistlestop.net import aws

    aws.client = lambda *_: _Lambda()
    try:
        module = importlib.import_module(f"whistlestop.{function}.lambda_function")
        _set_clock(int(env.get("TEST_CLOCK_AHEAD_NS", "0")))
        _arrange_death(env.get("TEST_DIES", ""), function)
        answer = module.handler(request["event"], _Context(function))
    except Exception:  # noqa: BLE001 - whatever it is, the caller is told of it
        return {"error": traceback.format_exc()}
    return {"answer": answer, "used": [(function, (time.process_time() - began_s) * 1000), *_Lambda.used]}


def _set_clock(ahead_ns: int) -> None:
    """Timers of hours fire without hours of waiting: every instance's clock is ahead by as much as the test says."""
    from whistlestop.common.clock import SystemClock

    def now_ns(self: SystemClock) -> int:
        return time.time_ns() + ahead_ns

    SystemClock.now_ns = now_ns  # type: ignore[method-assign]


def _arrange_death(at: str, function: str) -> None:
    """Die between a commit and what follows from it."""
    if at != function:
        return
    from whistlestop.history.function_instance import HistoryInstance

    async def die(self: HistoryInstance, latest_ns: int | None) -> None:
        os._exit(1)

    HistoryInstance.settle = die  # type: ignore[method-assign]


# ---- the listener ------------------------------------------------------------------------------------------------------


def _fork(folder: Path, function: str, connection: socket.socket) -> None:
    if os.fork():
        return
    status = 1
    with contextlib.suppress(BaseException):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _answer(folder, function, connection)
        status = 0
    os._exit(status)


def _answer(folder: Path, function: str, connection: socket.socket) -> None:
    with connection.makefile("rb") as lines:
        request = json.loads(lines.read())
    connection.sendall(json.dumps(_serve(folder, function, request)).encode())
    connection.shutdown(socket.SHUT_WR)


def _spawn(folder: Path, function: str, connection: socket.socket) -> None:
    connection.set_inheritable(True)
    arguments = [sys.executable, __file__, str(folder), function, str(connection.fileno())]
    os.posix_spawn(sys.executable, arguments, os.environ)


def _keep_warm(folder: Path, listeners: dict[str, socket.socket]) -> list[int]:
    """Some instances of each function; whichever is idle takes the next call. Their process ids."""
    started = []
    for function, listener in listeners.items():
        for _ in range(WARM):
            started.append(os.fork())
            if started[-1]:
                continue
            with contextlib.suppress(BaseException):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        _answer(folder, function, connection)
            os._exit(1)
    return started


def listen(folder: Path, way: str) -> None:
    """Serve calls until standard input is closed, which is when the tests end."""
    as_in_a_bundle()
    if way != "spawned":
        for function in FUNCTIONS:
            importlib.import_module(f"whistlestop.{function}.lambda_function")
        # What a first call imports.
        importlib.import_module("whistlestop.net.aws")
        importlib.import_module("whistlestop.storage.sqlite.store")
        importlib.import_module("whistlestop.storage.postgres.store")
    listeners = {function: socket.socket(socket.AF_UNIX) for function in FUNCTIONS}
    for function, listener in listeners.items():
        listener.bind(str(folder / f"{function}.sock"))
        listener.listen(64)
    if way == "warm":
        started = _keep_warm(folder, listeners)
        print("listening", flush=True)
        sys.stdin.read()
        for process in started:
            os.kill(process, signal.SIGKILL)
        return
    _make_for_each(folder, listeners, _spawn if way == "spawned" else _fork)


def _make_for_each(
    folder: Path, listeners: dict[str, socket.socket], make: Callable[[Path, str, socket.socket], None]
) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with selectors.DefaultSelector() as selector:
        for function, listener in listeners.items():
            selector.register(listener, selectors.EVENT_READ, function)
        selector.register(sys.stdin, selectors.EVENT_READ, None)
        print("listening", flush=True)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    return
                assert isinstance(key.fileobj, socket.socket)
                connection, _ = key.fileobj.accept()
                make(folder, key.data, connection)
                connection.close()


def main() -> None:
    folder = Path(sys.argv[1])
    if len(sys.argv) == 3:
        listen(folder, sys.argv[2])
        return
    as_in_a_bundle()
    with socket.socket(fileno=int(sys.argv[3])) as connection:
        _answer(folder, sys.argv[2], connection)


if __name__ == "__main__":
    main()
