"""The real server and ours, both of a whole session, started when first needed."""

from __future__ import annotations

import asyncio
import os
import secrets
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig

from tests.cli import scenarios
from tests.cli.terminal import Terminal
from tests.parity import servers
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.scenarios import Play

# "real" compares two real servers: are the scenarios sound?
OURS = os.environ.get("WHISTLESTOP_TEST_CLI_AGAINST", "memory")
LIMIT_S = PATIENCE_S
# Workers are to be listed soon after they have come.
_RUNTIME = Runtime(telemetry=TelemetryConfig(), worker_heartbeat_interval=timedelta(seconds=1))


class Stage:
    """Plays a scenario on both servers at once."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._servers: list[tuple[str, Client]] = []

    async def _start(self) -> list[tuple[str, Client]]:
        if not self._servers:
            more = servers.BUILD_IDS
            ours = servers.real_server(more) if OURS == "real" else servers.our_server(OURS, more)
            addresses = await asyncio.gather(
                *(self._stack.enter_async_context(each) for each in (servers.real_server(more), ours))
            )
            self._servers = [(address, await Client.connect(address, runtime=_RUNTIME)) for address in addresses]
        return self._servers

    async def _play(self, play: Play, terminal: Terminal) -> list[Any]:
        try:
            async with asyncio.timeout(LIMIT_S):
                await play(terminal)
        except Exception as broken:  # noqa: BLE001  (the transcript says it; the comparison decides)
            terminal.note("broken off", f"{type(broken).__name__}: {broken}")
        return terminal.transcript

    async def _both(self, play: Play) -> list[list[Any]]:
        prefix = f"cli-{secrets.token_hex(4)}"
        started = await self._start()
        return await asyncio.gather(
            *(
                self._play(play, Terminal(address, client, prefix, is_ours=place == 1 and OURS != "real"))
                for place, (address, client) in enumerate(started)
            )
        )

    def both(self, play: Play) -> list[list[Any]]:
        """The transcripts of the real server and of ours."""
        return self._runner.run(self._both(play))

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "play" in metafunc.fixturenames:
        loaded = scenarios.load()
        metafunc.parametrize("play", loaded.values(), ids=loaded.keys())
