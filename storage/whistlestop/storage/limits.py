"""Limits on sizes and texts, the same for every adapter, so that what one store accepts the narrowest does too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.storage.errors import Refused, TooLarge

if TYPE_CHECKING:
    from whistlestop.storage.records import ExecutionWrite, Transition, VisibilityRow

VALUE_LIMIT = 1 << 20
"""Maximum bytes of one column value (Aurora DSQL). Longer states, history batches, transfer tasks, queries and memos
are split into chunks."""

TIMER_LIMIT = 1 << 10
"""Maximum bytes of a timer's data, which is part of an index."""

CHUNKED_LIMIT = 64 << 20
"""Maximum bytes of one chunked value. Temporal's own limits on histories and states are much lower."""


NUL = "\0"
"""Postgres can't store it in a text. SQLite can, but many of its functions end the text there."""


def check_transition(transition: Transition) -> None:
    """Raise TooLarge for values that are too long even in chunks, and Refused for text that can't be stored."""
    for _, _, answer in transition.answers:
        check_chunked("query answer", len(answer))
    for write in transition.writes:
        _check_write(write)


def _check_write(write: ExecutionWrite) -> None:
    texts = [write.key.workflow_id]
    check_chunked("mutable state", len(write.state))
    for batch in write.history:
        check_chunked("history batch", len(batch.data))
    for task in write.tasks_added:
        texts.append(task.key.task_queue)
        check_value("task", len(task.data))
    for timer in (write.timer, write.retention_timer):
        if timer is not None:
            texts.append(timer.key.workflow_id)
            check_value("timer", len(timer.data), TIMER_LIMIT)
    for transfer_task in write.transfer_tasks_added:
        texts.append(transfer_task.key.workflow_id)
        check_chunked("transfer task", len(transfer_task.data))
    if write.current is not None:
        texts.append(write.current.current.create_request_id)
    row = write.visibility
    if row is not None:
        texts += (row.workflow_type, row.task_queue, row.parent_workflow_id or "", row.root_workflow_id)
        check_visibility(row)
    check_text(*texts)


def check_text(*texts: str) -> None:
    """Raise Refused for a text that contains U+0000."""
    if NUL in "".join(texts):
        found = next(text for text in texts if NUL in text)
        raise Refused(f"the text {found[:200]!r} contains U+0000, which no store holds")


def check_visibility(row: VisibilityRow) -> None:
    """Raise TooLarge when the search attributes do not fit a column or the memo is too long even in chunks."""
    check_value("search attributes", len(row.search_attributes))
    check_chunked("memo", len(row.memo))


def check_value(what: str, size: int, most: int = VALUE_LIMIT) -> None:
    """Raise TooLarge when a value of `size` bytes does not fit a column."""
    if size > most:
        raise TooLarge(f"{what}: {size} bytes; one value may have {most}")


def check_chunked(what: str, size: int) -> None:
    """Raise TooLarge when a value of `size` bytes is too large even in chunks."""
    if size > CHUNKED_LIMIT:
        raise TooLarge(f"{what}: {size} bytes; {CHUNKED_LIMIT} are accepted")
