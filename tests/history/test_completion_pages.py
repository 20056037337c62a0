"""Pages of answers: what is kept is bounded, by answer, by namespace and in all, and what nobody goes on with goes."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.api.command.v1 import message_pb2 as command_pb
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.clock import FakeClock
from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.proto.internal_pb2 import TaskToken
from whistlestop.history.core.limits import Limits
from whistlestop.history.engine.completion_pages import CompletionPages, TooLarge

PAGE_BYTES = 100


def page(number: int, *, last: bool = False) -> service_pb.RespondWorkflowTaskCompletedRequest:
    command = command_pb.Command()
    command.record_marker_command_attributes.marker_name = f"{number:04}" + "x" * 92
    assert command.ByteSize() == PAGE_BYTES
    return service_pb.RespondWorkflowTaskCompletedRequest(
        commands=[command], page_number=number, intermediate_page=not last
    )


def token(workflow_id: str = "w", namespace_id: str = "n", **fields: Any) -> TaskToken:
    return TaskToken(namespace_id=namespace_id, workflow_id=workflow_id, run_id="r", scheduled_event_id=2, **fields)


def pages(clock: FakeClock | None = None, *, one: int = 0, total: int = 0, ratio: float = 1.0) -> CompletionPages:
    limits = Limits(
        completion_pages_size=one, completion_pages_total_size=total, completion_pages_namespace_ratio=ratio
    )
    return CompletionPages(limits, clock or FakeClock())


def is_lost(kept: CompletionPages, workflow_id: str = "w", namespace_id: str = "n") -> bool:
    try:
        kept.merge(token(workflow_id, namespace_id), page(1, last=True))
    except ServiceError as error:
        return error.code is Code.ABORTED
    return False


def test_pages_are_merged_in_order_whatever_order_they_came_in() -> None:
    kept = pages()
    for number in (2, 0, 1):
        kept.keep(token(), page(number))
    last = page(3, last=True)
    kept.merge(token(), last)
    assert [each.record_marker_command_attributes.marker_name[:4] for each in last.commands] == [
        "0000", "0001", "0002", "0003",
    ]  # fmt: skip
    assert not kept._sizes


def test_one_answer_may_be_as_large_as_its_limit() -> None:
    kept = pages(one=2 * PAGE_BYTES)
    kept.keep(token(), page(0))
    kept.keep(token(), page(1))
    with pytest.raises(TooLarge):
        kept.keep(token(), page(2))
    assert not kept._sizes


def test_all_answers_together_are_bounded() -> None:
    kept = pages(total=2 * PAGE_BYTES)
    kept.keep(token("a"), page(0))
    kept.keep(token("b"), page(0))
    with pytest.raises(ServiceError, match="memory limit reached"):
        kept.keep(token("c"), page(0))
    assert not is_lost(kept, "a")
    kept.keep(token("c"), page(0))


def test_one_namespace_leaves_room_for_others() -> None:
    kept = pages(total=4 * PAGE_BYTES, ratio=0.5)
    kept.keep(token("a"), page(0))
    kept.keep(token("b"), page(0))
    with pytest.raises(ServiceError, match="memory limit reached"):
        kept.keep(token("c"), page(0))
    kept.keep(token("c", "other"), page(0))
    assert not is_lost(kept, "c", "other")


async def test_abandoned_pages_make_room() -> None:
    clock = FakeClock()
    kept = pages(clock, total=PAGE_BYTES)
    kept.keep(token("a"), page(0))
    await clock.advance(121)
    kept.keep(token("b"), page(0))
    assert is_lost(kept, "a")


def test_pages_of_an_earlier_attempt_are_of_no_use() -> None:
    kept = pages()
    kept.keep(token(attempt=1), page(0))
    with pytest.raises(ServiceError, match="buffer lost"):
        kept.merge(token(attempt=2), page(1, last=True))
