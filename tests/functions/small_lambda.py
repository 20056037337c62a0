"""A small Lambda: warm instances as processes of their own, counted, and killed at will.

    python -m tests.functions.small_lambda <folder> <instances> [<calls>]

listens on `<folder>/<function>.sock` as `instance` does. Instances live from call to call and take whatever call comes
next; one that was killed is replaced, and its caller hears what Lambda tells of a function that died. What they do is
counted in a table that outlives them. Calls to AWS go to `<calls>/aws.sock`, where `fake_aws.FakeAws` answers, and those to
other functions to the sockets of `<calls>`, which is `<folder>` where nothing else is said.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.functions.instance import FUNCTIONS, _Context, _set_clock, as_in_a_bundle, call
from tests.upgrade.release import CURRENT

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

    from tests.upgrade.release import Release

_SLOT = struct.Struct("8q")
_PID, _BUSY_NS, _CALLS, _WALL_US, _CPU_US, _BILLED_US, _STATEMENTS, _AWS = range(8)
CPU_SHARE = 512 / 1769
"""What 512 MB have of a processor: Lambda gives one for 1,769 MB."""
STATEMENT_US, INVOCATION_US, AWS_US = 1_000, 10_000, 10_000
"""How long a function waits for what is not on this machine: a database of its region, a warm function, SQS."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one function, or of several together."""

    calls: int = 0
    wall_us: int = 0
    cpu_us: int = 0
    billed_us: int = 0
    """The time for which Lambda would bill 512 MB: CPU by the share that 512 MB have, pauses as they were asked for, and
    waits for others as assumed above. (A busy machine does not change it.)
    """
    statements: int = 0
    aws: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(self)))


class Table:
    """Rows of numbers that all processes share: row `n` is that of the n-th instance."""

    def __init__(self, path: Path, rows: int) -> None:
        with path.open("a+b") as file:
            file.truncate(rows * _SLOT.size)
            self._map = mmap.mmap(file.fileno(), rows * _SLOT.size)
        self.rows = rows

    def read(self, row: int) -> tuple[int, ...]:
        return _SLOT.unpack_from(self._map, row * _SLOT.size)

    def put(self, row: int, column: int, value: int) -> None:
        struct.pack_into("q", self._map, row * _SLOT.size + column * 8, value)

    def add(self, row: int, column: int, value: int) -> None:
        self.put(row, column, self.read(row)[column] + value)


