"""PauseActivity, UnpauseActivity, ResetActivity and UpdateActivityOptions."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import invalid_argument
from whistlestop.common.rpcs.history_service import HistoryService
from whistlestop.history.api import handles
from whistlestop.history.core.activity import operations
from whistlestop.history.core.times import duration_ns
from whistlestop.history.engine import histories

if TYPE_CHECKING:
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.common.context import CallContext
    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.ports import HistoryPorts


def _check(request: Any) -> None:
    if not request.execution.workflow_id:
        raise invalid_argument("WorkflowId is not set on request.")
    if request.WhichOneof("activity") is None:
        raise invalid_argument("Either Activity.Id or Activity.Type should be set on request.")
    if request.execution.run_id and not _is_uuid(request.execution.run_id):
        raise invalid_argument("RunId is not valid UUID.")


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _selected(run: Run, request: Any) -> list[Activity]:
    kind = request.WhichOneof("activity")
    return operations.selected(
        run,
        activity_id=request.id if kind == "id" else "",
        activity_type=request.type if kind == "type" else "",
        every=kind in ("unpause_all", "match_all"),
    )


def jitter_ns(ports: HistoryPorts, request: Any) -> int:
    """Return a random part of the request's jitter, in nanoseconds. It is drawn here, because the core may not."""
    span_ns = duration_ns(request.jitter)
    return int(ports.ids.uuid().replace("-", "")[-15:], 16) % span_ns if span_ns > 0 else 0


async def _originals(
    ports: HistoryPorts, request: Any, context: CallContext
) -> dict[int, history_pb.ActivityTaskScheduledEventAttributes]:
    """Return the scheduled events of the run's pending activities, by event id, with the original options."""
    engine = ports.engine
    entry = await engine.find(context.namespace_id, request.execution.workflow_id, request.execution.run_id)
    found = {}
    for activity in entry.state.activities.values():
        event = await histories.read_event(
            engine, entry, activity.scheduled_event_batch_id, activity.scheduled_event_id
        )
        found[activity.scheduled_event_id] = event.activity_task_scheduled_event_attributes
    return found


@handles(HistoryService.PauseActivity)
async def pause_activity(
    ports: HistoryPorts, request: service_pb.PauseActivityRequest, context: CallContext
) -> service_pb.PauseActivityResponse:
    """Pause the selected activities. Raise INVALID_ARGUMENT, NOT_FOUND when there are none, or FAILED_PRECONDITION."""
    _check(request)
    await ports.engine.change(
        context.namespace_id,
        request.execution.workflow_id,
        request.execution.run_id,
        lambda run: operations.pause(
            run,
            _selected(run, request),
            identity=request.identity,
            reason=request.reason,
            request_id=request.request_id,
        ),
    )
    return service_pb.PauseActivityResponse()


@handles(HistoryService.UnpauseActivity)
async def unpause_activity(
    ports: HistoryPorts, request: service_pb.UnpauseActivityRequest, context: CallContext
) -> service_pb.UnpauseActivityResponse:
    """Unpause the selected activities. Raise INVALID_ARGUMENT, or NOT_FOUND when there are none."""
    _check(request)
    drawn_ns = jitter_ns(ports, request)
    await ports.engine.change(
        context.namespace_id,
        request.execution.workflow_id,
        request.execution.run_id,
        lambda run: operations.unpause(
            run,
            _selected(run, request),
            reset_attempts=request.reset_attempts,
            reset_heartbeat=request.reset_heartbeat,
            jitter_ns=drawn_ns,
        ),
    )
    return service_pb.UnpauseActivityResponse()


@handles(HistoryService.ResetActivity)
async def reset_activity(
    ports: HistoryPorts, request: service_pb.ResetActivityRequest, context: CallContext
) -> service_pb.ResetActivityResponse:
    """Reset the selected activities to their first attempts.

    Raise INVALID_ARGUMENT, or NOT_FOUND when there are none.
    """
    _check(request)
    drawn_ns = jitter_ns(ports, request)
    originals = await _originals(ports, request, context) if request.restore_original_options else None
    await ports.engine.change(
        context.namespace_id,
        request.execution.workflow_id,
        request.execution.run_id,
        lambda run: operations.reset(
            run,
            _selected(run, request),
            reset_heartbeat=request.reset_heartbeat,
            keep_paused=request.keep_paused,
            jitter_ns=drawn_ns,
            originals=originals,
        ),
    )
    return service_pb.ResetActivityResponse()


@handles(HistoryService.UpdateActivityOptions)
async def update_activity_options(
    ports: HistoryPorts, request: service_pb.UpdateActivityOptionsRequest, context: CallContext
) -> service_pb.UpdateActivityOptionsResponse:
    """Change the options of the selected activities, or restore the original ones; return the result.

    Raise INVALID_ARGUMENT, or NOT_FOUND when there are none.
    """
    _check(request)
    if request.restore_original and request.update_mask.paths:
        raise invalid_argument("Both UpdateMask and RestoreOriginal are provided")
    if not request.restore_original:
        if not request.HasField("activity_options"):
            raise invalid_argument("ActivityOptions are not provided")
        if not request.HasField("update_mask"):
            raise invalid_argument("UpdateMask is not provided")
    originals = await _originals(ports, request, context) if request.restore_original else {}

    def decide(run: Run) -> service_pb.UpdateActivityOptionsResponse:
        activities = _selected(run, request)
        options = (
            operations.restore_options(run, activities, originals)
            if request.restore_original
            else operations.update_options(run, activities, request.activity_options, request.update_mask.paths)
        )
        return service_pb.UpdateActivityOptionsResponse(activity_options=options)

    _, reply = await ports.engine.change(
        context.namespace_id, request.execution.workflow_id, request.execution.run_id, decide
    )
    return reply
