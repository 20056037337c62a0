"""Executions that are not workflows but are stored as runs: standalone activities and Nexus operations.

The engine's errors are worded for workflows; here they are reworded for the requested kind.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import Code, ServiceError, invalid_argument, not_found
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.notify import execution_topic
from whistlestop.history.engine import deletion
from whistlestop.storage.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.common.context import CallContext
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.core.state_pb2 import MutableState
    from whistlestop.history.core.transition.run import Run
    from whistlestop.history.engine.entries import Entry
    from whistlestop.history.ports import HistoryPorts
    from whistlestop.storage.records import ExecutionKey

_T = TypeVar("_T")
_MOST_DIGITS = 19


class End(Protocol):
    """How a run is terminated. Raises FAILED_PRECONDITION if it is over."""

    def __call__(self, run: Run, *, reason: str, identity: str, request_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Standalone:
    """A kind of standalone execution: an activity or a Nexus operation."""

    id_field: str
    """The field of requests with the id that the user gave."""
    id_prefix: str
    """The prefix of the workflow ids of their runs."""
    division: str
    """The namespace division of their rows in visibility."""
    missing: str
    """The message for one that does not exist, with a placeholder for the id."""
    deleted: str
    """The reason of the termination of one that is deleted while it is open."""
    is_standalone: Callable[[MutableState], bool]
    end: End
    """Terminates the run."""
    long_poll: Callable[[Limits], tuple[int, int]]
    """The longest wait of a caller, and how long before its own deadline it is answered."""

    def workflow_id(self, user_id: str) -> str:
        """Return the workflow id under which the run is stored."""
        return self.id_prefix + user_id

    def user_id(self, request: Any) -> str:
        """Return the id that the user gave, from any request about such an execution."""
        user_id: str = getattr(request, self.id_field)
        return user_id

    def start_request(self, request: Any) -> service_pb.StartWorkflowExecutionRequest:
        """Return the start request of the run, with all that starts of both kinds have.

        Id policies have the same numbers as those of workflows.
        """
        begin = service_pb.StartWorkflowExecutionRequest(
            workflow_id=self.workflow_id(self.user_id(request)),
            identity=request.identity,
            request_id=request.request_id,
            workflow_id_reuse_policy=int(request.id_reuse_policy),  # type: ignore[arg-type]
            workflow_id_conflict_policy=int(request.id_conflict_policy),  # type: ignore[arg-type]
        )
        for field in ("user_metadata", "search_attributes"):
            if request.HasField(field):
                getattr(begin, field).CopyFrom(getattr(request, field))
        set_keyword(begin, "TemporalNamespaceDivision", self.division)
        return begin

    async def key(self, ports: HistoryPorts, request: Any, context: CallContext) -> ExecutionKey:
        """Return the key of the run that the request names; of the latest one without a run id. Raise NOT_FOUND."""
        engine = ports.engine
        user_id = self.user_id(request)
        try:
            return await engine.resolve(context.namespace_id, self.workflow_id(user_id), request.run_id)
        except ServiceError as error:
            raise self._with_user_id(error, user_id) from None

    async def read(self, ports: HistoryPorts, key: ExecutionKey) -> Entry:
        """Return the run as stored now. Raise NOT_FOUND."""
        user_id = key.workflow_id.removeprefix(self.id_prefix)
        try:
            entry = await ports.engine.read(key)
        except ServiceError as error:
            raise self._with_user_id(error, user_id) from None
        if not self.is_standalone(entry.state):
            raise self._none(user_id)
        return entry

    async def wait(
        self, ports: HistoryPorts, context: CallContext, key: ExecutionKey, wanted: Callable[[Entry], bool]
    ) -> Entry | None:
        """Wait until the run is as `wanted` and return it; return None at the deadline. Raise NOT_FOUND."""
        deadline_ns = self.deadline(ports, context)
        with ports.notifier.subscribe(execution_topic(key.namespace_id, key.workflow_id, key.run_id)) as audience:
            while True:
                entry = await self.read(ports, key)
                if wanted(entry):
                    return entry
                if ports.is_closing() or not await audience.wait(deadline_ns):
                    return None

    async def read_or_wait(
        self, ports: HistoryPorts, context: CallContext, key: ExecutionKey, long_poll_token: bytes
    ) -> Entry | None:
        """Return the run; with an earlier answer's token, wait for a change (None at the deadline). Raise NOT_FOUND."""
        if not long_poll_token:
            return await self.read(ports, key)
        seen = _version_of(long_poll_token, key.run_id)
        return await self.wait(ports, context, key, lambda entry: entry.version != seen)

    async def change(
        self, ports: HistoryPorts, namespace_id: str, user_id: str, run_id: str, decide: Callable[[Run], _T]
    ) -> tuple[Run, _T]:
        """Decide on the run and commit. Raise NOT_FOUND."""

        def on_one(run: Run) -> _T:
            if not self.is_standalone(run.state):
                raise self._none(user_id)
            return decide(run)

        try:
            return await ports.engine.change(namespace_id, self.workflow_id(user_id), run_id, on_one)
        except ServiceError as error:
            raise self._with_user_id(error, user_id) from None

    async def change_named(
        self, ports: HistoryPorts, request: Any, context: CallContext, decide: Callable[[Run], _T]
    ) -> _T:
        """Decide on the run that the request names, commit, and return what `decide` did. Raise NOT_FOUND."""
        user_id = self.user_id(request)
        _, answer = await self.change(ports, context.namespace_id, user_id, request.run_id, decide)
        return answer

    async def terminate(self, ports: HistoryPorts, request: Any, context: CallContext) -> None:
        """Terminate the run at once. Raise NOT_FOUND, or FAILED_PRECONDITION if it is over."""

        def decide(run: Run) -> None:
            self.end(run, reason=request.reason, identity=request.identity, request_id=request.request_id)

        await self.change_named(ports, request, context, decide)

    async def delete(self, ports: HistoryPorts, request: Any, context: CallContext) -> None:
        """Terminate the run if it is open, and delete everything stored of it. Raise NOT_FOUND."""
        namespace_id, user_id = context.namespace_id, self.user_id(request)

        def decide(run: Run) -> None:
            if run.is_open:
                self.end(run, reason=self.deleted, identity="", request_id="")

        try:
            run, _ = await self.change(ports, namespace_id, user_id, request.run_id, decide)
        except Unreadable:
            await deletion.end_and_delete(ports.engine, namespace_id, self.workflow_id(user_id), request.run_id)
            return
        await ports.engine.delete(run.key)

    def deadline(self, ports: HistoryPorts, context: CallContext) -> int:
        """Return when a waiting caller is answered that there is nothing new (steady clock, nanoseconds)."""
        limits = ports.limits.of(context.namespace)
        longest_ns, buffer_ns = self.long_poll(limits)
        if not context.can_long_poll:
            longest_ns = min(longest_ns, limits.long_poll_ns)
        now_ns = ports.clock.steady_ns()
        if context.deadline_ns is None:
            return now_ns + longest_ns
        return now_ns + max(0, min(longest_ns, context.deadline_ns - now_ns - buffer_ns))

    def _none(self, user_id: str) -> ServiceError:
        return not_found(self.missing.format(user_id))

    def _with_user_id(self, error: ServiceError, user_id: str) -> ServiceError:
        is_the_engines = error.code is Code.NOT_FOUND and error.message.startswith("workflow ")
        return self._none(user_id) if is_the_engines else error


