"""Dynamic configuration from a file in Temporal's YAML: what is read, what is refused, and what follows when it changes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.api.fixtures import World, new_world
from tests.parity.puppet import Puppet
from tests.patience import PATIENCE_S
from whistlestop.common.clock import FakeClock
from whistlestop.common.dynamic_config import ONE_VALUE, InvalidDynamicConfig
from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
from whistlestop.history.core.limits import Limits
from whistlestop.history.dynamic_keys import LIMIT_KEYS
from whistlestop.matching.config import MatchingConfig
from whistlestop.matching.dynamic_keys import MATCHING_KEYS
from whistlestop.net.outbound import Named, Outbound
from whistlestop.server.config import ServerConfig
from whistlestop.server.process import Server
from whistlestop.server.settings import live_config
from whistlestop.server.settings.dynamic_config import HONOURED, DynamicConfig, by_namespace
from whistlestop.server.settings.dynamic_file import MAX_BYTES, DynamicSource, parse
from whistlestop.server.settings.live_config import AT_THE_START, EVERY_S, LiveConfig
from whistlestop.server.settings.temporal_settings import settings

EXAMPLE = """
limit.maxIDLength:
  - value: 255
frontend.enableSchedules:
  - value: false
    constraints: {namespace: orders}
  - value: true
history.longPollExpirationInterval:
  - value: 5s
    constraints:
      Namespace: orders
worker.protectedNamespaces:
  - value: [orders]
