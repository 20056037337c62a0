"""Compile a filter to a parameterised condition on the table `executions_visibility`.

The order of a list is Temporal's: open runs first, then by close time, the latest first; then by start time, the latest
first; then by run id. A page continues after these three values of the previous page's last row. So a page costs the
same wherever it starts, and no row is missed or repeated while others are added or removed.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.net.tasks.offload import off_loop
from whistlestop.storage.attribute_types import AttributeType
from whistlestop.storage.visibility.attributes import MAX_INT, Attribute, encode_value
from whistlestop.storage.visibility.errors import InvalidPageToken
from whistlestop.storage.visibility.literals import STATUS_NAMES, STATUS_NUMBERS, Scalar
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
    from collections.abc import Callable, Sequence

    from temporalio.api.common.v1 import Payload

    from whistlestop.storage.visibility.dialects import Dialect, Fragment, Parameter

_COLUMNS = {
    "WorkflowId": "workflow_id",
    "RunId": "run_id",
    "WorkflowType": "workflow_type_name",
    "StartTime": "start_time",
    "ExecutionTime": "execution_time",
    "CloseTime": "close_time",
    "ExecutionStatus": "status",
    "TaskQueue": "task_queue",
    "ExecutionDuration": "execution_duration",
    # These are known when the run closes, and NULL before, whatever the column holds.
    "HistoryLength": "CASE WHEN close_time IS NOT NULL THEN history_length END",
    "HistorySizeBytes": "CASE WHEN close_time IS NOT NULL THEN history_size_bytes END",
    "StateTransitionCount": "CASE WHEN close_time IS NOT NULL THEN state_transition_count END",
    "ParentWorkflowId": "parent_workflow_id",
    "ParentRunId": "parent_run_id",
    "RootWorkflowId": "root_workflow_id",
    "RootRunId": "root_run_id",
}

OPEN_CLOSE_TIME = MAX_INT
"""The close time of an open run in the order of a list and in the index that serves it."""

DIVISION = "TemporalNamespaceDivision"
"""Nearly every list asks for one value of it, or for none: the index begins with it."""

NO_DIVISION = "-"
"""What that index holds where there is no division."""

_CLOSE_TIME = f"COALESCE(close_time, {OPEN_CLOSE_TIME})"

_OPEN, _CLOSED = f"{_CLOSE_TIME} = {OPEN_CLOSE_TIME}", f"{_CLOSE_TIME} < {OPEN_CLOSE_TIME}"
_OPEN_STATUSES = frozenset({STATUS_NUMBERS["Running"], STATUS_NUMBERS["Paused"]})

_ORDER_OF_OPEN = "start_time DESC, run_id"
ORDER_BY = f"{_CLOSE_TIME} DESC, start_time DESC, run_id"
"""The order of a list, without the keyword. (Run ids are ASCII, so the collation does not matter.)"""


async def compiled(
    clause: Callable[[Query, Dialect], tuple[str, list[Parameter]]], query: Query, dialect: Dialect
) -> tuple[str, list[Parameter]]:
    """Return the result of one of the two clauses below, computed off the event loop for a large filter."""
    return await off_loop(clause, query, dialect) if query.is_large else clause(query, dialect)


def where_clause(query: Query, dialect: Dialect) -> tuple[str, list[Parameter]]:
    """Return the condition, without WHERE and without a condition on the namespace id."""
    if query.where is None:
        return "1 = 1", []
    text, parameters = _required(query.where, dialect)
    bound = _close_time_bound(query.where)
    return (f"({text}) AND {bound}" if bound else text), parameters


def list_clause(query: Query, dialect: Dialect) -> tuple[str, list[Parameter]]:
    """Return the condition as `where_clause` does, for use with a step of `page_steps`, which adds the rest."""
    return ("1 = 1", []) if query.where is None else _required(query.where, dialect)


def _required(where: Expression, dialect: Dialect) -> Fragment:
    """Compile a condition that every listed row has to meet.

    It differs from `_compile` in that division and close time are written as in the index that lists use. An open run
    counts as one that closes at the end of time: see `_close_time_bound`.
    """
    match where:
        case And(items):
            return _balanced(" AND ", [_required(item, dialect) for item in _deepest_first(items)])
        case IsNull(attribute, False) if attribute.name == DIVISION:
            return f"{dialect.division} = '{NO_DIVISION}'", []
        case Compare(attribute, "=", value) if attribute.name == DIVISION and value != NO_DIVISION:
            return f"{dialect.division} = {dialect.placeholder}", [dialect.parameter(value, attribute.type)]
        case Compare(attribute, "=" | "<" | "<=" | ">" | ">=" as operator, value) if attribute.name == "CloseTime":
            return f"{_CLOSE_TIME} {operator} {dialect.placeholder}", [dialect.parameter(value, attribute.type)]
    return _compile(where, dialect)


def _close_time_bound(where: Expression) -> str:
    """Return what the filter implies for the close time, so that the index can skip other rows; empty if nothing."""
    match where:
        case And(items):
            return next(filter(None, map(_close_time_bound, items)), "")
        case IsNull(attribute, negated) if attribute.name == "CloseTime":
            return _CLOSED if negated else _OPEN
        case Compare(attribute, "=" | "<" | "<=" | ">" | ">=", _) | Between(attribute, _, _, False) if (
            attribute.name == "CloseTime"
        ):
            return _CLOSED
        case Compare(attribute, "=", value) if attribute.name == "ExecutionStatus":
            return _OPEN if value in _OPEN_STATUSES else _CLOSED
        case In(attribute, values, False) if attribute.name == "ExecutionStatus":
            wanted = {value in _OPEN_STATUSES for value in values}
            return (_OPEN if True in wanted else _CLOSED) if len(wanted) == 1 else ""
    return ""


def group_by_columns(query: Query, dialect: Dialect) -> tuple[list[str], list[Parameter]]:
    """Return the expressions to select; their values are the groups.

    Group by their numbers in the select list (`GROUP BY 1`): if they are repeated with parameters, Postgres can't tell
    that an expression is the selected one.
    """
    fragments = [_operand(attribute, dialect) for attribute in query.group_by]
    return [text for text, _ in fragments], list(chain.from_iterable(parameters for _, parameters in fragments))


def group_payloads(query: Query, values: Sequence[object]) -> list[Payload]:
    """Return the payloads of a group's values, as CountWorkflowExecutions returns them."""
    found = []
    for attribute, value in zip(query.group_by, values, strict=True):
        status_name = value
        if attribute.name == "ExecutionStatus" and isinstance(value, int):
            status_name = STATUS_NAMES.get(value, str(value))
        found.append(encode_value(status_name if isinstance(status_name, str) else None, attribute.type))
    return found


