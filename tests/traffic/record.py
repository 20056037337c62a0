"""Start a development server behind a proxy that counts the fields of its replies.

    python -m tests.traffic.record --into DIRECTORY -- whistlestop server start-dev --headless --port 7233 …
    python -m tests.traffic.record --into DIRECTORY -- temporal server start-dev --headless --port 7233 …

The proxy listens where the command says, and the server on a free port. Counts are written every other second and at the
end, to a file for each process, so a suite may start many servers at once and may kill them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

from tests.traffic.proxy import Proxy

_WRITE_S = 2.0
_PR_SET_PDEATHSIG = 1


def moved(command: list[str], port: int) -> tuple[list[str], str]:
    """Return the server's command with that port instead of its own, and the address that it named."""
    changed, address, own = list(command), "127.0.0.1", 7233
    has_ui = "--headless" not in command
    for index, word in enumerate(command):
        name, given, value = word.partition("=")
        if not given and index + 1 < len(command):
            value = command[index + 1]
        if name in ("--port", "-p"):
            own = int(value)
            if given:
                changed[index] = f"{name}={port}"
            else:
                changed[index + 1] = str(port)
        elif name == "--ip":
            address = value
        has_ui = has_ui and name != "--ui-port"
    if own == 7233 and not any(word.partition("=")[0] in ("--port", "-p") for word in command):
        changed += ["--port", str(port)]
    if has_ui:
        changed += ["--ui-port", str(own + 1000)]  # its default depends on the port
    return changed, f"{address}:{own}"


def write(counts: Counter[str], path: Path) -> None:
    """Replace the file by the counts, a line each."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(counts, indent=0, sort_keys=True) + "\n")
    beside.replace(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _listens(host: str, port: int, server: asyncio.subprocess.Process) -> bool:
    """Wait until the server accepts connections; return False when it has ended instead."""
    while server.returncode is None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return True
        await asyncio.sleep(0.02)
    return False


async def record(command: list[str], into: Path) -> int:
    """Run the server until it ends or this process is told to end; return its exit code."""
    counts: Counter[str] = Counter()
    path = into / f"{os.getpid()}.json"
    port = _free_port()
    changed, address = moved(command, port)
    server = await asyncio.create_subprocess_exec(*changed, preexec_fn=_die_with_parent)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.terminate)
    host = address.rpartition(":")[0]
    if not await _listens(host, port, server):
        return server.returncode or 0
    proxy = Proxy(f"{host}:{port}", counts)
    await proxy.start(address)
    ended = asyncio.ensure_future(server.wait())
    written = 0
    while not ended.done():
        await asyncio.wait((ended,), timeout=_WRITE_S)
        if counts.total() != written:
            written = counts.total()
            write(counts, path)
    await proxy.stop()
    return ended.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--into", type=Path, required=True, help="directory for the counts")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the server's command")
    asked = parser.parse_args()
    command = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    asked.into.mkdir(parents=True, exist_ok=True)
    sys.exit(asyncio.run(record(command, asked.into)))


if __name__ == "__main__":
    main()
