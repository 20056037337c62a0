"""The small parts of the server: dynamic configuration, logs, membership, the file lock's words."""

from __future__ import annotations

import io
import json
import logging
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from temporalio.api.common.v1 import Payload

from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.dynamic_config import InvalidDynamicConfig, duration_s
from whistlestop.common.ids import RandomIds
from whistlestop.common.notify import LocalNotifier
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
from whistlestop.history.core.limits import Limits
from whistlestop.history.dynamic_keys import LIMIT_KEYS
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.dynamic_keys import MATCHING_KEYS
from whistlestop.net.listen_address import host_port
from whistlestop.server.config import (
    BadConfig,
    Role,
    ServerConfig,
    StoreConfig,
    bind_address,
    without_password,
)
from whistlestop.server.logs import LogFormat, configure
from whistlestop.server.membership import ALONE_EXPIRY_S, ALONE_S, Membership
from whistlestop.server.settings.dynamic_config import DynamicConfig
from whistlestop.server.stores import make_store

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_dynamic_values_change_fields_by_temporal_keys() -> None:
    """Keys in any case; spans as Go durations or seconds; fractions as percent."""
    config = DynamicConfig.parse([
        "limit.historyCount.suggestContinueAsNew=50",
        'history.workflowTaskHeartbeatTimeout="1m30s"',
        "HISTORY.maxTotalUpdates.suggestContinueAsNewThreshold=0.5",
        "system.enableActivityEagerExecution=false",
        'matching.longPollExpirationInterval="5s"',
    ])  # fmt: skip
    limits = config.apply(Limits(), LIMIT_KEYS)
    assert limits.history_count_suggest_continue_as_new == 50
    assert limits.workflow_task_heartbeat_timeout_ns == 90 * SECOND_NS
    assert limits.total_updates_suggest_continue_as_new_percent == 50
    assert limits.eager_activities is False
    assert config.apply(MatchingConfig(), MATCHING_KEYS).long_poll_s == 5.0


MIB = 1024 * 1024
DEFAULTS = {
    "limit.blobSize.error": 2 * MIB,
    "limit.blobSize.warn": 512 * 1024,
    "limit.memoSize.error": 2 * MIB,
    "limit.memoSize.warn": 2 * 1024,
    "limit.historySize.error": 50 * MIB,
    "limit.historySize.warn": 10 * MIB,
    "limit.historySize.suggestContinueAsNew": 4 * MIB,
    "limit.historyCount.error": 50 * 1024,
    "limit.historyCount.warn": 10 * 1024,
    "limit.historyCount.suggestContinueAsNew": 4 * 1024,
    "limit.mutableStateSize.error": 8 * MIB,
    "limit.numPendingActivities.error": 2000,
    "limit.numPendingChildExecutions.error": 2000,
    "limit.numPendingSignals.error": 2000,
    "limit.numPendingCancelRequests.error": 2000,
    "limit.maxIDLength": 1000,
    "limit.workerBuildIdSize": 255,
    "limit.historyMaxPageSize": 256,
    "limit.endpointNameMaxLength": 200,
    "limit.endpointExternalURLMaxLength": 4 * 1024,
    "limit.endpointDescriptionMaxSize": 20_000,
    "history.maximumSignalsPerExecution": 10_000,
    "history.maximumBufferedEventsBatch": 100,
    "history.maximumBufferedEventsSizeInBytes": 2 * MIB,
    "history.maxInFlightUpdates": 10,
    "history.maxInFlightUpdatePayloads": 20 * MIB,
    "history.maxTotalUpdates": 2000,
    "frontend.searchAttributesNumberOfKeysLimit": 100,
    "frontend.searchAttributesSizeOfValueLimit": 2 * 1024,
    "frontend.searchAttributesTotalSizeLimit": 40 * 1024,
    "frontend.maxWorkflowRulesPerNamespace": 10,
    "frontend.maxBadBinaries": 10,
    "component.nexusoperations.limit.operation.concurrency": 30,
    "component.nexusoperations.limit.operation.token.length": 4096,
}


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_limit_is_temporal_s_until_it_is_set(key: str) -> None:
    """By Temporal's key, wherever it counts: the engine and the frontend hold to one number."""
    values = []
    for number in (None, 7):
        config = DynamicConfig.parse([] if number is None else [f"{key}={number}"])
        for settings, keys in ((Limits(), LIMIT_KEYS), (FrontendConfig(), FRONTEND_KEYS)):
            if key.lower() in keys:
                values.append(getattr(config.apply(settings, keys), keys[key.lower()]))
    half = len(values) // 2
    assert set(values[:half]) == {DEFAULTS[key]}
    assert set(values[half:]) == {7}


