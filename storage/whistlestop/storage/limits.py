"""Sizes that every adapter refuses alike, so that what runs on one store runs on the narrowest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.storage.errors import TooLarge

if TYPE_CHECKING:
    from whistlestop.storage.records import Transition, VisibilityRow

VALUE_LIMIT = 1 << 20
"""Bytes of one column value (Aurora DSQL). States, history batches, transfers and queries are chunked below it."""

CHUNKED_LIMIT = 64 << 20
"""Bytes of one chunked value. Temporal's own limits stop a history or a state long before."""


def check_transition(transition: Transition) -> None:
    """Raise TooLarge for what no chunking helps."""
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


def check_visibility(row: VisibilityRow) -> None:
    """Raise TooLarge when search attributes or memo do not fit a column."""
    check_value("search attributes", len(row.search_attributes))
    check_value("memo", len(row.memo))


def check_value(what: str, size: int) -> None:
    """Raise TooLarge when a value of `size` bytes does not fit a column."""
    if size > VALUE_LIMIT:
        raise TooLarge(f"{what}: {size} bytes; one value may have {VALUE_LIMIT}")


def check_chunked(what: str, size: int) -> None:
    """Raise TooLarge when even in chunks the value is too large."""
    if size > CHUNKED_LIMIT:
        raise TooLarge(f"{what}: {size} bytes; {CHUNKED_LIMIT} are accepted")
