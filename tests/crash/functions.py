"""SIGKILL of random function instances at random moments of a load: nothing acknowledged is lost, everything ends.

    python -m tests.crash.functions --kills 200 [--seed N] [--faults]

The three handlers run in processes of their own over Postgres (`tests.functions.small_lambda`), the official SDK reaches
them through the bridge as it does in the cloud. With --faults, messages that wake history and the bridge are lost,
doubled and late as well. Prints its seed, and at the end what was acknowledged and what is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import secrets
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from temporalio.client import Client

from tests import postgres
from tests.crash import load
from tests.crash.contention import Contention
from tests.functions.fake_aws import Faults
from tests.functions.line import NO_FAULTS, built
from tests.support.sdk_runtime import quiet_runtime
from whistlestop.common.errors import ServiceError

if TYPE_CHECKING:
    from tests.functions import small_lambda
    from tests.functions.client import Cloud
    from tests.functions.line import Line

FAULTS = Faults(lost=0.1, doubled=0.1, late=0.2)
FINISH_S = 240.0
SWEEP_S = 3.0
COMMAND = (sys.executable, "-m", "whistlestop.server")


@dataclass(frozen=True)
class Options:
    kills: int
    seed: int
    faults: bool = False
    parallel: int = 5
    span_s: tuple[float, float] = (0.1, 1.2)
    """Between two kills."""


async def run(options: Options) -> list[str]:
    """Everything that is wrong, in words."""
    print(f"seed {options.seed}: {options.kills} kills of function instances, faults {options.faults}", flush=True)
    database_url = await asyncio.to_thread(postgres.durable_server)
    async with built(database_url, seed=options.seed, faults=FAULTS if options.faults else NO_FAULTS) as line:
        sweeping = asyncio.create_task(line.sweep(SWEEP_S))
        try:
            told, killed, missing = await _under_load(options, line)
        finally:
            sweeping.cancel()
        total = line.platform.total()
        print(told)
        print("killed:", ", ".join(f"{name} {count}" for name, count in sorted(killed.items())))
        print(f"{total.calls} calls ended, {total.statements} statements; AWS: {dict(line.aws.counts)}", flush=True)
    checked = await asyncio.to_thread(
        subprocess.run, [*COMMAND, "db", "check", "--database-url", database_url],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    print(checked.stdout.strip()[-2000:], checked.stderr.strip()[-2000:])
    if checked.returncode:
        missing.append(f"db check: {checked.stdout} {checked.stderr}")
    return missing


async def _under_load(options: Options, line: Line) -> tuple[load.Acknowledged, Counter[str], list[str]]:
    client = await Client.connect(line.bridge.address, runtime=quiet_runtime())
    traffic = load.Load(client, f"order-{options.seed}-", options.parallel)
    running = asyncio.create_task(traffic.run())
    contention = Contention([client], f"contended-{options.seed}-", options.seed)
    contending = asyncio.create_task(contention.run())
    killed: Counter[str] = Counter()
    try:
        async with load.working(client):
            await _kill_again_and_again(options, line.platform, traffic, running, killed)
            missing, unfinished = await load.finish(client, traffic, running, contention, contending, FINISH_S)
            missing += await _stuck(line.cloud, unfinished)
            print(contention, flush=True)
    finally:
        running.cancel()
        contending.cancel()
    return traffic.told, killed, missing


async def _kill_again_and_again(
    options: Options,
    functions: small_lambda.Platform,
    traffic: load.Load,
    running: asyncio.Task[None],
    killed: Counter[str],
) -> None:
    chance = random.Random(options.seed)
    began = time.monotonic()
    for index in range(options.kills):
        await asyncio.sleep(chance.uniform(*options.span_s))
        if running.done():
            await running
        function, was_busy = functions.kill_one(chance)
        killed[f"{function} {'at work' if was_busy else 'idle'}"] += 1
        if (index + 1) % 20 == 0:
            print(f"{index + 1} kills, {time.monotonic() - began:.0f} s: {traffic.told}", flush=True)


async def _stuck(cloud: Cloud, names: list[str]) -> list[str]:
    """How far the first of those got that did not end."""
    said: list[Any] = []
    for name in names[:3]:
        with contextlib.suppress(ServiceError):
            said.append(f"{name}: {await cloud.event_names(name)}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--parallel", type=int, default=5)
    given = parser.parse_args()
    missing = asyncio.run(run(Options(given.kills, given.seed, given.faults, given.parallel)))
    for each in missing:
        print(f"WRONG: {each}")
    print("nothing is lost" if not missing else f"{len(missing)} things are wrong")
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