@dataclass(frozen=True, slots=True)
class PageKey:
    """The position of a page's last row."""

    close_time_us: int | None
    start_time_us: int
    run_id: str

    def token(self) -> bytes:
        """Return the page token, which is opaque to clients."""
        return json.dumps([self.close_time_us, self.start_time_us, self.run_id], separators=(",", ":")).encode()


def parse_page_token(token: bytes) -> PageKey | None:
    """Return the position after which a page starts; None for the first page. Raise InvalidPageToken."""
    if not token:
        return None
    try:
        match json.loads(token):
            case [None | int() as close_time_us, int() as start_time_us, str() as run_id] if _is_key(
                close_time_us, start_time_us, run_id
            ):
                return PageKey(close_time_us, start_time_us, run_id)
    except (ValueError, RecursionError):
        pass
    raise InvalidPageToken


def _is_key(close_time_us: int | None, start_time_us: int, run_id: str) -> bool:
    numbers_fit = all(abs(number) <= MAX_INT for number in (close_time_us or 0, start_time_us))
    return numbers_fit and run_id.isascii() and run_id.isprintable()


def page_steps(query: Query, after: PageKey | None, dialect: Dialect) -> list[tuple[str, list[Parameter], str]]:
    """Return steps of (condition, parameters, order) that together find the rows after `after`, in list order.

    The rows of an earlier step come first; each order is ORDER_BY without the columns that are constant in the step.
    Each step is one seek in the index; joined by OR, they would also read all rows before `after`.
    """
    bound = "" if query.where is None else _close_time_bound(query.where)
    if after is None:
        return [(bound or "1 = 1", [], _ORDER_OF_OPEN if bound == _OPEN else ORDER_BY)]
    mark = dialect.placeholder
    close_time = OPEN_CLOSE_TIME if after.close_time_us is None else after.close_time_us
    if bound == _CLOSED and after.close_time_us is None:
        return [(bound, [], ORDER_BY)]
    steps: list[tuple[str, list[Parameter], str]] = [
        (
            f"({_CLOSE_TIME} = {mark} AND start_time = {mark} AND run_id > {mark})",
            [close_time, after.start_time_us, after.run_id],
            "run_id",
        ),
        (
            f"({_CLOSE_TIME} = {mark} AND start_time < {mark})",
            [close_time, after.start_time_us],
            _ORDER_OF_OPEN,
        ),
    ]
    if bound != _OPEN:
        steps.append((f"{_CLOSE_TIME} < {mark}", [close_time], ORDER_BY))
    return steps


