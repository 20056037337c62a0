"""SDKs start `temporal server start-dev` with certain arguments: ours takes them as they are."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from temporalio import activity, workflow
from temporalio.common import SearchAttributeKey
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from temporalio.client import Client

pytestmark = pytest.mark.sdk

EXECUTABLE = Path(sys.executable).with_name("whistlestop")
BUSY = timedelta(seconds=PATIENCE_S)
"""The SDK's own patience is 5 s, which a machine under load can use up."""
SHOP = SearchAttributeKey.for_keyword("Shop")


@activity.defn
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@workflow.defn(sandboxed=False)
class Greeting:
    @workflow.run
    async def run(self, name: str) -> str:
        return await workflow.execute_activity(greet, name, start_to_close_timeout=timedelta(seconds=10))


async def greeted(client: Client) -> str:
    async with Worker(client, task_queue="greetings", workflows=[Greeting], activities=[greet]):
        work = client.execute_workflow(Greeting.run, "world", id="greeting-1", task_queue="greetings")
        return await asyncio.wait_for(work, PATIENCE_S)


async def test_start_local_runs_ours() -> None:
    """As the SDK starts it without any options."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(EXECUTABLE), dev_server_startup_timeout=BUSY
    ) as environment:
        assert await greeted(environment.client) == "Hello, world!"


async def test_start_local_with_all_its_options(tmp_path: Path) -> None:
    """A file, a namespace, the web UI asked for, search attributes and dynamic configuration."""
    async with await WorkflowEnvironment.start_local(
        namespace="shop",
        ip="127.0.0.1",
        ui=True,
        search_attributes=[SHOP],
        dev_server_existing_path=str(EXECUTABLE),
        dev_server_startup_timeout=BUSY,
        dev_server_database_filename=str(tmp_path / "state.db"),
        dev_server_extra_args=["--dynamic-config-value", "system.enableEagerWorkflowStart=true"],
        dev_server_log_level="warn",
    ) as environment:
        assert environment.client.namespace == "shop"
        assert await greeted(environment.client) == "Hello, world!"
    assert (tmp_path / "state.db").exists()
