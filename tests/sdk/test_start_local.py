"""The SDK starts our executable by itself, as it would start Temporal's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from tests.sdk.support import new

EXECUTABLE = str(Path(sys.executable).with_name("whistlestop"))


async def test_a_file_keeps_its_runs_from_one_environment_to_the_next(tmp_path: Path) -> None:
    """The SDK ends its server with SIGKILL."""
    state = str(tmp_path / "state.db")
    name = new("kept")
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=EXECUTABLE, dev_server_database_filename=state
    ) as environment:
        await environment.client.start_workflow("Any", id=name, task_queue="any")
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=EXECUTABLE, dev_server_database_filename=state
    ) as environment:
        described = await environment.client.get_workflow_handle(name).describe()
        assert described.status is WorkflowExecutionStatus.RUNNING


async def test_memory_keeps_nothing() -> None:
    name = new("lost")
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=EXECUTABLE) as environment:
        await environment.client.start_workflow("Any", id=name, task_queue="any")
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=EXECUTABLE) as environment:
        with pytest.raises(RPCError) as refused:
            await environment.client.get_workflow_handle(name).describe()
    assert refused.value.status is RPCStatusCode.NOT_FOUND


async def test_a_local_environment_does_not_skip_time() -> None:
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=EXECUTABLE) as environment:
        assert environment.supports_time_skipping is False
