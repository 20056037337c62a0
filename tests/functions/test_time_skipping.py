"""A workflow whose clock skips, through the functions: no process lives between the calls, and none has to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.functions.client import QUEUE
from tests.parity import commands
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from tests.functions.client import Cloud

DAY_S = 24 * 3600
SKIPS = {"enabled": True}


async def test_a_month_passes_between_two_polls(cloud: Cloud) -> None:
    cloud.store_env["WHISTLESTOP_TIME_SKIPPING"] = "true"
    await cloud.start("patient", time_skipping_config=SKIPS)
    await cloud.step(commands.timer("month", 30 * DAY_S))
    await cloud.step(commands.continue_as_new(QUEUE["name"]))
    await cloud.step(commands.timer("day", DAY_S))
    await cloud.step(commands.complete_workflow("done"))
    described = await cloud.call("DescribeWorkflowExecution", execution={"workflow_id": "patient"})
    started, closed = (
        getattr(described.workflow_execution_info, name).ToNanoseconds() for name in ("start_time", "close_time")
    )
    assert (closed - started) // (DAY_S * 10**9) == 1
    skipped = await cloud.event_names("patient")
    assert skipped.count("WorkflowExecutionTimeSkippingTransitioned") == 1


async def test_time_skipping_is_off_by_default(cloud: Cloud) -> None:
    with pytest.raises(ServiceError) as error:
        await cloud.start("impatient", time_skipping_config=SKIPS)
    assert error.value.code is Code.UNIMPLEMENTED
