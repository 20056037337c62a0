"""Task tokens: opaque to workers, with everything that a completion needs.

A token is plain protobuf, so anyone can create one. It is only accepted if its namespace is the caller's, its kind fits
the RPC, and every field, above all the nonce, matches the state of the attempt (`core/nonces.py`; for queries and Nexus
requests, the id of the row). See docs/decisions/0001-task-tokens.md.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from whistlestop.common.errors import invalid_argument, not_found
from whistlestop.common.proto.internal_pb2 import TaskToken

if TYPE_CHECKING:
    from whistlestop.common.context import CallContext
    from whistlestop.history.core.state_pb2 import Activity, MutableState, NexusOperation
    from whistlestop.history.core.transition.run import Run


class Kind(Enum):
    """What a token is issued for."""

    WORKFLOW = 1
    ACTIVITY = 2
    QUERY = 3
    NEXUS = 4


def of_workflow_task(run: Run) -> bytes:
    """Return the token of the started workflow task."""
    state: MutableState = run.state
    task = state.workflow_task
    return TaskToken(
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        scheduled_event_id=task.scheduled_event_id,
        started_event_id=task.started_event_id,
        attempt=task.attempt,
        started_time_ns=task.started_ns,
        nonce=task.nonce,
    ).SerializeToString()


def of_activity(run: Run, activity: Activity) -> bytes:
    """Return the token of a started activity attempt."""
    state: MutableState = run.state
    return TaskToken(
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        scheduled_event_id=activity.scheduled_event_id,
        attempt=activity.attempt,
        started_time_ns=activity.started_ns,
        activity_id=activity.activity_id,
        nonce=activity.nonce,
    ).SerializeToString()


def of_activity_execution(run: Run) -> bytes:
    """Return the token of a started attempt of a standalone activity."""
    state: MutableState = run.state
    activity = state.activity_execution
    return TaskToken(
        namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        attempt=activity.attempt,
        started_time_ns=activity.started_ns,
        activity_id=activity.activity_id,
        stamp=activity.started_stamp,
        nonce=activity.nonce,
    ).SerializeToString()


def of_nexus_task(run: Run, operation: NexusOperation, *, cancel: bool) -> bytes:
    """Return the token of a request that was taken. Its namespace is the handler's."""
    state: MutableState = run.state
    attempt = operation.cancel if cancel else operation.start
    return TaskToken(
        namespace_id=attempt.handler_namespace_id,
        caller_namespace_id=state.namespace_id,
        workflow_id=state.workflow_id,
        run_id=state.run_id,
        scheduled_event_id=operation.scheduled_event_id,
        stamp=attempt.stamp,
        nexus_cancel=cancel,
        nonce=attempt.nonce,
    ).SerializeToString()


def parse(data: bytes) -> TaskToken:
    """Parse a task token. Raise INVALID_ARGUMENT for bytes that are none."""
    token = TaskToken()
    try:
        token.ParseFromString(data)
    except DecodeError as error:
        raise invalid_argument("error deserializing task token") from error
    if not token.workflow_id and not token.query_id:
        raise invalid_argument("error deserializing task token")
    return token


def received(data: bytes, kind: Kind, context: CallContext, missing: str) -> TaskToken:
    """Parse the token of a call and check its namespace and kind; the caller checks it against the attempt's state.

    Raise INVALID_ARGUMENT for a token of another namespace, NOT_FOUND with the text `missing` for one of another kind.
    """
    token = parse(data)
    if token.namespace_id != context.namespace_id:
        raise invalid_argument("Operation requested with a token from a different namespace.")
    if _kind_of(token) is not kind:
        raise not_found(missing)
    return token


def _kind_of(token: TaskToken) -> Kind | None:
    """Return the token's kind; None for one that was never issued, such as a truncated one."""
    if not token.workflow_id:
        return Kind.NEXUS
    if not token.run_id:
        return None
    if token.query_id:
        return Kind.QUERY
    if token.caller_namespace_id:
        return Kind.NEXUS
    if token.attempt and token.started_time_ns:
        if token.activity_id:
            return Kind.ACTIVITY
        if token.started_event_id:
            return Kind.WORKFLOW
    return None
