"""Updates (to be filled in)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from temporalio.api.protocol.v1 import message_pb2 as protocol_pb

    from whistlestop.history.core.completion import Completion
    from whistlestop.history.core.run import Run


def handle_message(completion: Completion, message: protocol_pb.Message) -> None:
    """One protocol message of a worker's answer."""


def reject_unprocessed(completion: Completion, sent: list[str]) -> None:
    """Updates that a worker was given and said nothing about are rejected."""


def abort_sent(run: Run) -> None:
    """The task that carried them failed."""


def any_to_send(run: Run) -> bool:
    """An admitted update waits for a workflow task."""
    return False
