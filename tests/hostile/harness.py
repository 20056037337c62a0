"""Attack a server in another process, and measure what it costs the server.

CPU time is compared with that of a fixed piece of work on the same machine, so that the bounds hold on a slow one.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
UNIT_S = 0.0012
"""CPU time of the victim's fixed piece of work on the machine that the bounds were chosen on."""
MIB = 1024 * 1024
_SILENCE_S = 0.2
"""After so long, a server that has begun to answer has said all, and one that takes nothing takes no more."""


@dataclass
class Cost:
    """What an attack sent, and what it cost the server."""

    name: str
    sent: int = 0
    cpu_s: float = 0.0
    """As on the machine that the bounds were chosen on."""
    peak: int = 0
    """Bytes by which the server grew at most."""
    longest_s: float = 0.0
    """The longest piece of CPU time for which the event loop served nobody else."""

    @property
    def cpu_per_mib_s(self) -> float:
        return self.cpu_s / max(self.sent / MIB, 1 / 64)

    longest: str = ""
    """What that was."""

    def row(self) -> str:
        """A line of the table of attacks."""
        return (
            f"| {self.name} | {self.sent / MIB:.2f} | {self.cpu_s * 1000:.0f} | {self.cpu_s * 1e6 / max(self.sent, 1):.3f} "
            f"| {self.peak / MIB:.1f} | {self.longest_s * 1000:.1f} |"
        )


TABLE_HEAD = (
    "| attack | MiB sent | ms of CPU | µs of CPU per byte | MiB of memory at most | longest turn, ms of CPU |\n"
    "|---|---|---|---|---|---|"
)


@dataclass
class Victim:
    """The server, and a control line to it."""

    process: subprocess.Popen[str]
    ports: dict[str, int] = field(default_factory=dict)

    @classmethod
    def start(cls, *arguments: str) -> Self:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.victim", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        victim = cls(process)
        victim.ports = victim._answer()
        return victim

    def stop(self) -> None:
        self.process.communicate(timeout=PATIENCE_S)

    @contextmanager
    def watched(self, name: str) -> Iterator[Cost]:
        """Measure what is done within."""
        cost = Cost(name)
        before = self._ask("reset")
        yield cost
        after = self._ask("report")
        speed = UNIT_S / before["unit_s"]
        cost.cpu_s = (after["cpu_s"] - before["cpu_s"]) * speed
        cost.longest_s = after["longest_s"] * speed
        cost.longest = after["longest"]
        cost.peak = after["peak"] - before["rss"]

    def _ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the server ended with {self.process.wait(60)}"
        answer: dict[str, Any] = json.loads(line)
        return answer


class Attacker:
    """Connections to one port of the victim. What was sent is counted; to be cut off is no error."""

    def __init__(self, port: int, cost: Cost) -> None:
        self._port = port
        self._cost = cost
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), 30)
        self._stack.callback(connection.close)
        return connection

    def send(self, connection: socket.socket, data: bytes) -> bool:
        """False once the server has closed the connection, or reads no more of it."""
        connection.settimeout(_SILENCE_S)
        view = memoryview(data)
        try:
            while view:
                done = connection.send(view)
                self._cost.sent += done
                view = view[done:]
        except OSError:  # a timeout is one
            return False
        return True

    def read(self, connection: socket.socket) -> bytes:
        """One whole answer, or what came before the server closed the connection."""
        connection.settimeout(PATIENCE_S)
        answer = b""
        with suppress(OSError):
            while part := connection.recv(65_536):
                answer += part
                head, separator, body = answer.partition(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head)
                if separator and found is not None and len(body) >= int(found[1]):
                    break
        return answer

    def read_all(self, connection: socket.socket, most: int = MIB) -> bytes:
        """All that is answered, until the server closes the connection or says no more."""
        connection.settimeout(PATIENCE_S)
        parts: list[bytes] = []
        with suppress(OSError):
            while sum(map(len, parts)) < most and (part := connection.recv(65_536)):
                parts.append(part)
                connection.settimeout(_SILENCE_S)
        return b"".join(parts)
