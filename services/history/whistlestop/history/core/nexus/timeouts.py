"""Fire the deadlines of a workflow's Nexus operations: their timeouts and their attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history.core.nexus import deadlines as nexus_deadlines
from whistlestop.history.core.nexus import decide as nexus_operations

if TYPE_CHECKING:
    from whistlestop.history.core.state_pb2 import NexusOperation
    from whistlestop.history.core.transition.run import Run


def fire(run: Run) -> None:
    """Fire the operations' timeouts, end attempts that were not answered, and request those that are due."""
    operations = run.state.nexus_operations
    for scheduled_event_id in sorted(operations):
        operation = operations[scheduled_event_id]
        expired = sorted(each for each in nexus_deadlines.timeouts(operation) if each[0] <= run.now_ns)
        if expired:
            run.bookkeeping = False
            nexus_operations.time_out(run, operation, expired[0][1])
        else:
            _fire_attempts(run, operation)
        if not run.is_open:
            return


def _fire_attempts(run: Run, operation: NexusOperation) -> None:
    for cancel in (False, True):
        attempt = nexus_operations.attempt_of(operation, cancel=cancel)
        if 0 < attempt.deadline_ns <= run.now_ns:
            run.bookkeeping = False
            nexus_operations.attempt_timed_out(run, operation, cancel=cancel)
        elif 0 < attempt.next_attempt_ns <= run.now_ns:
            run.bookkeeping = False
            attempt.next_attempt_ns = 0
            want = nexus_operations.want_cancel if cancel else nexus_operations.want_start
            want(run, operation)