def long_poll_token(entry: Entry) -> bytes:
    """Return a token for the version of the run that the caller has seen."""
    return f"{entry.state.run_id}/{entry.version}".encode()


def _version_of(token: bytes, run_id: str) -> int:
    owner, _, version = token.decode(errors="replace").rpartition("/")
    if not (version.isascii() and version.isdigit() and len(version) < _MOST_DIGITS):
        raise invalid_argument("invalid long poll token")
    if owner != run_id:
        raise invalid_argument("long poll token does not match execution")
    return int(version)


def already_started(error: ServiceError, text: str, kind: type[Any]) -> ServiceError:
    """Return the error of a start as one of the execution's kind, if it says that the id is in use.

    `kind` is the message of its details; `text` may contain `{request_id}` and `{run_id}`.
    """
    if error.code is not Code.ALREADY_EXISTS:
        return error
    detail: Any = error.details[0]
    return ServiceError(
        Code.ALREADY_EXISTS,
        text.format(request_id=detail.start_request_id, run_id=detail.run_id),
        kind(start_request_id=detail.start_request_id, run_id=detail.run_id),
    )


def set_keyword(request: service_pb.StartWorkflowExecutionRequest, name: str, value: str) -> None:
    """Set one of the server's own search attributes, such as the namespace division."""
    payload = request.search_attributes.indexed_fields[name]
    payload.metadata["encoding"] = b"json/plain"
    payload.metadata["type"] = b"Keyword"
    payload.data = json.dumps(value).encode()
