"""Decide which waits of clients to re-check at once after a call went through the bridge.

Only waits for the workflow of the call are re-checked, and waits for its end only if the call may have ended it. A
call that cannot be parsed counts for all workflows. Other waits re-check at their usual time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError
from temporalio.api.enums.v1 import command_type_pb2 as commands
from temporalio.api.workflowservice.v1 import request_response_pb2 as rr

from whistlestop.common.clock import wait_until
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.proto.internal_pb2 import TaskToken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.clock import Clock

_COMPLETED: Final = "RespondWorkflowTaskCompleted"
_BY_TOKEN: Final[Mapping[str, Any]] = {
    _COMPLETED: rr.RespondWorkflowTaskCompletedRequest,
    "RespondWorkflowTaskFailed": rr.RespondWorkflowTaskFailedRequest,
    "RespondActivityTaskCompleted": rr.RespondActivityTaskCompletedRequest,
    "RespondActivityTaskFailed": rr.RespondActivityTaskFailedRequest,
    "RespondActivityTaskCanceled": rr.RespondActivityTaskCanceledRequest,
    "RespondQueryTaskCompleted": rr.RespondQueryTaskCompletedRequest,
}
_BY_EXECUTION: Final[Mapping[str, Any]] = {
    "SignalWorkflowExecution": rr.SignalWorkflowExecutionRequest,
    "RequestCancelWorkflowExecution": rr.RequestCancelWorkflowExecutionRequest,
}
_ENDS: Final = frozenset({
    commands.COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION, commands.COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
    commands.COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION, commands.COMMAND_TYPE_CONTINUE_AS_NEW_WORKFLOW_EXECUTION,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """What a call may have caused."""

    workflow_id: str = ""
    """Empty for any workflow."""
    ends: bool = True
    """Whether it may have ended the workflow."""


def step_of(path: str, data: bytes) -> Step:
    """Return what a call may have caused, given its path and request."""
    name = path.rpartition("/")[2]
    try:
        if name in _BY_TOKEN:
            request = _BY_TOKEN[name].FromString(data)
            workflow_id = TaskToken.FromString(request.task_token).workflow_id
            ends = name == _COMPLETED and any(command.command_type in _ENDS for command in request.commands)
            return Step(workflow_id, ends)
        if name in _BY_EXECUTION:
            return Step(_BY_EXECUTION[name].FromString(data).workflow_execution.workflow_id, ends=False)
        if name == "StartWorkflowExecution":
            return Step(rr.StartWorkflowExecutionRequest.FromString(data).workflow_id)
    except DecodeError:
        pass  # the target reports the error
    return Step()


class Progress:
    """Wakes waits of clients."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Event, tuple[str, bool]] = {}

    def notify(self, step: Step) -> None:
        """Wake whoever waits for such a step; nothing happens when nobody does."""
        for event, (workflow_id, only_end) in self._waiting.items():
            if step.workflow_id in ("", workflow_id) and (step.ends or not only_end):
                event.set()

    async def wait(self, clock: Clock, until_ns: int, workflow_id: str, *, only_end: bool) -> bool:
        """Return whether something happened to the workflow (`only_end`: may have ended it) before `until_ns`."""
        event = asyncio.Event()
        self._waiting[event] = (workflow_id, only_end)
        try:
            await wait_until(clock, until_ns, event.wait())
        finally:
            del self._waiting[event]
        return event.is_set()
