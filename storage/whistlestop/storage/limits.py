"""Sizes and texts that every adapter refuses alike, so that what runs on one store runs on the narrowest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.storage.errors import Refused, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whistlestop.storage.records import Transition, VisibilityRow

VALUE_LIMIT = 1 << 20
"""Bytes of one column value (Aurora DSQL). Longer states, batches, transfers, queries and memos are chunked."""

CHUNKED_LIMIT = 64 << 20
"""Bytes of one chunked value. Temporal's own limits stop a history or a state long before."""


NUL = "\0"
"""Postgres has no text with it. SQLite takes it, and then ends the text there in many of its functions."""


def check_transition(transition: Transition) -> None:
    """Raise TooLarge for what no chunking helps, and Refused for text that no column holds."""
    check_text(*_texts(transition))
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


def _texts(transition: Transition) -> Iterator[str]:
    """Yield every text of a transition that is given from outside."""
    for write in transition.writes:
        yield write.key.workflow_id
        for task in write.tasks_added:
            yield task.key.task_queue
        for timer in (write.timer, write.retention_timer):
            if timer is not None and timer.key is not write.key:
                yield timer.key.workflow_id
        for transfer in write.transfers_added:
            if transfer.key is not write.key:
                yield transfer.key.workflow_id
        if write.current is not None:
            yield write.current.current.create_request_id
        row = write.visibility
        if row is not None:
            yield row.workflow_type
            yield row.task_queue
            yield row.parent_workflow_id or ""
            yield row.root_workflow_id


def check_text(*texts: str) -> None:
    """Raise Refused for text that no column holds."""
    if NUL in "".join(texts):
        found = next(text for text in texts if NUL in text)
        raise Refused(f"the text {found[:200]!r} contains U+0000, which no store holds")


def check_visibility(row: VisibilityRow) -> None:
    """Raise TooLarge when the search attributes do not fit a column, or the memo not even in chunks."""
    check_value("search attributes", len(row.search_attributes))
    check_chunked("memo", len(row.memo))


def check_value(what: str, size: int) -> None:
    """Raise TooLarge when a value of `size` bytes does not fit a column."""
    if size > VALUE_LIMIT:
        raise TooLarge(f"{what}: {size} bytes; one value may have {VALUE_LIMIT}")


def check_chunked(what: str, size: int) -> None:
    """Raise TooLarge when even in chunks the value is too large."""
    if size > CHUNKED_LIMIT:
        raise TooLarge(f"{what}: {size} bytes; {CHUNKED_LIMIT} are accepted")
