"""Workflow rules: a namespace pauses matching activities just before an attempt would start.

A rule whose filter can't be parsed matches nothing, as in Temporal, where it is accepted when it is created.
"""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import workflow_pb2 as wf_enums

from whistlestop.history.core.activity import pause as activity_pause
from whistlestop.history.core.times import SECOND_NS, timestamp_ns

if TYPE_CHECKING:
    from collections.abc import Callable

    from temporalio.api.rules.v1 import message_pb2 as rules_pb

    from whistlestop.history.core.state_pb2 import Activity
    from whistlestop.history.core.transition.run import Run
    from whistlestop.storage.visibility.syntax import Node

    Value = str | int | None
    Field = tuple[str, Value]
    """How the field is compared, and its current value."""

_TEXT, _NUMBER, _TIME, _EXACT, _CONTAINS = "text", "number", "time", "exact", "contains"
_ORDER: dict[str, Callable[[int, int], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_US = 1000


class _Unreadable(ValueError):
    """The filter is not one that rules support."""


def apply(run: Run, activity: Activity) -> bool:
    """Pause the activity if a rule matches; return whether one did."""
    if activity.paused:
        return False
    for rule in run.policy.rules:
        spec = rule.spec
        expires_ns = timestamp_ns(spec.expiration_time) if spec.HasField("expiration_time") else None
        if expires_ns is not None and expires_ns < run.now_ns:
            continue
        if _pauses(spec) and _matches(run, activity, spec):
            activity_pause.set_paused(run, activity)
            activity.pause_rule = spec.id
            activity_pause.note_pauses(run)
            return True
    return False


def _pauses(spec: rules_pb.WorkflowRuleSpec) -> bool:
    return any(action.HasField("activity_pause") for action in spec.actions)


def _matches(run: Run, activity: Activity, spec: rules_pb.WorkflowRuleSpec) -> bool:
    if not spec.HasField("activity_start"):
        return False
    try:
        if spec.visibility_query and not _holds(spec.visibility_query, _of_workflow(run)):
            return False
        return _holds(spec.activity_start.predicate, _of_activity(activity))
    except ValueError:
        return False


def _of_workflow(run: Run) -> dict[str, Field]:
    state = run.state
    status = wf_enums.WorkflowExecutionStatus.keys()[state.status]
    return {
        "WorkflowId": (_TEXT, state.workflow_id),
        "WorkflowType": (_TEXT, state.workflow_type),
        "ExecutionStatus": (_EXACT, status.removeprefix("WORKFLOW_EXECUTION_STATUS_").title().replace("_", "")),
        "StartTime": (_TIME, state.start_ns // _US),
    }


def _of_activity(activity: Activity) -> dict[str, Field]:
    backoff_s = (activity.scheduled_ns - activity.last_attempt_complete_ns) // SECOND_NS
    state = "Started" if activity.started_ns else "CancelRequested" if activity.cancel_requested else "Scheduled"
    return {
        "ActivityId": (_TEXT, activity.activity_id),
        "ActivityType": (_TEXT, activity.activity_type),
        "ActivityState": (_TEXT, "Paused" if activity.paused else state),
        "TaskQueue": (_TEXT, activity.task_queue),
        "Attempts": (_NUMBER, max(activity.attempt, 1)),
        "BackoffInterval": (_NUMBER, backoff_s if activity.attempt > 1 else None),
        "LastFailure": (_CONTAINS, activity.last_failure.message or None),
        "StartedTime": (_TIME, activity.started_ns // _US),
    }


# ---- filters ---------------------------------------------------------------------------------------------------------


def _holds(text: str, fields: dict[str, Field]) -> bool:
    condition = _read(text)
    if condition is None:
        raise _Unreadable(text)
    return _evaluate(condition, fields)


@lru_cache(maxsize=64)
def _read(text: str) -> Node | None:
    """Return the condition of a filter, or None for an invalid one.

    It is cached, since each attempt needs the same few.
    """
    # Imported only when there is a rule, which few namespaces have.
    from whistlestop.storage.visibility import syntax

    try:
        statement = syntax.parse_statement(text)
    except ValueError:
        return None
    return None if statement.limited else statement.where


def _evaluate(node: Node, fields: dict[str, Field]) -> bool:
    from whistlestop.storage.visibility import syntax

    if node.kind == syntax.PAREN:
        return _evaluate(node.items[0], fields)
    if node.kind == syntax.AND:
        return all(_evaluate(item, fields) for item in node.items)
    if node.kind == syntax.OR:
        return any(_evaluate(item, fields) for item in node.items)
    if node.kind == syntax.COMPARISON:
        return _compare(node, *_field(node, fields))
    if node.kind == syntax.RANGE:
        return _between(node, *_field(node, fields))
    raise _Unreadable(node.kind)


def _field(node: Node, fields: dict[str, Field]) -> Field:
    name = node.items[0].text
    if name not in fields:
        raise _Unreadable(name)
    return fields[name]


def _compare(node: Node, kind: str, value: Value) -> bool:
    literal = node.items[1]
    if kind in (_TEXT, _EXACT):
        return _compare_text(node.text, str(value), _string(literal), prefixes=kind == _TEXT)
    if kind == _CONTAINS:
        wanted = _string(literal)
        if value is None:
            return False
        if node.text != "contains":
            raise _Unreadable(node.text)
        return wanted in str(value)
    compare = _ORDER.get(node.text)
    expected = _time_us(literal) if kind == _TIME else _integer(literal)
    if value is None:
        return False
    if compare is None:
        raise _Unreadable(node.text)
    return compare(int(value), expected)


def _compare_text(how: str, value: str, wanted: str, *, prefixes: bool) -> bool:
    if not wanted:
        raise _Unreadable(wanted)
    if how in ("=", "!="):
        return (value == wanted) == (how == "=")
    if prefixes and how in ("starts_with", "not starts_with"):
        return value.startswith(wanted) == (how == "starts_with")
    raise _Unreadable(how)


def _between(node: Node, kind: str, value: Value) -> bool:
    if kind != _TIME:
        raise _Unreadable(kind)
    low, high = _time_us(node.items[1]), _time_us(node.items[2])
    return (value is not None and low <= int(value) <= high) == (node.text == "between")


def _string(literal: Node) -> str:
    if not literal.quoted:
        raise _Unreadable(literal.text)
    return literal.text


def _integer(literal: Node) -> int:
    if literal.quoted:
        raise _Unreadable(literal.text)
    return int(literal.text)


def _time_us(literal: Node) -> int:
    from whistlestop.storage.visibility.times import parse_rfc3339_us

    return parse_rfc3339_us(literal.text) if literal.quoted else int(literal.text) // _US
