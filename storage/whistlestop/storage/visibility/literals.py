"""Read the literals of a filter as values of the attribute that they are compared with."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeAlias

from temporalio.api.enums.v1 import WorkflowExecutionStatus

from whistlestop.storage.attribute_types import AttributeType
from whistlestop.storage.visibility import syntax
from whistlestop.storage.visibility.attributes import MAX_INT, MIN_INT, Attribute, storable
from whistlestop.storage.visibility.errors import INVALID_EXPRESSION, NOT_SUPPORTED, InvalidQuery
from whistlestop.storage.visibility.goformat import go_float, go_quote
from whistlestop.storage.visibility.times import parse_duration_ns, parse_rfc3339_us

if TYPE_CHECKING:
    from whistlestop.storage.visibility.syntax import Node

Scalar: TypeAlias = bool | int | float | str

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_FLOAT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_STATUS_PREFIX = "WORKFLOW_EXECUTION_STATUS_"

STATUS_NUMBERS: dict[str, int] = {
    "".join(part.capitalize() for part in name.removeprefix(_STATUS_PREFIX).split("_")): number
    for name, number in WorkflowExecutionStatus.items()
}
"""`Running` and so on, as clients write and read ExecutionStatus."""

STATUS_NAMES: dict[int, str] = {number: name for name, number in STATUS_NUMBERS.items()}


def read_value(node: Node, attribute: Attribute) -> Scalar:
    """Return the value: Datetime in microseconds, ExecutionDuration in nanoseconds, ExecutionStatus as its number.

    Raise InvalidQuery when the node is no literal of the attribute's type.
    """
    match node.kind:
        case syntax.LITERAL:
            return _typed(_literal(node), attribute)
        case syntax.BOOLEAN:
            if attribute.type is not AttributeType.Bool:
                raise _wrong_type(node.text == "true", attribute)
            return node.text == "true"
        case syntax.GROUP_CONCAT:
            raise InvalidQuery(f"{NOT_SUPPORTED}: 'group_concat'")
        case syntax.FUNCTION:
            raise InvalidQuery(f"{NOT_SUPPORTED}: nested func")
        case syntax.NAME:
            raise InvalidQuery(
                f"{NOT_SUPPORTED}: column name on the right side of comparison expression"
                f' (did you forget to quote "{node.text}"?)'
            )
    raise InvalidQuery(f"{INVALID_EXPRESSION}: unexpected value type {node.kind}")


def _literal(node: Node) -> int | float | str:
    """Return the literal's value; a whole number beyond 64 bits becomes a float. Raise InvalidQuery."""
    if node.quoted:
        return storable(node.text)
    if _INTEGER.fullmatch(node.text) and len(node.text) < 400:
        number = int(node.text)
        if MIN_INT <= number <= MAX_INT:
            return number
    if _FLOAT.fullmatch(node.text):
        value = float(node.text)
        if math.isfinite(value):
            return value
    raise InvalidQuery(f'{INVALID_EXPRESSION}: unable to parse value "{node.text}"')


def _typed(value: float | str, attribute: Attribute) -> Scalar:
    if attribute.name == "ExecutionStatus":
        return _status(value)
    if attribute.name == "ExecutionDuration":
        return _duration(value)
    match attribute.type:
        case AttributeType.Int | AttributeType.Double if not isinstance(value, str):
            return float(value) if attribute.type is AttributeType.Double else value
        case AttributeType.Datetime if isinstance(value, int):
            return value // 1000
        case AttributeType.Datetime if isinstance(value, str):
            try:
                return parse_rfc3339_us(value)
            except ValueError:
                raise InvalidQuery(f"{INVALID_EXPRESSION}: unable to parse datetime '{value}'") from None
        case AttributeType.Keyword | AttributeType.KeywordList | AttributeType.Text if isinstance(value, str):
            return value
    raise _wrong_type(value, attribute)


def _status(value: float | str) -> int:
    match value:
        case int() if value in STATUS_NAMES:
            return value
        case int():
            raise InvalidQuery(f"{INVALID_EXPRESSION}: invalid ExecutionStatus value {value}")
        case str():
            number = STATUS_NUMBERS.get(value)
            if number is None and value.startswith(_STATUS_PREFIX):
                number = dict(WorkflowExecutionStatus.items()).get(value)
            if number is None:
                raise InvalidQuery(f"{INVALID_EXPRESSION}: invalid ExecutionStatus value '{value}'")
            return number
    raise InvalidQuery(f"{INVALID_EXPRESSION}: unexpected value type float64 for search attribute ExecutionStatus")


def _duration(value: float | str) -> int:
    match value:
        case int():
            return value
        case str():
            try:
                duration_ns = parse_duration_ns(value)
            except ValueError:
                duration_ns = MAX_INT + 1
            if not MIN_INT <= duration_ns <= MAX_INT:
                raise InvalidQuery(
                    f"{INVALID_EXPRESSION}: invalid duration value for search attribute ExecutionDuration: {value}"
                )
            return duration_ns
    raise InvalidQuery(f"{INVALID_EXPRESSION}: unexpected value type float64 for search attribute ExecutionDuration")


def _wrong_type(value: Scalar, attribute: Attribute) -> InvalidQuery:
    match value:
        case bool():
            printed, go_type = str(value).lower(), "bool"
        case int():
            printed, go_type = str(value), "int64"
        case float():
            printed, go_type = go_float(value), "float64"
        case _:
            printed, go_type = go_quote(value), "string"
    return InvalidQuery(
        f"{INVALID_EXPRESSION}: invalid value type for search attribute {attribute.alias}"
        f" of type {attribute.type.name}: {printed} (type: {go_type})"
    )