@dataclass(slots=True)
class Platform:
    """One that runs, as the process sees it that started it."""

    folder: Path
    instances: int
    table: Table

    def counts(self) -> dict[str, Counts]:
        """By function, since the beginning."""
        found = {}
        for index, function in enumerate(FUNCTIONS):
            rows = (self.table.read(index * self.instances + each) for each in range(self.instances))
            found[function] = sum((Counts(*row[_CALLS:]) for row in rows), Counts())
        return found

    def total(self) -> Counts:
        return sum(self.counts().values(), Counts())

    def kill_one(self, chance: random.Random) -> tuple[str, bool]:
        """SIGKILL an instance, mostly one that works at this moment; which function, and whether it did."""
        rows = {row: self.table.read(row) for row in range(self.table.rows)}
        busy = [row for row, values in rows.items() if values[_BUSY_NS]]
        row = chance.choice(busy if busy and chance.random() < 0.9 else sorted(rows))
        with contextlib.suppress(ProcessLookupError):
            os.kill(rows[row][_PID], signal.SIGKILL)
        return FUNCTIONS[row // self.instances], row in busy


@contextmanager
def running(
    folder: Path, instances: int = 8, *, calls: Path | None = None, release: Release = CURRENT
) -> Iterator[Platform]:
    """A platform with so many instances of each function. `folder` is to have a short path: sockets are in it."""
    table = Table(folder / "table", len(FUNCTIONS) * instances)
    process = subprocess.Popen(
        [*release.python, "-m", "tests.functions.small_lambda", str(folder), str(instances), str(calls or folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        env={**os.environ, **release.environment},
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "listening\n"
            yield Platform(folder, instances, table)
        finally:
            process.stdin.close()


# ---- in the instances ------------------------------------------------------------------------------------------------


def _aws_module() -> Any:
    """Return the module of AWS calls; release 0.1.0, which runs here as well, has it in `whistlestop.common`."""
    package = "net" if importlib.util.find_spec("whistlestop.net") is not None else "common"
    return importlib.import_module(f"whistlestop.{package}.aws")


class _Calls:
    """As a client of `whistlestop.net.aws`: Lambda's goes to another instance, all others to the fake."""

    def __init__(self, service: str) -> None:
        self._service = service

    def invoke(self, *, FunctionName: str, InvocationType: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803 - AWS's names
        answer = call(_Now.calls, FunctionName, json.loads(Payload), _Now.env)
        _Now.waited_us += INVOCATION_US + answer.get("billed_us", 0)
        failed = {"FunctionError": "Unhandled"} if "error" in answer else {}
        return {
            "StatusCode": 200, "Payload": io.BytesIO(json.dumps(answer.get("answer", {})).encode()), **failed,
        }  # fmt: skip

    def __getattr__(self, operation: str) -> Any:
        def ask(**given: Any) -> Any:
            _Now.aws += 1
            _Now.waited_us += AWS_US
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(_Now.calls / "aws.sock"))
                asked = {"service": self._service, "operation": operation, "fields": given}
                connection.sendall(json.dumps(asked).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    answer = json.loads(lines.readline())
            if "code" in answer:
                raise _aws_module().AwsError(answer["code"], "as the test wants it")
            return answer

        return ask


class _Now:
    """The call that this process serves."""

    calls = Path()
    """Where it finds other functions, and AWS."""
    env: dict[str, str] = {}  # noqa: RUF012 - of the one call
    waited_us = 0
    aws = 0
    statements = 0


def _count_statements() -> None:
    """Every statement that goes to Postgres, those that begin and end a transaction as well."""
    import psycopg
    from psycopg.pq import TransactionStatus

    def counted(kind: type[Any], name: str) -> None:
        original = getattr(kind, name)

        async def wrapped(self: Any, *given: Any, **named: Any) -> Any:
            # Without a transaction, its end is no statement.
            if name == "execute" or self.pgconn.transaction_status != TransactionStatus.IDLE:
                _Now.statements += 1
            return await original(self, *given, **named)

        setattr(kind, name, wrapped)

    counted(psycopg.AsyncCursor, "execute")
    for name in ("commit", "rollback"):
        counted(psycopg.AsyncConnection, name)


def _count_pauses() -> None:
    from whistlestop.common.clock import SystemClock

    original = SystemClock.sleep

    async def sleep(self: SystemClock, delay_s: float) -> None:
        began_s = time.perf_counter()
        try:
            await original(self, delay_s)
        finally:
            _Now.waited_us += int(max(min(delay_s, time.perf_counter() - began_s), 0) * 1e6)

    SystemClock.sleep = sleep  # type: ignore[method-assign]


def _serve(function: str, request: dict[str, Any]) -> dict[str, Any]:
    began_s, cpu_s = time.perf_counter(), time.process_time()
    env: dict[str, str] = request["env"]
    os.environ.update(env)
    _Now.env, _Now.waited_us, _Now.aws, _Now.statements = env, 0, 0, 0
    try:
        module = importlib.import_module(f"whistlestop.{function}.lambda_function")
        _set_clock(int(env.get("TEST_CLOCK_AHEAD_NS", "0")))
        answer = {"answer": module.handler(request["event"], _Context(function))}
    except Exception:  # noqa: BLE001 - whatever it is, the caller is told of it
        answer = {"error": traceback.format_exc()}
    cpu_us = int((time.process_time() - cpu_s) * 1e6)
    wall_us = int((time.perf_counter() - began_s) * 1e6)
    billed_us = int(cpu_us / CPU_SHARE) + _Now.waited_us + _Now.statements * STATEMENT_US
    used = [(function, cpu_us / 1000)]
    return {**answer, "used": used, "wall_us": wall_us, "cpu_us": cpu_us, "billed_us": billed_us}


def _instance(function: str, listener: socket.socket, table: Table, row: int) -> None:
    """Take call after call, until killed."""
    _aws_module().client = lambda service, *_: _Calls(service)
    _count_statements()
    _count_pauses()
    while True:
        connection, _ = listener.accept()
        table.put(row, _BUSY_NS, time.time_ns())
        with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            with connection.makefile("rb") as lines:
                request = json.loads(lines.read())
            answer = _serve(function, request)
            for column, value in (
                (_CALLS, 1), (_WALL_US, answer["wall_us"]), (_CPU_US, answer["cpu_us"]),
                (_BILLED_US, answer["billed_us"]), (_STATEMENTS, _Now.statements), (_AWS, _Now.aws),
            ):  # fmt: skip
                table.add(row, column, value)
            if "error" in answer:
                print(answer["error"], file=sys.stderr, flush=True)
            connection.sendall(json.dumps(answer).encode())
            connection.shutdown(socket.SHUT_WR)
        table.put(row, _BUSY_NS, 0)


# ---- the process that has them ---------------------------------------------------------------------------------------


def _fork(listeners: Sequence[socket.socket], table: Table, row: int) -> None:
    kind = row * len(FUNCTIONS) // table.rows
    table.put(row, _BUSY_NS, 0)
    process_id = os.fork()
    if process_id:
        table.put(row, _PID, process_id)
        return
    with contextlib.suppress(BaseException):
        _instance(FUNCTIONS[kind], listeners[kind], table, row)
    os._exit(1)


def main() -> None:
    """Keep instances alive until standard input is closed."""
    folder, instances = Path(sys.argv[1]), int(sys.argv[2])
    _Now.calls = Path(sys.argv[3]) if len(sys.argv) > 3 else folder
    as_in_a_bundle()
    for function in FUNCTIONS:
        importlib.import_module(f"whistlestop.{function}.lambda_function")
    for module in ("whistlestop.storage.sqlite.store", "whistlestop.storage.postgres.store"):
        importlib.import_module(module)
    _aws_module()
    table = Table(folder / "table", len(FUNCTIONS) * instances)
    listeners = [socket.socket(socket.AF_UNIX) for _ in FUNCTIONS]
    for function, listener in zip(FUNCTIONS, listeners, strict=True):
        listener.bind(str(folder / f"{function}.sock"))
        listener.listen(256)
    for row in range(table.rows):
        _fork(listeners, table, row)
    threading.Thread(target=_end_with_parent, args=(table,), daemon=True).start()
    print("listening", flush=True)
    while True:
        ended, _ = os.wait()
        for row in range(table.rows):
            if table.read(row)[_PID] == ended:
                _fork(listeners, table, row)


def _end_with_parent(table: Table) -> None:
    sys.stdin.read()
    for row in range(table.rows):
        with contextlib.suppress(ProcessLookupError):
            os.kill(table.read(row)[_PID], signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
