"""Evaluate a filter against one row in Python: the reference that the SQL is tested against.

Values are SQL's three: True, False, and None for unknown. A row is listed when the filter is True.
"""

from __future__ import annotations

import json
import operator
from typing import TYPE_CHECKING, Any

from whistlestop.storage.attribute_types import AttributeType
from whistlestop.storage.visibility.attributes import TEXT_WORDS_PREFIX, Attribute, has_type
from whistlestop.storage.visibility.query import (
    And,
    Between,
    Compare,
    Expression,
    HasAny,
    HasWords,
    In,
    IsNull,
    Not,
    Or,
    Query,
    StartsWith,
    is_column,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from whistlestop.storage.records import VisibilityRow

_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

# These are NULL until the run closes, whatever the row holds.
_KNOWN_WHEN_CLOSED = frozenset({"HistoryLength", "HistorySizeBytes", "StateTransitionCount"})

_COLUMNS: Mapping[str, Callable[[VisibilityRow], object]] = {
    "WorkflowId": lambda row: row.key.workflow_id,
    "RunId": lambda row: row.key.run_id,
    "WorkflowType": lambda row: row.workflow_type,
    "StartTime": lambda row: row.start_time_us,
    "ExecutionTime": lambda row: row.execution_time_us,
    "CloseTime": lambda row: row.close_time_us,
    "ExecutionStatus": lambda row: row.status,
    "TaskQueue": lambda row: row.task_queue,
    "ExecutionDuration": lambda row: row.execution_duration_ns,
    "HistoryLength": lambda row: row.history_length,
    "HistorySizeBytes": lambda row: row.history_size_bytes,
    "StateTransitionCount": lambda row: row.state_transition_count,
    "ParentWorkflowId": lambda row: row.parent_workflow_id,
    "ParentRunId": lambda row: row.parent_run_id,
    "RootWorkflowId": lambda row: row.root_workflow_id,
    "RootRunId": lambda row: row.root_run_id,
}


def matches(query: Query, row: VisibilityRow) -> bool:
    """Return whether the query lists the row. The namespace is not compared."""
    return query.where is None or evaluate(query.where, row) is True


def evaluate(expression: Expression, row: VisibilityRow) -> bool | None:
    """Return True, False, or None where SQL would return NULL."""
    return _evaluate(expression, row, json.loads(row.search_attributes))


def _evaluate(expression: Expression, row: VisibilityRow, stored: Mapping[str, Any]) -> bool | None:
    match expression:
        case And(items):
            return _all([_evaluate(item, row, stored) for item in items])
        case Or(items):
            return _not(_all([_not(_evaluate(item, row, stored)) for item in items]))
        case Not(item):
            return _not(_evaluate(item, row, stored))
        case HasWords(attribute, terms, negated):
            text = stored.get(TEXT_WORDS_PREFIX + attribute.name, "")
            return any(term in text for term in terms) is not negated
        case _:
            return _condition(expression, _value(expression.attribute, row, stored))


def _condition(
    expression: IsNull | HasAny | Compare | In | Between | StartsWith,
    value: Any,
) -> bool | None:
    if isinstance(expression, IsNull):
        return (value is None) is not expression.negated
    if isinstance(expression, HasAny):
        return any(wanted in (value or ()) for wanted in expression.values) is not expression.negated
    if value is None:
        return None
    match expression:
        case Compare(_, name, wanted):
            return _OPERATORS[name](value, wanted)
        case In(_, values, negated):
            return (value in values) is not negated
        case Between(_, low, high, negated):
            return bool(low <= value <= high) is not negated
        case StartsWith(_, prefix, negated):
            return bool(value.startswith(prefix)) is not negated


def _all(values: list[bool | None]) -> bool | None:
    if False in values:
        return False
    return None if None in values else True


def _not(value: bool | None) -> bool | None:  # noqa: FBT001  the operand
    return None if value is None else not value


def _value(attribute: Attribute, row: VisibilityRow, stored: Mapping[str, Any]) -> object:
    if is_column(attribute):
        if attribute.name in _KNOWN_WHEN_CLOSED and row.close_time_us is None:
            return None
        return _COLUMNS[attribute.name](row)
    value = stored.get(attribute.name)
    if not has_type(value, attribute.type):
        return None
    return float(value) if attribute.type is AttributeType.Double and value is not None else value
