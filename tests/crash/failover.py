"""Three servers over a cluster of Postgres whose primary is killed again and again: nothing acknowledged is lost.

    python -m tests.crash.failover --kills 20

Needs etcd, Patroni and Postgres: `apt-get install etcd-server patroni postgresql`. Half of the kills take the primary's
Patroni with it, as the loss of a machine does. Prints its seed, and for how long calls failed after each kill.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from temporalio.client import Client
from temporalio.service import RPCError

from tests.crash import kill9
from tests.crash.patroni import Cluster, missing_programs
from tests.support.ports import free_port

if TYPE_CHECKING:
    from tests.crash import load

SERVERS = 3
PROBE_S = 0.25
ATTEMPT_S = 5.0
FINISH_S = 600.0


@dataclass
class Probe:
    """Starts workflows one after another, and notes when that fails and when it does again."""

    stopping: bool = False
    started: list[str] = field(default_factory=list)
    last_success: float = 0.0
    outages: list[float] = field(default_factory=list)
    """Seconds from the last call that was answered to the next one."""

    async def run(self, clients: list[Client]) -> None:
        number = 0
        self.last_success = time.monotonic()
        failing = False
        while not self.stopping:
            number += 1
            workflow_id = f"probe-{number}"
            try:
                await asyncio.wait_for(
                    clients[number % len(clients)].start_workflow(
                        "Nobody", id=workflow_id, task_queue="nobody", execution_timeout=timedelta(hours=1),
                        rpc_timeout=timedelta(seconds=ATTEMPT_S),
                    ),
                    ATTEMPT_S,
                )  # fmt: skip
            except (RPCError, RuntimeError, TimeoutError):
                failing = True
            else:
                self.started.append(workflow_id)
                now = time.monotonic()
                if failing:
                    self.outages.append(now - self.last_success)
                failing, self.last_success = False, now
            await asyncio.sleep(PROBE_S)

    async def lost(self, client: Client) -> list[str]:
        """Return the starts that were acknowledged and are not there."""
        found = []
        for workflow_id in self.started:
            try:
                await client.get_workflow_handle(workflow_id).describe()
            except RPCError as error:
                found.append(f"{workflow_id}: {error}")
        return found


async def run(kills: int, seed: int, folder: Path) -> list[str]:
    """Return everything that is wrong, in words."""
    chance = random.Random(seed)
    print(f"seed {seed}: the primary is killed {kills} times", flush=True)
    with Cluster(folder) as cluster, (folder / "server.log").open("ab") as log:
        servers = [kill9.Server(["start", "--database-url", cluster.url], free_port(), log) for _ in range(SERVERS)]
        options = kill9.Options(kills, "postgres", seed, servers=SERVERS, parallel=6)
        probe = Probe()
        unkilled: list[str] = []
        try:
            for server in servers:
                server.start()
                await server.until_ready()
            clients = [await Client.connect(f"{kill9.HOST}:{server.port}") for server in servers]

            async def trouble(traffic: load.Load, running: asyncio.Task[None]) -> None:
                probing = asyncio.create_task(probe.run(clients))
                unkilled.extend(await _kill_primaries(cluster, kills, chance, traffic, running))
                probe.stopping = True
                await probing

            told, missing = await kill9.under_load(options, servers, trouble, FINISH_S)
            missing += unkilled
            missing += [f"a start was acknowledged and is lost: {each}" for each in await probe.lost(clients[0])]
        finally:
            for server in servers:
                if server.process is not None and server.process.poll() is None:
                    print(f"a server ended with {server.kill(signal.SIGTERM)}")
        print(told, flush=True)
        checked = await asyncio.create_subprocess_exec(
            *kill9.COMMAND, "db", "check", "--database-url", cluster.url, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await checked.communicate()
        print(said.decode().strip()[-2000:])
        if checked.returncode:
            missing.append(f"db check: {said.decode()}")
    outages = sorted(probe.outages)
    print(f"{len(probe.started)} probes answered; calls failed {len(outages)} times, for {_summary(outages)} s")
    text = (folder / "server.log").read_text(errors="replace")
    if "Traceback" in text:
        missing.append(f"a traceback in the log: {text[text.index('Traceback') :][:3000]}")
    return missing


def _summary(seconds: list[float]) -> str:
    if not seconds:
        return "0"
    return f"{seconds[0]:.1f} at least, {statistics.median(seconds):.1f} in the middle, {seconds[-1]:.1f} at most"


async def _kill_primaries(
    cluster: Cluster, kills: int, chance: random.Random, traffic: load.Load, running: asyncio.Task[None]
) -> list[str]:
    """Return what kept it from so many kills, in words: then the checks that follow are made after fewer."""
    for number in range(kills):
        await asyncio.sleep(chance.uniform(1.0, 5.0))
        if running.done():
            await running
        leader = await asyncio.to_thread(cluster.leader)
        assert leader is not None, "there is no primary"
        whole = chance.random() < 0.5
        began = time.monotonic()
        leader.kill(whole=whole)
        while True:
            following = await asyncio.to_thread(cluster.leader)
            if following is not None and following is not leader:
                break
            assert time.monotonic() - began < kill9.READY_S, "no node takes over"
            await asyncio.sleep(0.2)
        took_s = time.monotonic() - began
        if whole:
            leader.start()
        what = "the machine" if whole else "the server"
        print(
            f"kill {number + 1}, {what} of {leader.name}: {following.name} leads after {took_s:.1f} s; {traffic.told}",
            flush=True,
        )
        if number + 1 < kills:
            try:
                await asyncio.to_thread(cluster.until_whole)
            except AssertionError as error:
                return [f"{number + 1} kills of {kills} were made: {error}"]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    given = parser.parse_args()
    if missing := missing_programs():
        print(f"{', '.join(missing)} not installed: apt-get install etcd-server patroni postgresql", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="whistlestop-failover-") as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101
        wrong = asyncio.run(run(given.kills, given.seed, Path(folder)))
    for each in wrong:
        print(f"WRONG: {each}")
    print("nothing is lost" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
