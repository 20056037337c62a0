"""`kill -9` of the real server at random moments under load: nothing that was acknowledged is lost, everything ends.

    python -m tests.crash.kill9 --kills 100 --store sqlite
    python -m tests.crash.kill9 --kills 100 --store postgres [--servers 2]

The load comes from the official SDK in this process; the server is the real command as a process of its own. Prints its
seed, and at the end what was acknowledged and what is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from temporalio.client import Client
from temporalio.service import RPCError

from tests.crash import load
from tests.crash.contention import Contention
from tests.support.sdk_runtime import quiet_runtime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOST = "127.0.0.1"
FIRST_PORT = 18600
COMMAND = (sys.executable, "-m", "whistlestop.server")
READY_S = 300.0
FINISH_S = 240.0


@dataclass
class Server:
    """One server process, started again after each kill."""

    arguments: list[str]
    port: int
    log: IO[bytes]
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("TEMPORAL_", "WHISTLESTOP_"))
        }
        self.process = subprocess.Popen(
            [*COMMAND, "server", *self.arguments, "--port", str(self.port), "--ip", HOST, "--log-level", "warn"],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=environment,
        )

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(READY_S)

    def last_words(self) -> str:
        """The end of the log."""
        return Path(self.log.name).read_text(errors="replace")[-2000:]

    async def until_ready(self) -> None:
        """Until the port takes connections."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended by itself with {self.process.returncode}: {self.last_words()}")
            try:
                _, writer = await asyncio.open_connection(HOST, self.port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
        raise AssertionError("the server does not get ready")


@dataclass(frozen=True)
class Options:
    kills: int
    store: str
    seed: int
    servers: int = 1
    parallel: int = 12
    port: int = FIRST_PORT


async def run(options: Options, folder: Path) -> list[str]:
    """Everything that is wrong, in words."""
    print(f"seed {options.seed}: {options.kills} kills on {options.store}, {options.servers} server(s)", flush=True)
    chance = random.Random(options.seed)
    where = _where(options, folder)
    subcommand = ["start", *where]
    if options.store == "sqlite" and chance.random() < 0.5:
        subcommand = ["start-dev", "--headless", *where]
    with (folder / "server.log").open("ab") as log:
        servers = [Server(subcommand, options.port + index, log) for index in range(options.servers)]
        try:
            for server in servers:
                server.start()
                await server.until_ready()
            told, missing = await under_load(
                options,
                servers,
                lambda traffic, running: _kill_again_and_again(options, servers, chance, traffic, running),
            )
        finally:
            for server in servers:
                if server.process is not None and server.process.poll() is None:
                    code = server.kill(signal.SIGTERM)
                    print(f"the server drained and ended with {code}")
    print(told, flush=True)
    checked = await asyncio.to_thread(
        subprocess.run, [*COMMAND, "db", "check", *where], capture_output=True, text=True, check=False, timeout=300
    )
    print(checked.stdout.strip()[-2000:], checked.stderr.strip()[-2000:])
    if checked.returncode:
        missing.append(f"db check: {checked.stdout} {checked.stderr}")
    text = (folder / "server.log").read_text(errors="replace")
    if "Traceback" in text:
        missing.append(f"a traceback in the log: {text[text.index('Traceback') :][:3000]}")
    return missing


def _where(options: Options, folder: Path) -> list[str]:
    if options.store == "sqlite":
        return ["--db-filename", str(folder / "crash.db")]
    from tests.postgres import durable_server

    return ["--database-url", durable_server()]


async def connect(server: Server) -> Client:
    """Return a client of the server, which may still be starting."""
    for _ in range(3000):
        try:
            return await Client.connect(f"{HOST}:{server.port}", runtime=quiet_runtime())
        except (RuntimeError, RPCError):
            await asyncio.sleep(0.1)
    raise AssertionError("no connection")


async def under_load(
    options: Options,
    servers: list[Server],
    trouble: Callable[[load.Load, asyncio.Task[None]], Awaitable[None]],
    finish_s: float = FINISH_S,
) -> tuple[load.Acknowledged, list[str]]:
    """Load the servers while `trouble` goes on; what was acknowledged, and all that is wrong."""
    clients = [await connect(server) for server in servers]
    traffic = load.Load(clients[0], f"order-{options.seed}-", options.parallel)
    contention = Contention(clients, f"contended-{options.seed}-", options.seed)
    contending = asyncio.create_task(contention.run())
    running = asyncio.create_task(traffic.run())
    try:
        # The worker of a pair of servers talks to the other one.
        async with load.working(clients[-1]):
            await trouble(traffic, running)
            missing, _ = await load.finish(clients[0], traffic, running, contention, contending, finish_s)
            print(contention, flush=True)
    finally:
        running.cancel()
        contending.cancel()
    return traffic.told, missing


def _span(chance: random.Random) -> float:
    """Seconds until the next kill: mostly under load, now and then while the server starts.

    The longer ones are for the SDK, which comes back to a server that was away after seconds only.
    """
    kind = chance.random()
    if kind < 0.15:
        return chance.uniform(0.0, 0.6)
    return chance.uniform(0.3, 2.0) if kind < 0.75 else chance.uniform(3.0, 7.0)


async def _kill_again_and_again(
    options: Options, servers: list[Server], chance: random.Random, traffic: load.Load, running: asyncio.Task[None]
) -> None:
    began = time.monotonic()
    for index in range(options.kills):
        server = chance.choice(servers)
        await asyncio.sleep(_span(chance))
        if running.done():
            await running
        server.kill()
        await asyncio.sleep(chance.choice([0.0, 0.0, 0.5]))
        server.start()
        if chance.random() < 0.85:
            await server.until_ready()
        if (index + 1) % 10 == 0:
            print(f"{index + 1} kills, {time.monotonic() - began:.0f} s: {traffic.told}", flush=True)
    for server in servers:
        await server.until_ready()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=12)
    parser.add_argument("--port", type=int, default=FIRST_PORT)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    given = parser.parse_args()
    if given.servers > 1 and given.store == "sqlite":
        parser.error("only Postgres serves several processes")
    options = Options(given.kills, given.store, given.seed, given.servers, given.parallel, given.port)
    with tempfile.TemporaryDirectory(prefix="whistlestop-crash-") as folder:
        missing = asyncio.run(run(options, Path(folder)))
    for each in missing:
        print(f"WRONG: {each}")
    print("nothing is lost" if not missing else f"{len(missing)} things are wrong")
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
