"""Limits on sizes and texts, the same for every adapter, so that what one store accepts the narrowest does too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.storage.errors import Refused, TooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whistlestop.storage.records import ExecutionWrite, Transition, VisibilityRow

VALUE_LIMIT = 1 << 20
"""Maximum bytes of one column value (Aurora DSQL). Longer states, history batches, transfer tasks, queries and memos
are split into chunks."""

CHUNKED_LIMIT = 64 << 20
"""Maximum bytes of one chunked value. Temporal's own limits on histories and states are much lower."""


NUL = "\0"
"""Postgres can't store it in a text. SQLite can, but many of its functions end the text there."""


def check_transition(transition: Transition) -> None:
    """Raise TooLarge for values that are too long even in chunks, and Refused for text that can't be stored."""
    check_text(*_texts(transition.writes))
    for _, _, answer in transition.answers:
        check_chunked("query answer", len(answer))
    for write in transition.writes:
        check_chunked("mutable state", len(write.state))
        for batch in write.history:
            check_chunked("history batch", len(batch.data))
        for task in write.tasks_added:
            check_value("task", len(task.data))
        for timer in (write.timer, write.retention_timer):
            check_value("timer", len(timer.data) if timer is not None else 0)
        for transfer in write.transfers_added:
            check_chunked("transfer task", len(transfer.data))
        if write.visibility is not None:
            check_visibility(write.visibility)


def _texts(writes: Sequence[ExecutionWrite]) -> list[str]:
    """Return all texts of the writes that come from outside."""
    texts: list[str] = []
    for write in writes:
        key = write.key
        texts.append(key.workflow_id)
        texts.extend([task.key.task_queue for task in write.tasks_added])
        timer, retention_timer, row = write.timer, write.retention_timer, write.visibility
        if timer is not None and timer.key is not key:
            texts.append(timer.key.workflow_id)
        if retention_timer is not None and retention_timer.key is not key:
            texts.append(retention_timer.key.workflow_id)
        if write.transfers_added:
            texts.extend([transfer.key.workflow_id for transfer in write.transfers_added])
        if write.current is not None:
            texts.append(write.current.current.create_request_id)
        if row is not None:
            texts += (row.workflow_type, row.task_queue, row.parent_workflow_id or "", row.root_workflow_id)
    return texts


def check_text(*texts: str) -> None:
    """Raise Refused for a text that contains U+0000."""
    if NUL in "".join(texts):
        found = next(text for text in texts if NUL in text)
        raise Refused(f"the text {found[:200]!r} contains U+0000, which no store holds")


def check_visibility(row: VisibilityRow) -> None:
    """Raise TooLarge when the search attributes do not fit a column or the memo is too long even in chunks."""
    check_value("search attributes", len(row.search_attributes))
    check_chunked("memo", len(row.memo))


def check_value(what: str, size: int) -> None:
    """Raise TooLarge when a value of `size` bytes does not fit a column."""
    if size > VALUE_LIMIT:
        raise TooLarge(f"{what}: {size} bytes; one value may have {VALUE_LIMIT}")


def check_chunked(what: str, size: int) -> None:
    """Raise TooLarge when a value of `size` bytes is too large even in chunks."""
    if size > CHUNKED_LIMIT:
        raise TooLarge(f"{what}: {size} bytes; {CHUNKED_LIMIT} are accepted")