def _compile(expression: Expression, dialect: Dialect) -> Fragment:
    match expression:
        case And(items):
            return _balanced(" AND ", [_compile(item, dialect) for item in _deepest_first(items)])
        case Or(items):
            return _balanced(" OR ", [_compile(item, dialect) for item in _deepest_first(items)])
        case Not(item):
            text, parameters = _compile(item, dialect)
            return f"NOT ({text})", parameters
        case HasAny(attribute, values, negated):
            return _negated(dialect.has_any(attribute, values), negated=negated)
        case HasWords(attribute, terms, negated):
            found = [dialect.has_word(attribute, term) for term in terms]
            return _negated(_balanced(" OR ", found) if found else ("1 = 0", []), negated=negated)
        case IsNull(attribute, negated):
            return _is_null(attribute, dialect, negated=negated)
        case Compare() | In() | Between() | StartsWith():
            return _comparison(expression, dialect)


def _deepest_first(items: tuple[Expression, ...]) -> list[Expression]:
    """Sort the operands so that nothing precedes an opening parenthesis: SQLite's parser would keep it on its stack."""
    return sorted(items, key=_depth, reverse=True)


def _depth(expression: Expression) -> int:
    match expression:
        case And(items) | Or(items):
            return 1 + max(_depth(item) for item in items)
        case Not(item):
            return 1 + _depth(item)
    return 0


def _balanced(operator: str, fragments: list[Fragment]) -> Fragment:
    """Join the fragments as a tree of the least depth, because databases limit the depth of an expression."""
    if len(fragments) == 1:
        return fragments[0]
    while len(fragments) > 1:
        pairs = [fragments[at : at + 2] for at in range(0, len(fragments), 2)]
        fragments = [
            (f"({operator.join(text for text, _ in pair)})", list(chain.from_iterable(values for _, values in pair)))
            if len(pair) == 2
            else pair[0]
            for pair in pairs
        ]
    return fragments[0]


def _negated(fragment: Fragment, *, negated: bool) -> Fragment:
    text, parameters = fragment
    return (f"NOT ({text})" if negated else text), parameters


def _is_null(attribute: Attribute, dialect: Dialect, *, negated: bool) -> Fragment:
    if attribute.type is AttributeType.KeywordList:
        text, parameters = dialect.is_list(attribute)
        return f"({text}) IS {'' if negated else 'NOT '}TRUE", parameters
    text, parameters = _operand(attribute, dialect)
    return f"({text}) IS {'NOT ' if negated else ''}NULL", parameters


def _operand(attribute: Attribute, dialect: Dialect) -> Fragment:
    if not is_column(attribute):
        return dialect.attribute(attribute)
    return _COLUMNS[attribute.name], []


def _comparison(expression: Compare | In | Between | StartsWith, dialect: Dialect) -> Fragment:
    attribute = expression.attribute
    mark = dialect.placeholder
    text, parameters = _operand(attribute, dialect)
    if " " in text:
        text = f"({text})"
    elif _is_ordering(expression) and attribute.type is AttributeType.Keyword and attribute.name != "ExecutionStatus":
        text = dialect.ordered(text)  # not for equality: an index need not have that collation

    def bound(*values: Scalar) -> list[Parameter]:
        return parameters + [dialect.parameter(value, attribute.type) for value in values]

    match expression:
        case Compare(_, operator, value):
            return f"{text} {operator} {mark}", bound(value)
        case In(_, values, negated):
            marks = ", ".join([mark] * len(values))
            return f"{text} {'NOT ' if negated else ''}IN ({marks})", bound(*values)
        case Between(_, low, high, negated):
            return f"{text} {'NOT ' if negated else ''}BETWEEN {mark} AND {mark}", bound(low, high)
        case StartsWith(_, prefix, negated):
            starts = (dialect.starts_with(text), [*parameters, len(prefix), prefix])
            return _negated(starts, negated=negated)


def _is_ordering(expression: Compare | In | Between | StartsWith) -> bool:
    match expression:
        case Between():
            return True
        case Compare(_, operator, _):
            return operator not in ("=", "!=")
    return False
