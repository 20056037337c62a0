"""Pages of a workflow task completion that is too large for one request: kept until the last one, then merged.

They are kept in memory. If they are lost (the process ended, or another one serves the run now), the last page is
refused with a detail that makes the SDK send all of them again; the workflow task itself is not affected.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias

from temporalio.api.errordetails.v1 import message_pb2 as details_pb

from whistlestop.common.errors import Code, ServiceError, failed_precondition, invalid_argument
from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from temporalio.api.command.v1 import message_pb2 as command_pb
    from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

    from whistlestop.common.clock import Clock
    from whistlestop.common.proto.internal_pb2 import TaskToken
    from whistlestop.history.core.limits import Limits

    _Key: TypeAlias = tuple[str, str, str]

MOST_PAGES = 1024
DISABLED = "workflow task completion pagination is disabled for this namespace {}"


class TooLarge(Exception):
    """The pages of one completion together exceed the limit."""


@dataclass(slots=True)
class _Pages:
    task: tuple[int, int]
    """Scheduled event id and attempt: pages of an earlier task are discarded."""
    commands: dict[int, Sequence[command_pb.Command]] = field(default_factory=dict)
    size: int = 0
    touched_ns: int = 0


class CompletionPages:
    """The pages of all completions in progress."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._pages: OrderedDict[_Key, _Pages] = OrderedDict()
        """The most recently used entry is the last."""
        self._sizes: Counter[str] = Counter()
        """Bytes by namespace."""

    def keep(self, token: TaskToken, request: service_pb.RespondWorkflowTaskCompletedRequest) -> None:
        """Keep one page. Raise TooLarge, or ServiceError for a page that can't be kept."""
        key = _key(token)
        try:
            _check(request)
        except ServiceError:
            self._drop(key)
            raise
        task = (token.scheduled_event_id, token.attempt)
        pages = self._pages.get(key)
        if pages is None or pages.task != task:
            self._drop(key)
            pages = self._pages[key] = _Pages(task)
        if request.page_number in pages.commands:
            return
        size = sum(command.ByteSize() for command in request.commands)
        if 0 < self._limits.completion_pages_size < pages.size + size:
            self._drop(key)
            raise TooLarge
        if self._is_full(token.namespace_id, size):
            self._drop(key)
            raise _lost(
                f"workflow task completion buffer memory limit reached while buffering page {request.page_number}"
            )
        pages.commands[request.page_number] = request.commands
        pages.size += size
        pages.touched_ns = self._clock.steady_ns()
        self._sizes[token.namespace_id] += size
        self._pages.move_to_end(key)

    def _is_full(self, namespace_id: str, size: int) -> bool:
        """Return whether `size` more bytes are too many, after abandoned pages were dropped."""
        outdated_ns = self._clock.steady_ns() - self._limits.workflow_task_timeout_max_ns
        while self._pages:
            key, oldest = next(iter(self._pages.items()))
            if not 0 < oldest.touched_ns < outdated_ns:
                break
            self._drop(key)
        most = self._limits.completion_pages_total_size
        of_namespace = self._sizes[namespace_id] + size > most * self._limits.completion_pages_namespace_ratio
        return most > 0 and (of_namespace or self._sizes.total() + size > most)

    def merge(self, token: TaskToken, request: service_pb.RespondWorkflowTaskCompletedRequest) -> None:
        """Insert the commands of the earlier pages before those of the last. Raise ServiceError when one is missing."""
        _check(request)
        pages = self._drop(_key(token))
        if pages is None or pages.task != (token.scheduled_event_id, token.attempt):
            raise _lost(
                f"workflow task completion buffer lost for scheduled event {token.scheduled_event_id} "
                f"attempt {token.attempt}"
            )
        merged: list[command_pb.Command] = []
        for number in range(request.page_number):
            if number not in pages.commands:
                raise _lost(f"workflow task completion buffer missing page {number} of {request.page_number}")
            merged += pages.commands[number]
        merged += request.commands
        del request.commands[:]
        request.commands.extend(merged)

    def _drop(self, key: _Key) -> _Pages | None:
        pages = self._pages.pop(key, None)
        if pages is not None:
            self._sizes[key[0]] -= pages.size
            if not self._sizes[key[0]]:
                del self._sizes[key[0]]
        return pages


def _key(token: TaskToken) -> _Key:
    return token.namespace_id, token.workflow_id, token.run_id


def _check(request: service_pb.RespondWorkflowTaskCompletedRequest) -> None:
    if request.page_number < 0:
        raise invalid_argument("workflow task completion pagination page number must be non-negative")
    if request.page_number >= MOST_PAGES:
        raise invalid_argument(f"workflow task completion pagination supports at most {MOST_PAGES} pages")
    if request.intermediate_page and not request.commands:
        raise invalid_argument("intermediate workflow task page must carry at least one command")


def check_enabled(limits: Limits, namespace: str) -> None:
    """Raise FAILED_PRECONDITION while pages are not enabled."""
    if not limits.completion_pages:
        raise failed_precondition(DISABLED.format(namespace))


def _lost(message: str) -> ServiceError:
    return ServiceError(Code.ABORTED, message, details_pb.WorkflowTaskCompletionBufferLostFailure())
