"""The search attribute `TemporalReportedProblems`, by which lists find runs whose workflow tasks keep failing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.api.common.v1 import message_pb2 as common_pb

from whistlestop.history.core.workflow_task.causes import cause_name

if TYPE_CHECKING:
    from whistlestop.history.core.transition.run import Run

ATTRIBUTE = "TemporalReportedProblems"


def report(run: Run) -> None:
    """Record how workflow tasks fail, once `workflow_task_problems` of them have failed in a row.

    What counts is the last failure that has an event: those of transient tasks have none.
    """
    least = run.limits.workflow_task_problems
    if not 0 < least <= run.state.workflow_task.attempts_since_last_success:
        return
    timeout = run.state.last_workflow_task_failure
    category = "TimedOut" if timeout else "Failed"
    cause = timeout or cause_name(run.state.last_workflow_task_failure_cause)
    values = [f"category=WorkflowTask{category}", f"cause=WorkflowTask{category}Cause{cause}"]
    payload = common_pb.Payload(
        metadata={"encoding": b"json/plain", "type": b"KeywordList"},
        data=json.dumps(values, separators=(",", ":")).encode(),
    )
    attributes = run.state.search_attributes
    if ATTRIBUTE not in attributes or attributes[ATTRIBUTE] != payload:
        attributes[ATTRIBUTE].CopyFrom(payload)
        run.visibility_changed = run.changed = True


def clear(run: Run) -> None:
    """Remove the attribute, because a workflow task was completed."""
    if ATTRIBUTE in run.state.search_attributes:
        del run.state.search_attributes[ATTRIBUTE]
        run.visibility_changed = run.changed = True