@pytest.mark.parametrize("text", ["a", "a=", "a={", "=1", "limit.maxIDLength=true", 'limit.maxIDLength="x"'])
def test_bad_dynamic_values_are_refused(text: str) -> None:
    """Whether not JSON or of the wrong kind."""
    with pytest.raises(InvalidDynamicConfig):
        DynamicConfig.parse([text]).check()


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5), ("0", 0)])
def test_durations(text: str, seconds: float) -> None:
    """As Go writes them."""
    assert duration_s("key", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "1x", "1s2"])
def test_no_durations(text: str) -> None:
    """A number needs its unit."""
    with pytest.raises(InvalidDynamicConfig, match="key"):
        duration_s("key", text)


def test_passwords_stay_out_of_words() -> None:
    """What is printed of a database URL."""
    assert without_password("postgresql://me:secret@db:5432/x?password=y") == "postgresql://me@db:5432/x"
    assert without_password("postgresql://db/x") == "postgresql://db/x"


def test_addresses() -> None:
    """Names become addresses, IPv6 gets its brackets."""
    assert bind_address("localhost") == "127.0.0.1"
    assert bind_address("0.0.0.0") == "0.0.0.0"
    assert host_port(bind_address("[::1]"), 7233) == "[::1]:7233"
    with pytest.raises(BadConfig, match="no-such-host"):
        bind_address("no-such-host.invalid")


def test_roles_that_make_no_sense() -> None:
    """Polls come through the endpoints, so the two roles go together."""
    with pytest.raises(BadConfig):
        ServerConfig(roles=frozenset({Role.MATCHING}))
    with pytest.raises(BadConfig):
        ServerConfig(roles=frozenset({Role.FRONTEND, Role.HISTORY}))


@pytest.fixture
def log_lines() -> Iterator[io.StringIO]:
    """What is logged while the test runs; the root logger is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("asyncio", "grpc", "uvicorn", "psycopg")}
    stream = io.StringIO()
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, number in levels.items():
        logging.getLogger(name).setLevel(number)


def test_json_logs_carry_identifiers_and_no_payloads(log_lines: io.StringIO) -> None:
    """Messages and bytes among the arguments are replaced by what they are."""
    configure("info", LogFormat.JSON, log_lines)
    logging.getLogger("whistlestop.test").info(
        "took %s and %s", Payload(data=b"secret"), b"secret", extra={"workflow_id": "order-1", "run_id": "r"}
    )
    entry = json.loads(log_lines.getvalue())
    assert (entry["level"], entry["workflow_id"], entry["run_id"]) == ("info", "order-1", "r")
    assert entry["msg"] == "took <temporal.api.common.v1.Payload> and <6 bytes>"


def test_text_logs_are_one_line_a_record(log_lines: io.StringIO) -> None:
    """Level, logger, message, identifiers; below the level nothing."""
    configure("warn", LogFormat.PRETTY, log_lines)
    log = logging.getLogger("whistlestop.test")
    log.info("not this")
    log.warning("slow", extra={"workflow_id": "order-1"})
    assert log_lines.getvalue().rstrip().endswith("WARN  whistlestop.test: slow workflow_id=order-1")
    assert len(log_lines.getvalue().splitlines()) == 1


async def test_a_member_renews_its_rows_and_takes_them_out() -> None:
    """One row a role, alive as long as heartbeats come, gone after leaving."""
    store, clock = make_store(StoreConfig()), FakeClock()
    await store.open()
    await store.migrate()
    member = Membership(store, clock, LocalNotifier(clock), "host-1", ("frontend", "history"))
    await member.join("127.0.0.1", 7233)
    for _ in range(5):
        await clock.advance(ALONE_S)
    alive = await store.list_members(clock.now_ns(), 10)
    assert [(each.host_id, each.rpc_port) for each in alive] == [("host-1/frontend", 7233), ("host-1/history", 7233)]
    assert alive[0].last_heartbeat_ns == clock.now_ns()
    assert alive[0].expires_ns == clock.now_ns() + int(ALONE_EXPIRY_S * SECOND_NS)
    await member.leave()
    assert await store.list_members(clock.now_ns(), 10) == []
    await store.close()


def test_random_ids_are_uuids_of_version_7() -> None:
    before_ms, ids, after_ms = time.time_ns() // 10**6, RandomIds(), time.time_ns() // 10**6 + 1000
    made = [ids.uuid() for _ in range(2000)]
    read = [uuid.UUID(each) for each in made]
    assert [str(each) for each in read] == made
    assert {(each.version, each.variant) for each in read} == {(7, uuid.RFC_4122)}
    assert all(before_ms <= each.int >> 80 <= after_ms for each in read)
    assert len(set(made)) == len(made)
