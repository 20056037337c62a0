"""Commands to workers: a worker with a control queue is notified there to cancel an activity.

Rules of this file, which are Temporal's:
- A started activity gets a command when its workflow requests its cancellation, and when its run closes in any way. One
  that waits for a retry gets none, because no worker has it.
- All commands of one transition to the same control queue are one request.
- Commands are best effort. A worker that misses one learns of the cancellation by its next heartbeat.

The requests become transfer tasks; `history/transfers/worker_commands.py` delivers them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history import tokens
from whistlestop.history.core import nonces
from whistlestop.history.core.state_pb2 import TransferData

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run

KIND = "worker_commands"
"""The kind of the transfer tasks."""


def cancel(run: Run, activity: Activity) -> None:
    """Notify the activity's worker to cancel it, if it is started and its worker takes commands."""
    if not run.limits.cancel_activity_worker_command or not _takes_commands(activity):
        return
    waiting = run.activities_to_cancel.setdefault(activity.worker_control_task_queue, {})
    waiting[activity.scheduled_event_id] = tokens.of_activity(run, activity)


def cancel_all(run: Run) -> None:
    """Notify the workers of all activities of a closing run."""
    if run.limits.cancel_activity_worker_command:
        for scheduled_event_id in sorted(run.state.activities):
            cancel(run, run.state.activities[scheduled_event_id])


def _takes_commands(activity: Activity) -> bool:
    if not activity.started_ns or not activity.worker_control_task_queue:
        return False
    # Release 0.1.0 starts an attempt without recording its control queue, so this may be an earlier attempt's.
    return nonces.current(activity, activity.started_ns) != 0


def write_requests(run: Run) -> None:
    """Add a transfer task for each worker's control queue; none without activities to cancel."""
    for queue, waiting in run.activities_to_cancel.items():
        data = TransferData(
            control_task_queue=queue, cancel_activity_tokens=waiting.values(), request_id=run.ids.uuid()
        )
        run.add_transfer(KIND, data)
