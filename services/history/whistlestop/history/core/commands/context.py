"""What the handler of a command gets: the run, the worker's answer, and what the answer's commands have done so far."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.history.v1 import message_pb2 as history_pb
    from temporalio.api.protocol.v1 import message_pb2 as protocol_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.history.core.transition.run import Run


@dataclass(slots=True)
class Completion:
    """The state of processing one answer."""

    run: Run
    request: service_pb.RespondWorkflowTaskCompletedRequest
    completed_event_id: int
    had_buffered_events: bool
    """Whether events arrived during the task: the workflow may not close before it has seen them."""
    messages: dict[str, protocol_pb.Message]
    """The messages that no command has referred to yet, by message id."""
    wants_new_task: bool = False
    """Whether a command requires a new workflow task at once (an activity cancelled before it was started)."""
    eager_activities: list[int] = field(default_factory=list)
    """Scheduled event ids of the activities that are started with the reply."""

    def want_new_task(self) -> None:
        """Require a new workflow task at once."""
        self.wants_new_task = True

    def note_buffer_taken(self) -> None:
        """Note that events were taken out of the buffer: if it is empty now, the workflow may close after all."""
        self.had_buffered_events = self.had_buffered_events and self.run.has_buffered_events


Handler: TypeAlias = "Callable[[Completion, command_pb.Command], history_pb.HistoryEvent | None]"
"""Returns the event that it wrote; None without one."""
