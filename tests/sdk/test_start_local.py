"""The SDK starts our executable by itself, as it would start Temporal's."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from tests.patience import PATIENCE_S
from tests.sdk.support import new

EXECUTABLE = str(Path(sys.executable).with_name("whistlestop"))
BUSY = timedelta(seconds=PATIENCE_S)
"""The SDK's own patience is 5 s, which a machine under load can use up."""


async def started(state: Path | None = None) -> WorkflowEnvironment:
    return await WorkflowEnvironment.start_local(
        dev_server_existing_path=EXECUTABLE, dev_server_startup_timeout=BUSY,
        dev_server_database_filename=str(state) if state else None,
    )  # fmt: skip


async def test_a_file_keeps_its_runs_from_one_environment_to_the_next(tmp_path: Path) -> None:
    """The SDK ends its server with SIGKILL."""
    state = tmp_path / "state.db"
    name = new("kept")
    async with await started(state) as environment:
        await environment.client.start_workflow("Any", id=name, task_queue="any")
    async with await started(state) as environment:
        described = await environment.client.get_workflow_handle(name).describe()
        assert described.status is WorkflowExecutionStatus.RUNNING


async def test_memory_keeps_nothing() -> None:
    name = new("lost")
    async with await started() as environment:
        await environment.client.start_workflow("Any", id=name, task_queue="any")
    async with await started() as environment:
        with pytest.raises(RPCError) as refused:
            await environment.client.get_workflow_handle(name).describe()
    assert refused.value.status is RPCStatusCode.NOT_FOUND
