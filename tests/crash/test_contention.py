"""The check of contended workflow ids finds what is wrong in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from tests.crash.contention import Contention

if TYPE_CHECKING:
    from temporalio.client import Client


class Logged(Contention):
    """With a log that a test has written."""

    def __init__(self, *entries: tuple[str, Any, float, float | None, Any]) -> None:
        super().__init__((), "c", 1)
        self._logs["w"] = list(entries)

    async def _run_ids(self, client: Client, workflow_id: str) -> dict[str, list[str]]:
        return {"r1": ["a"]}


def start(called: float, returned: float | None) -> tuple[str, Any, float, float | None, Any]:
    request = rr.StartWorkflowExecutionRequest(workflow_id="w", request_id="r1")
    reply = rr.StartWorkflowExecutionResponse(run_id="a") if returned is not None else None
    return "StartWorkflowExecution", request, called, returned, reply


def describe(status: int, called: float) -> tuple[str, Any, float, float | None, Any]:
    request = rr.DescribeWorkflowExecutionRequest()
    request.execution.workflow_id = "w"
    reply = rr.DescribeWorkflowExecutionResponse()
    reply.workflow_execution_info.execution.run_id = "a"
    reply.workflow_execution_info.status = status  # type: ignore[assignment]
    return "DescribeWorkflowExecution", request, called, called + 1, reply if status else None


@pytest.mark.parametrize(
    ("entries", "is_good"),
    [
        ((start(0, 1), describe(1, 2)), True),
        ((start(0, 1), describe(5, 2)), False),
        ((start(0, 1), describe(0, 2)), False),
        ((start(0, None), describe(0, 2), describe(1, 4)), True),
        ((start(0, None), describe(1, 2), describe(0, 4)), False),
    ],
    ids=["seen", "terminated by nobody", "lost", "late", "lost again"],
)
async def test_logged_answers_are_checked_for_linearizability(entries: tuple[Any, ...], is_good: bool) -> None:
    client: Any = None
    assert (await Logged(*entries).check(client) == []) is is_good