"""


def source_of(tmp_path: Path, text: str = EXAMPLE, *flags: str) -> DynamicSource:
    path = tmp_path / "dynamic.yaml"
    path.write_text(text)
    return DynamicSource(str(path), DynamicConfig.parse(flags))


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_a_value_holds_everywhere_or_in_one_namespace(tmp_path: Path) -> None:
    dynamic = source_of(tmp_path).read()
    frontend = dynamic.apply(FrontendConfig(), FRONTEND_KEYS)
    assert (frontend.max_id_length, frontend.protected_namespaces) == (255, ("orders",))
    assert (frontend.schedules_enabled, frontend.of("orders").schedules_enabled) == (True, False)
    assert frontend.of("orders").max_id_length == 255
    assert frontend.of("elsewhere") is frontend
    limits = dynamic.apply(Limits(), LIMIT_KEYS)
    assert (limits.long_poll_ns, limits.of("orders").long_poll_ns) == (20 * 10**9, 5 * 10**9)


def test_flags_go_before_the_file_in_all_namespaces(tmp_path: Path) -> None:
    dynamic = source_of(tmp_path, EXAMPLE, "frontend.enableSchedules=true", "limit.maxIDLength=9").read()
    frontend = dynamic.apply(FrontendConfig(), FRONTEND_KEYS)
    assert (frontend.max_id_length, frontend.of("orders").schedules_enabled) == (9, True)
    assert dynamic.sources["", "limit.maxidlength"] == "--dynamic-config-value"
    assert dynamic.sources["orders", "history.longpollexpirationinterval"].endswith("dynamic.yaml")


def test_the_first_of_values_with_equal_constraints_counts() -> None:
    assert parse("limit.maxIDLength: [{value: 1}, {value: 2}]", "f").values == {"limit.maxidlength": 1}


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "limit.maxIDLength: []"])
def test_a_file_may_say_nothing(text: str) -> None:
    assert parse(text, "f") == DynamicConfig({})


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [", "is not YAML"),
        ("- a", "expected keys"),
        ("7: [{value: 1}]", "the key 7 is no text"),
        ("limit.maxIDLength: 255", 'the key "limit.maxIDLength" needs a list of values'),
        ("limit.maxIDLength: [255]", 'a value of "limit.maxIDLength" is not'),
        ("limit.maxIDLength: [{constraints: {}}]", 'a value of "limit.maxIDLength" is not'),
        ("limit.maxIDLength: [{value: 1, constraint: {}}]", 'a value of "limit.maxIDLength" is not'),
        ("limit.maxIDLength: [{value: 1, constraints: orders}]", 'the constraints of "limit.maxIDLength"'),
        ("limit.maxIDLength: [{value: 1, constraints: {name: orders}}]", '"name" of the key "limit.maxIDLength" is no'),
        ("limit.blobSize.error: [{value: 1, constraints: {namespace: 7}}]", "the namespace of the key"),
        ("limit.maxIDLength: [{value: 2020-01-01}]", 'the value of "limit.maxIDLength" is neither'),
        ("limit.maxIDLength: [{value: long}]", 'dynamic config key "limit.maxidlength" can\'t be "long"'),
        ("limit.blobSize.error: [{value: x, constraints: {namespace: n}}]", 'can\'t be "x"'),
        ("a: &a [*a]", "a"),
    ],
)
def test_a_file_with_mistakes_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(InvalidDynamicConfig) as refused:
        source_of(tmp_path, text).read()
    assert "dynamic.yaml" in str(refused.value)
    assert fault in str(refused.value)


def test_an_invalid_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDynamicConfig, match="No such file"):
        DynamicSource(str(tmp_path / "none"), DynamicConfig({})).read()
    with pytest.raises(InvalidDynamicConfig, match="more than"):
        source_of(tmp_path, "#" * (MAX_BYTES + 1)).read()
    (tmp_path / "dynamic.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InvalidDynamicConfig, match="not UTF-8"):
        DynamicSource(str(tmp_path / "dynamic.yaml"), DynamicConfig({})).read()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("matching.longPollExpirationInterval: [{value: 1s, constraints: {taskQueueName: q}}]", "taskqueuename"),
        ("matching.longPollExpirationInterval: [{value: 1s, constraints: {namespace: n}}]", "namespace"),
        ("limit.maxIDLength: [{value: 1, constraints: {namespace: n}}]", "namespace"),
        ("limit.blobSize.error: [{value: 1, constraints: {namespace: n, taskType: Workflow}}]", "tasktype"),
    ],
)
def test_a_constraint_that_has_no_effect_is_warned_of(text: str, names: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert parse(text, "f") == DynamicConfig({})
    assert f"does not take the constraint {names}: that value is ignored" in caplog.text


def test_keys_that_have_one_value_here_are_few() -> None:
    """And each of them may differ between namespaces in Temporal."""
    scopes = {setting.key.lower(): setting.scope for setting in settings()}
    assert {key: scopes[key] for key in ONE_VALUE} == dict.fromkeys(ONE_VALUE, "Namespace")
    assert HONOURED - by_namespace() >= ONE_VALUE
    assert {"limit.blobsize.error", "frontend.enableschedules"} <= by_namespace()


# ---- a file that changes ---------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def world() -> Any:
    made = await new_world()
    yield made
    await made.frontend.close()
    await made.frontend.ports.store.close()


class Taken:
    """What a live configuration handed over."""

    def __init__(self, tmp_path: Path, text: str = EXAMPLE) -> None:
        self.source = source_of(tmp_path, text)
        self.clock = FakeClock()
        self.values: list[DynamicConfig] = []
        self.live = LiveConfig(self.source, self.source.read(), self.clock, self.values.append)

    def write(self, text: str) -> None:
        """Another file in its place, as editors and ConfigMaps do it."""
        path = Path(self.source.path)
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)


def test_a_file_that_changed_is_taken_over_once(tmp_path: Path) -> None:
    taken = Taken(tmp_path)
    assert not taken.live.reload_if_changed()
    taken.write(EXAMPLE.replace("255", "100"))
    assert (taken.live.reload_if_changed(), taken.live.reload_if_changed()) == (True, False)
    (dynamic,) = taken.values
    assert dynamic.values["limit.maxidlength"] == 100


def test_a_comment_changes_nothing(tmp_path: Path) -> None:
    taken = Taken(tmp_path)
    taken.write(EXAMPLE + "# why\n")
    assert not taken.live.reload_if_changed()
    assert taken.values == []


@pytest.mark.parametrize("text", ["a: [", "limit.maxIDLength: [{value: long}]", None])
def test_a_file_that_can_t_be_read_changes_nothing(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """And is complained of once, until it changes again."""
    taken = Taken(tmp_path)
    if text is None:
        Path(taken.source.path).unlink()
    else:
        taken.write(text)
    assert (taken.live.reload_if_changed(), taken.live.reload_if_changed(), taken.values) == (False, False, [])
    assert caplog.text.count("the previous values stay in force") == 1
    taken.write("limit.maxIDLength: [{value: 7}]")
    assert taken.live.reload_if_changed()
    assert taken.values[0].values == {"limit.maxidlength": 7}


def test_values_read_only_at_the_start_keep_their_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken = Taken(tmp_path, 'frontend.httpAllowedHosts: [{value: ["a"]}]')
    taken.write('frontend.httpAllowedHosts: [{value: ["b"]}]\nlimit.maxIDLength: [{value: 7}]')
    assert taken.live.reload_if_changed()
    assert taken.values[0].values == {"limit.maxidlength": 7, "frontend.httpallowedhosts": ["a"]}
    assert "keep their values: frontend.httpallowedhosts" in caplog.text
    assert AT_THE_START <= HONOURED


async def test_the_file_is_checked_from_time_to_time(tmp_path: Path) -> None:
    taken = Taken(tmp_path)
    task = asyncio.ensure_future(taken.live.run())
    await asyncio.sleep(0)
    taken.write("limit.maxIDLength: [{value: 7}]")
    await taken.clock.advance(EVERY_S)
    task.cancel()
    assert len(taken.values) == 1


async def _refused(world: World, method: str, request: Any) -> Code | None:
    try:
        await world.call(method, request)
    except ServiceError as error:
        return error.code
    return None


async def test_services_follow(world: World) -> None:
    """A limit, a switch of one namespace, and what is told of it; and back when the file no longer says so."""
    frontend = world.frontend
    services: Any = SimpleNamespace(
        frontend=frontend, history=None, matching=None, engine=SimpleNamespace(outbound=Outbound())
    )
    held = frontend.ports.config
    listing = service_pb.ListSchedulesRequest(namespace="default")
    long = service_pb.PollWorkflowTaskQueueRequest(namespace="default", identity="x" * 20)
    long.task_queue.name = "q"

    async def state() -> tuple[Code | None, Code | None, bool]:
        described: Any = await world.call("DescribeNamespace", service_pb.DescribeNamespaceRequest(namespace="default"))
        told = described.namespace_info.supports_schedules
        return (
            await _refused(world, "ListSchedules", listing),
            await _refused(world, "PollWorkflowTaskQueue", long),
            told,
        )

    assert await state() == (None, None, True)
    changed = DynamicConfig({"limit.maxidlength": 10}, {"default": {"frontend.enableschedules": False}})
    live_config.reconfigure(services, changed)
    assert await state() == (Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT, False)
    assert (held.max_id_length, held.of("other").schedules_enabled) == (10, True)
    live_config.reconfigure(services, DynamicConfig({}))
    assert await state() == (None, None, True)
    assert (held.max_id_length, held.persistence_store) == (1000, FrontendConfig().persistence_store)


def test_addresses_that_callbacks_may_have_follow(world: World) -> None:
    """The frontend takes such callbacks, and the server connects to the host; what `--allow-outbound` names stays."""
    frontend = world.frontend
    outbound = Outbound(Named.parse(["flag.internal"]))
    services: Any = SimpleNamespace(
        frontend=frontend, history=None, matching=None, engine=SimpleNamespace(outbound=outbound)
    )
    for host in ("one.internal", "other.internal"):
        pattern = {"Pattern": f"{host}:*", "AllowInsecure": True}
        live_config.reconfigure(services, DynamicConfig({"callback.allowedaddresses": [pattern]}))
        assert frontend.ports.config.callback_allowed_addresses == ((f"{host}:*", True),)
        named = [
            name for name in ("flag.internal", "one.internal", "other.internal") if outbound.named.has_host(name, 80)
        ]
        assert named == sorted(["flag.internal", host])


def test_settings_are_renewed_in_place() -> None:
    """Whoever holds them sees the new values; what no key names stays as it was made."""
    limits, matching = Limits(pending_children=7), MatchingConfig(host="h", long_poll_s=3.0)
    live_config._renew(limits, DynamicConfig({}, {"n": {"limit.blobsize.error": 5}}), LIMIT_KEYS)
    live_config._renew(matching, DynamicConfig({"matching.longpollexpirationinterval": "4s"}), MATCHING_KEYS)
    assert (limits.blob_size_error, limits.of("n").blob_size_error, limits.pending_children) == (2 << 20, 5, 2000)
    assert (matching.host, matching.long_poll_s) == ("h", 4.0)


async def _told_of_schedules(puppet: Puppet, *, told: bool) -> None:
    """Wait until the namespace's description says so."""
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(100_000):
            if (await puppet.call("DescribeNamespace")).namespace_info.supports_schedules == told:
                return
            await asyncio.sleep(0.01)


async def test_a_server_follows_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs, and without a call being lost."""
    monkeypatch.setattr(live_config, "EVERY_S", 0.01)
    taken = Taken(tmp_path, "limit.maxIDLength: [{value: 255}]")
    config = ServerConfig(
        port=0, http_port=None, metrics_port=None, drain_s=0.1, dynamic=taken.source.read(), dynamic_source=taken.source
    )
    async with Server(config) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        puppet = Puppet(channel)
        assert (await puppet.call("DescribeNamespace")).namespace_info.supports_schedules
        taken.write("frontend.enableSchedules: [{value: false, constraints: {namespace: default}}]")
        await _told_of_schedules(puppet, told=False)
        assert (await puppet.refused("ListSchedules")).code == "PERMISSION_DENIED"
        taken.write("")
        await _told_of_schedules(puppet, told=True)
        await puppet.call("ListSchedules")
