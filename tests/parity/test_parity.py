"""Each scenario leaves equal transcripts on the real Temporal dev server and on ours, over each store."""

from __future__ import annotations

import asyncio
import difflib
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import pytest

from tests import postgres
from tests.parity import scenarios, servers
from tests.parity.puppet import Puppet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parity.scenarios import Scenario

pytestmark = [pytest.mark.parity, pytest.mark.timeout(120)]

SEARCH_ATTRIBUTES = {
    "ParityKeyword": "INDEXED_VALUE_TYPE_KEYWORD",
    "ParityKeywords": "INDEXED_VALUE_TYPE_KEYWORD_LIST",
    "ParityText": "INDEXED_VALUE_TYPE_TEXT",
    "ParityInt": "INDEXED_VALUE_TYPE_INT",
    "ParityDouble": "INDEXED_VALUE_TYPE_DOUBLE",
    "ParityBool": "INDEXED_VALUE_TYPE_BOOL",
    "ParityTime": "INDEXED_VALUE_TYPE_DATETIME",
}


LIMITED = " with low limits"


class Stage:
    """The servers of a test session, started when first needed, and what the real one answered."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._doors: dict[str, tuple[grpc.aio.Channel, httpx.AsyncClient]] = {}
        self._recorded: dict[str, list[Any]] = {}
        self._broken: dict[str, Exception] = {}

    async def _enter(self, server: str) -> tuple[grpc.aio.Channel, httpx.AsyncClient]:
        if server in self._broken:
            raise self._broken[server]  # it takes seconds to see that a server does not come up: once is enough
        if server not in self._doors:
            name, limited, _ = server.partition(LIMITED)
            more = servers.LOW_LIMITS if limited else ()
            starting = servers.real_server(more) if name.startswith("real") else servers.our_server(name, more)
            try:
                started = await self._stack.enter_async_context(starting)
            except RuntimeError as broken:
                self._broken[server] = broken
                raise
            channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(started))
            await self._prepare(channel)
            http = await self._stack.enter_async_context(httpx.AsyncClient(base_url=started.http))
            self._doors[server] = channel, http
        return self._doors[server]

    async def _prepare(self, channel: grpc.aio.Channel) -> None:
        """Search attributes that all scenarios may use."""
        puppet = Puppet(channel)
        await puppet.call("AddSearchAttributes", search_attributes=SEARCH_ATTRIBUTES)
        for _ in range(100):
            listed = await puppet.call("ListSearchAttributes")
            if SEARCH_ATTRIBUTES.keys() <= listed.custom_attributes.keys():
                return
            await asyncio.sleep(0.1)

    async def _play(self, server: str, scenario: Scenario) -> list[Any]:
        """The transcript; a scenario that breaks off leaves what it has, and why."""
        puppet = Puppet(*await self._enter(server))
        try:
            async with asyncio.timeout(60):
                await scenario.play(puppet)
        except Exception as broken:  # noqa: BLE001  (the transcript says it; the comparison decides)
            puppet.note("broken off", f"{type(broken).__name__}: {broken}")
        return puppet.transcript.entries

    async def _both(self, server: str, scenario: Scenario) -> tuple[list[Any], list[Any]]:
        real = "real"
        if scenario.limited:
            real, server = f"{real}{LIMITED}", f"{server}{LIMITED}"
        await self._enter(real), await self._enter(server)
        if scenario.name in self._recorded:
            return self._recorded[scenario.name], await self._play(server, scenario)
        expected, actual = await asyncio.gather(self._play(real, scenario), self._play(server, scenario))
        self._recorded[scenario.name] = expected
        return expected, actual

    def both(self, server: str, scenario: Scenario) -> tuple[list[Any], list[Any]]:
        """What the real server and the other one answered."""
        return self._runner.run(self._both(server, scenario))

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scenario" not in metafunc.fixturenames:
        return
    real = metafunc.config.getoption("--real-vs-real", False)
    stores = (
        ["real again"] if real else metafunc.config.getoption("--parity-stores", ",".join(servers.STORES)).split(",")
    )
    cases = [
        pytest.param(store, scenario, id=f"{scenario.name}-{store}", marks=_marks(store, scenario))
        for store in stores
        for scenario in scenarios.load().values()
    ]
    metafunc.parametrize(("server", "scenario"), cases)


def _marks(store: str, scenario: Scenario) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.slow] if scenario.slow else []
    if store == "postgres":
        marks += [pytest.mark.postgres, pytest.mark.skipif(not postgres.available(), reason="no Postgres here")]
    return marks


def test_parity(stage: Stage, server: str, scenario: Scenario) -> None:
    expected, actual = stage.both(server, scenario)
    assert "broken off" not in expected[-1], f"the scenario does not run on the real server:\n{_text(expected)}"
    if expected != actual:
        pytest.fail(_difference(expected, actual), pytrace=False)


def _text(entries: list[Any]) -> str:
    return json.dumps(entries, indent=1, ensure_ascii=False, sort_keys=True)


def _difference(expected: list[Any], actual: list[Any]) -> str:
    """A diff with enough around it to see which call it is of."""
    lines = difflib.unified_diff(
        _text(expected).splitlines(), _text(actual).splitlines(), "real", "ours", lineterm="", n=8
    )
    return "\n".join(lines)
