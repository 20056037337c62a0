"""What the tests of this folder share: short-lived workers, unique names, and small looks at histories.

Workflows run outside the sandbox: it would import each test module anew for every run, and its rules are the SDK's own
matter. `on_every_store` marks the tests that are to hold on all stores; the others run on the SQLite file alone.
"""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from temporalio.api.history.v1 import HistoryEvent
    from temporalio.client import Client, WorkflowHandle

TestT = TypeVar("TestT", bound="Callable[..., Any]")
ErrorT = TypeVar("ErrorT", bound=BaseException)

SHOP = SearchAttributeKey.for_keyword("Shop")
PARTS = SearchAttributeKey.for_int("Parts")
WEIGHT = SearchAttributeKey.for_float("Weight")
FRAGILE = SearchAttributeKey.for_bool("Fragile")
DUE = SearchAttributeKey.for_datetime("Due")
LABELS = SearchAttributeKey.for_keyword_list("Labels")
NOTE = SearchAttributeKey.for_text("Note")

SHORT = timedelta(milliseconds=200)
LONG = timedelta(seconds=20)
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=10))
ONCE = RetryPolicy(maximum_attempts=1)


def on_every_store(test: TestT) -> TestT:
    """Run this test on all stores, not on the SQLite file alone."""
    test.every_store = True  # type: ignore[attr-defined]
    return test


def new(what: str) -> str:
    """A name that no other test uses."""
    return f"{what}-{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def worker(
    client: Client,
    *workflows: type,
    activities: Sequence[Callable[..., Any]] = (),
    queue: str = "",
    **options: Any,
) -> AsyncIterator[str]:
    """A worker while the block runs, on a task queue of its own unless one is given. Yields the queue's name."""
    queue = queue or new("queue")
    async with Worker(
        client, task_queue=queue, workflows=workflows, activities=activities,
        workflow_runner=UnsandboxedWorkflowRunner(), **options,
    ):  # fmt: skip
        yield queue


async def kinds(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """The types of a history's events, without their prefix."""
    return [kind(event) for event in (await handle.fetch_history()).events]


def kind(event: HistoryEvent) -> str:
    return EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")


async def event_of(handle: WorkflowHandle[Any, Any], wanted: str) -> HistoryEvent:
    """The first event of this type; waits for it."""
    async for event in handle.fetch_history_events(wait_new_event=True):
        if kind(event) == wanted:
            return event
    raise AssertionError(f"the run closed without {wanted}")


async def cause_of(result: Awaitable[Any], wanted: type[ErrorT]) -> ErrorT:
    """The error of this type in the chain of causes of a workflow's failure."""
    try:
        value = await result
    except WorkflowFailureError as failure:
        error: BaseException | None = failure
        while error is not None and not isinstance(error, wanted):
            error = error.__cause__
        if error is None:
            raise AssertionError(f"no {wanted.__name__} behind {failure.cause!r}") from failure
        return error
    raise AssertionError(f"no failure but {value!r}")
