"""A server whose disk is full or broken for a while refuses calls, and serves again without a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc.aio
import pytest

from tests.disk import vfs
from tests.parity import commands
from tests.parity.puppet import Puppet
from tests.patience import PATIENCE_S
from whistlestop.server.config import ServerConfig, StoreConfig
from whistlestop.server.process import Server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@pytest.mark.parametrize("code", [vfs.FULL, vfs.IOERR], ids=["full", "broken"])
async def test_a_server_recovers_with_its_disk(tmp_path: Path, code: int) -> None:
    path = tmp_path / "store.db"
    config = ServerConfig(StoreConfig(str(path)), port=0, http_port=None, metrics_port=None)
    with vfs.disk() as disk:
        disk.recording = False
        async with Server(config) as server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            before, during = Puppet(channel), Puppet(channel)
            await before.start()
            await before.step(commands.timer())
            disk.fault = lambda kind, _path: code if kind in ("write", "sync") else vfs.OK
            for _ in range(2):
                refused = await during.refused("StartWorkflowExecution", **during.start_fields(request_id="once"))
                assert refused.code == "UNAVAILABLE", refused
                refused = await before.refused(
                    "SignalWorkflowExecution", workflow_execution=before.execution(), signal_name="s", request_id="once"
                )
                assert refused.code == "UNAVAILABLE", refused
            assert len((await before.history()).history.events) > 3
            disk.fault = vfs.nothing_fails
            await during.start(request_id="once")
            await during.step(commands.complete_workflow())
            await before.signal("s", request_id="once")
            await before.step(commands.complete_workflow())
            for each in (before, during):
                assert (await each.describe()).workflow_execution_info.status == 2
            assert sum(
                event.HasField("workflow_execution_signaled_event_attributes")
                for event in (await before.history()).history.events
            ) == 1  # fmt: skip
