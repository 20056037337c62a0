"""Commands to workers: a worker that named its control queue is told there to cancel an activity.

Rules of this file, which are Temporal's:
- An activity that has started gets a command when its workflow asks for its cancellation, and when its run closes in
  whatever way. One that waits for its next attempt gets none: no worker has it.
- All commands of one transition to the same control queue are one request.
- A command is best effort. The worker that misses it learns of the cancellation by its next heartbeat.

The requests go into the outbox; `worker_commands.py` of the shell delivers them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history import tokens
from whistlestop.history.core import nonces
from whistlestop.history.core.state_pb2 import TransferData

if TYPE_CHECKING:
    from whistlestop.history.core.run import Run
    from whistlestop.history.core.state_pb2 import Activity

KIND = "worker_commands"
"""Of the outbox row."""


def cancel(run: Run, activity: Activity) -> None:
    """Have the worker of the activity told to cancel it, if one works on it and takes commands."""
    if not run.limits.cancel_activity_worker_command or not _takes_commands(activity):
        return
    waiting = run.activities_to_cancel.setdefault(activity.worker_control_task_queue, {})
    waiting[activity.scheduled_event_id] = tokens.of_activity(run, activity)


def cancel_all(run: Run) -> None:
    """The run closes: have the workers of all its activities told to cancel them."""
    if run.limits.cancel_activity_worker_command:
        for scheduled_event_id in sorted(run.state.activities):
            cancel(run, run.state.activities[scheduled_event_id])


def _takes_commands(activity: Activity) -> bool:
    if not activity.started_ns or not activity.worker_control_task_queue:
        return False
    # 0.1.0 starts an attempt without noting its control queue: the one that stands there is an earlier attempt's.
    return nonces.current(activity, activity.started_ns) != 0


def write_requests(run: Run) -> None:
    """Put the transition's requests into the outbox."""
    for queue, waiting in run.activities_to_cancel.items():
        data = TransferData(
            control_task_queue=queue, cancel_activity_tokens=waiting.values(), request_id=run.ids.uuid()
        )
        run.add_transfer(KIND, data)
