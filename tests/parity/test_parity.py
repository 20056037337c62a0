"""Each scenario leaves on ours, over each store, the transcript that was recorded from the real Temporal dev server.

The real server races with itself in some scenarios when the machine is busy. Its recording is two equal transcripts of one
machine at rest, so a failure here is ours. `--parity-stores real` compares the real server with its recordings.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
import pytest

from tests import postgres
from tests.parity import recordings, scenarios, servers
from tests.parity.puppet import Puppet
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.parity.scenarios import Scenario

pytestmark = [pytest.mark.parity, pytest.mark.timeout(2 * PATIENCE_S)]

SEARCH_ATTRIBUTES = {
    "ParityKeyword": "INDEXED_VALUE_TYPE_KEYWORD",
    "ParityKeywords": "INDEXED_VALUE_TYPE_KEYWORD_LIST",
    "ParityText": "INDEXED_VALUE_TYPE_TEXT",
    "ParityInt": "INDEXED_VALUE_TYPE_INT",
    "ParityDouble": "INDEXED_VALUE_TYPE_DOUBLE",
    "ParityBool": "INDEXED_VALUE_TYPE_BOOL",
    "ParityTime": "INDEXED_VALUE_TYPE_DATETIME",
}


REAL = "real"
LIMITED = " with low limits"
PLAYS = 6
"""How often a scenario is played on the real server until two transcripts are equal."""


class Stage:
    """The servers of a test session, started when first needed.

    A scenario is played on all of them at once: most of it is waiting, and so it is waited for once. The tests of its
    other stores come next (`pytest_generate_tests`), and find what was played.
    """

    def __init__(self, asked: dict[str, list[str]]) -> None:
        """`asked`: for each scenario, by name, the servers that it is played on."""
        self._asked = asked
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._doors: dict[str, tuple[grpc.aio.Channel, httpx.AsyncClient]] = {}
        self._broken: dict[str, Exception] = {}
        self._scenario = ""
        self._played: dict[str, list[Any] | Exception] = {}

    async def _enter(self, server: str) -> tuple[grpc.aio.Channel, httpx.AsyncClient]:
        if server in self._broken:
            raise self._broken[server]  # it takes seconds to see that a server does not come up: once is enough
        if server not in self._doors:
            name, limited, _ = server.partition(LIMITED)
            more = servers.LOW_LIMITS if limited else ()
            if name.startswith(REAL):
                starting = servers.real_server((*more, *servers.ONE_FAIR_PARTITION) if limited else ())
            else:
                starting = servers.our_server(name, more)
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
        for _ in range(3000):
            listed = await puppet.call("ListSearchAttributes")
            if SEARCH_ATTRIBUTES.keys() <= listed.custom_attributes.keys():
                return
            await asyncio.sleep(0.1)

    async def _play(self, server: str, scenario: Scenario) -> list[Any]:
        """The transcript; a scenario that breaks off leaves what it has, and why."""
        endpoints = await self._enter(f"{server}{LIMITED}" if scenario.limited else server)
        puppet = self._puppet(server, scenario, endpoints)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await scenario.play(puppet)
        except Exception as broken:  # noqa: BLE001  (the transcript says it; the comparison decides)
            puppet.note("broken off", f"{type(broken).__name__}: {broken}")
        return puppet.transcript.entries

    def _puppet(self, server: str, scenario: Scenario, endpoints: tuple[grpc.aio.Channel, httpx.AsyncClient]) -> Puppet:
        return Puppet(*endpoints)

    async def _play_on_all(self, scenario: Scenario) -> None:
        names = self._asked[scenario.name]
        played = await asyncio.gather(*(self._play(name, scenario) for name in names), return_exceptions=True)
        for name, entries in zip(names, played, strict=True):
            if not isinstance(entries, list | Exception):
                raise entries
            self._played[name] = entries
        self._scenario = scenario.name

    def record(self, scenario: Scenario) -> list[Any]:
        """Return what the real server answers twice."""
        seen: list[list[Any]] = []
        for number in range(PLAYS):
            # Each on a server of its own: some names are not of the scenario alone.
            entries = self._runner.run(self._play(f"{REAL} {number}", scenario))
            if "broken off" not in entries[-1] and entries in seen:
                return entries
            seen.append(entries)
        raise AssertionError(f"no two of {PLAYS} plays on the real server are equal:\n{_difference(*seen[-2:])}")

    def transcript(self, server: str, scenario: Scenario) -> list[Any]:
        """Return what a server answered."""
        if scenario.name != self._scenario:
            self._runner.run(self._play_on_all(scenario))
        played = self._played[server]
        if isinstance(played, Exception):
            raise played
        return played

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    asked: dict[str, list[str]] = defaultdict(list)
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == test_parity.__name__:
            given: dict[str, Any] = item.callspec.params
            if given["server"] != "postgres" or postgres.available():
                asked[given["scenario"].name].append(given["server"])
    stage = Stage(asked)
    yield stage
    stage.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "scenario" not in metafunc.fixturenames:
        return
    recording = metafunc.config.getoption("--parity-record", False)
    stores = [REAL] if recording else metafunc.config.getoption("--parity-stores", ",".join(servers.STORES)).split(",")
    cases = [
        pytest.param(store, scenario, id=f"{scenario.name}-{store}", marks=_marks(store, scenario))
        for scenario in scenarios.load().values()
        for store in stores
    ]
    metafunc.parametrize(("server", "scenario"), cases)


def _marks(store: str, scenario: Scenario) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.slow] if scenario.slow else []
    if store == "postgres":
        marks += [pytest.mark.postgres, pytest.mark.skipif(not postgres.available(), reason="no Postgres here")]
    return marks


def test_parity(stage: Stage, server: str, scenario: Scenario, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--parity-record", False):
        recordings.write(scenario.name, stage.record(scenario))
        return
    expected, actual = recordings.read(scenario.name), stage.transcript(server, scenario)
    if _text(expected) != _text(actual):
        pytest.fail(_difference(expected, actual), pytrace=False)


def test_every_scenario_has_a_recording(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--parity-record", False):
        pytest.skip("they are being recorded")
    assert set(recordings.recorded()) == scenarios.load().keys(), "run `make record-parity`"


def _text(entries: list[Any]) -> str:
    return json.dumps(entries, indent=1, ensure_ascii=False, sort_keys=True)


def _difference(expected: list[Any], actual: list[Any]) -> str:
    """A diff with enough around it to see which call it is of."""
    lines = difflib.unified_diff(
        _text(expected).splitlines(), _text(actual).splitlines(), "real", "ours", lineterm="", n=8
    )
    return "\n".join(lines)
