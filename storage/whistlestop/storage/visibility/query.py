"""Parse a list filter into a typed, frozen tree. Every error is an InvalidQuery, worded as Temporal words it.

Where Temporal's SQL stores differ among each other, this follows the documented meaning, the same on every store:
Keyword and KeywordList compare exactly, including case (Temporal's SQLite ignores case in STARTS_WITH and in keyword
lists), and `!=` and NOT IN on KeywordList and Text are true where the attribute is missing (as on its SQLite; for all
other types a missing value is NULL and satisfies no comparison).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.storage.attribute_types import AttributeType
from whistlestop.storage.visibility import syntax
from whistlestop.storage.visibility.attributes import (
    RESERVED_PREFIX,
    SYSTEM,
    SYSTEM_AND_PREDEFINED,
    Attribute,
    joined_words,
)
from whistlestop.storage.visibility.errors import INVALID_EXPRESSION, NOT_SUPPORTED, UNKNOWN_ATTRIBUTE, InvalidQuery
from whistlestop.storage.visibility.literals import Scalar, read_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.storage.visibility.syntax import Node

CompareOperator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]

_COMPARE: Mapping[str, CompareOperator] = {"=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_LISTS = ("in", "not in")
_PREFIXES = ("starts_with", "not starts_with")
_EQUALITY = ("=", "!=")
_RANGED = (AttributeType.Datetime, AttributeType.Double, AttributeType.Int, AttributeType.Keyword)
_DIVISION = "TemporalNamespaceDivision"
_GROUPABLE = ("ExecutionStatus", _DIVISION)

MAX_DEPTH = 30
"""How deep AND, OR and NOT may be nested. SQLite's parser has a stack of 100 entries and needs up to three a level."""

MAX_VALUES = 10_000
"""The maximum number of literals in a query; databases limit the parameters of a statement."""

MAX_WORDS = 1000
"""The maximum number of words in all comparisons of Text attributes: each is searched for in each row."""

LARGE = 1000
"""Filters longer than this many characters are parsed and compiled off the event loop."""


@dataclass(frozen=True, slots=True)
class Compare:
    """`attribute operator value`, for all types but KeywordList and Text."""

    attribute: Attribute
    operator: CompareOperator
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    """`attribute [NOT] IN (values)`, for all types but KeywordList and Text."""

    attribute: Attribute
    values: tuple[Scalar, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class HasAny:
    """Whether a KeywordList has one of the values: `=`, `!=`, IN, NOT IN."""

    attribute: Attribute
    values: tuple[str, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class HasWords:
    """Whether a Text has one of the terms, each a run of words as returned by `joined_words`: `=`, `!=`."""

    attribute: Attribute
    terms: tuple[str, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Between:
    """`attribute [NOT] BETWEEN low AND high`, both ends included."""

    attribute: Attribute
    low: Scalar
    high: Scalar
    negated: bool


@dataclass(frozen=True, slots=True)
class StartsWith:
    """`attribute [NOT] STARTS_WITH prefix`, for Keyword."""

    attribute: Attribute
    prefix: str
    negated: bool


@dataclass(frozen=True, slots=True)
class IsNull:
    """`attribute IS [NOT] NULL`."""

    attribute: Attribute
    negated: bool


@dataclass(frozen=True, slots=True)
class And:
    """The conjunction of two or more conditions."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """The disjunction of two or more conditions."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The negation of a condition; NULL stays NULL."""

    item: Expression


Expression: TypeAlias = Compare | In | HasAny | HasWords | Between | StartsWith | IsNull | And | Or | Not


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed filter, including the implied condition on the namespace division."""

    where: Expression | None
    group_by: tuple[Attribute, ...] = ()
    is_large: bool = False
    """Whether the filter is too large to be handled within one turn of an event loop."""


def parse(text: str, custom: Mapping[str, AttributeType]) -> Query:
    """Parse a list filter. `custom` are the namespace's custom attributes. Raise InvalidQuery.

    Unless the filter names TemporalNamespaceDivision, it only matches runs without one (schedulers, batchers and the
    like run in divisions of their own).
    """
    query = _Converter(custom).convert(syntax.parse_statement(text))
    return replace(query, is_large=True) if len(text) > LARGE else query


class _Converter:
    def __init__(self, custom: Mapping[str, AttributeType]) -> None:
        self._custom = custom
        self._division_seen = False
        self._values = 0
        self._words = 0
        self._depth = 0

    def convert(self, statement: syntax.Statement) -> Query:
        if statement.limited:
            raise InvalidQuery(f"{NOT_SUPPORTED}: 'LIMIT' clause")
        where = self._where(statement.where) if statement.where is not None else None
        group_by = self._group_by(statement.group_by)
        self._refuse_order(statement.order_by)
        if not self._division_seen:
            plain = IsNull(Attribute(_DIVISION, AttributeType.Keyword, _DIVISION), negated=False)
            where = plain if where is None else And((plain, where))
        return Query(where, group_by)

    def _group_by(self, nodes: tuple[Node, ...]) -> tuple[Attribute, ...]:
        if len(nodes) > 1:
            raise InvalidQuery(f"{NOT_SUPPORTED}: 'GROUP BY' clause supports only a single field")
        attributes = tuple(self._attribute(node) for node in nodes)
        for attribute in attributes:
            if attribute.name not in _GROUPABLE:
                raise InvalidQuery(
                    f"{NOT_SUPPORTED}: 'GROUP BY' clause is not supported for search attribute {attribute.alias}"
                )
        return attributes

    def _refuse_order(self, nodes: tuple[tuple[Node, bool], ...]) -> None:
        """Refuse ORDER BY, as Temporal's SQL stores do, but report errors in its columns first."""
        for node, _ in nodes:
            if self._attribute(node).type is AttributeType.Text:
                raise InvalidQuery(f"{NOT_SUPPORTED}: unable to sort by search attribute type Text")
        if nodes:
            raise InvalidQuery(f"{NOT_SUPPORTED}: 'ORDER BY' clause")

    def _where(self, node: Node) -> Expression:
        while node.kind == syntax.PAREN:
            node = node.items[0]
        match node.kind:
            case syntax.AND | syntax.OR | syntax.NOT:
                return self._connective(node)
            case syntax.COMPARISON:
                return self._comparison(node)
            case syntax.RANGE:
                return self._range(node)
            case syntax.IS:
                return self._is(node)
            case syntax.FUNCTION:
                raise InvalidQuery(f"{NOT_SUPPORTED}: function expression")
            case syntax.NAME:
                raise InvalidQuery(f"{INVALID_EXPRESSION}: incomplete expression")
        raise InvalidQuery(f"{NOT_SUPPORTED}: expression of type {node.kind}")

    def _connective(self, node: Node) -> Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidQuery(f"{NOT_SUPPORTED}: more than {MAX_DEPTH} levels of AND, OR and NOT within each other")
        items = tuple([self._where(item) for item in node.items])
        self._depth -= 1
        match node.kind:
            case syntax.AND:
                return And(items)
            case syntax.OR:
                return Or(items)
        return Not(items[0])

    def _comparison(self, node: Node) -> Expression:
        left, right = node.items
        operator = node.text
        attribute = self._attribute(left)
        is_list = right.kind == syntax.TUPLE
        values = [self._value(item, attribute) for item in (right.items if is_list else (right,))]
        _check_operator(operator, attribute)
        negated = operator.startswith(("not ", "!"))
        if is_list and operator not in _LISTS:
            raise _needs_string(operator, attribute, values)
        match attribute.type:
            case AttributeType.KeywordList:
                return HasAny(attribute, tuple(str(value) for value in values), negated)
            case AttributeType.Text:
                return self._has_words(attribute, str(values[0]), negated=negated)
        if operator in _LISTS:
            return In(attribute, tuple(values), negated)
        if operator in _PREFIXES:
            prefix = values[0]
            if attribute.name == "ExecutionStatus" or not isinstance(prefix, str):
                raise _needs_string(operator, attribute, values)
            return StartsWith(attribute, prefix, negated)
        return Compare(attribute, _COMPARE[operator], values[0])

    def _has_words(self, attribute: Attribute, text: str, *, negated: bool) -> HasWords:
        """Split the text at spaces into terms, any of which may match."""
        terms = [term for term in text.split(" ") if term]
        if not terms:
            raise InvalidQuery(
                f"{INVALID_EXPRESSION}: no tokens found filtering on Text type search attribute {attribute.alias}"
            )
        self._words += len(terms)
        if self._words > MAX_WORDS:
            raise InvalidQuery(f"{NOT_SUPPORTED}: more than {MAX_WORDS} words")
        joined = (joined_words(term) for term in terms)
        return HasWords(attribute, tuple(term for term in joined if term), negated)

    def _range(self, node: Node) -> Between:
        left, low, high = node.items
        attribute = self._attribute(left)
        if attribute.type not in _RANGED:
            raise InvalidQuery(
                f"{INVALID_EXPRESSION}: cannot do range condition on search attribute '{attribute.alias}'"
                f" of type {attribute.type.name}"
            )
        return Between(
            attribute, self._value(low, attribute), self._value(high, attribute), node.text.startswith("not ")
        )

    def _is(self, node: Node) -> IsNull:
        attribute = self._attribute(node.items[0])
        if node.text not in ("is null", "is not null"):
            raise InvalidQuery(f"{INVALID_EXPRESSION}: 'IS' operator can only be used as 'IS NULL' or 'IS NOT NULL'")
        return IsNull(attribute, negated=node.text == "is not null")

    def _value(self, node: Node, attribute: Attribute) -> Scalar:
        self._values += 1
        if self._values > MAX_VALUES:
            raise InvalidQuery(f"{NOT_SUPPORTED}: more than {MAX_VALUES} values")
        return read_value(node, attribute)

    def _attribute(self, node: Node) -> Attribute:
        if node.kind != syntax.NAME:
            raise InvalidQuery(f"{INVALID_EXPRESSION}: must be a column name but was {node.kind}")
        attribute = resolve(node.text, self._custom)
        if attribute is None:
            raise InvalidQuery(f"{UNKNOWN_ATTRIBUTE}: {node.text}")
        self._division_seen = self._division_seen or attribute.name == _DIVISION
        return attribute


def resolve(alias: str, custom: Mapping[str, AttributeType]) -> Attribute | None:
    """Return the attribute of a name, or None.

    Custom attributes precede the server's own, which are found with or without the prefix `Temporal`.
    """
    if alias not in SYSTEM_AND_PREDEFINED and alias in custom:
        return Attribute(alias, custom[alias], alias)
    bare = alias.removeprefix(RESERVED_PREFIX)
    candidates = [alias]
    if bare == "ScheduleId":
        candidates.append("WorkflowId")
    candidates += [RESERVED_PREFIX + alias, bare]
    for name in candidates:
        kind = SYSTEM_AND_PREDEFINED.get(name) or custom.get(name)
        if kind is not None:
            return Attribute(name, kind, alias)
    return None


def _check_operator(operator: str, attribute: Attribute) -> None:
    match attribute.type:
        case AttributeType.Keyword:
            supported = operator in _COMPARE or operator in _LISTS or operator in _PREFIXES
        case AttributeType.KeywordList:
            supported = operator in _EQUALITY or operator in _LISTS
        case AttributeType.Text:
            supported = operator in _EQUALITY
        case _:
            supported = operator in _COMPARE or operator in _LISTS
    if not supported:
        raise InvalidQuery(
            f"{NOT_SUPPORTED}: operator '{operator.upper()}' not supported for {attribute.type.name} type"
            f" search attribute '{attribute.alias}'"
        )


def _needs_string(operator: str, attribute: Attribute, values: list[Scalar]) -> InvalidQuery:
    if operator in _PREFIXES:
        printed = f"[{' '.join(str(value) for value in values)}]" if len(values) != 1 else str(values[0])
        if attribute.name == "ExecutionStatus":
            printed = attribute.alias
        return InvalidQuery(
            f'{INVALID_EXPRESSION}: right-hand side of "{operator}" operator must be a literal string (got: {printed})'
        )
    printed = ", ".join(f"'{value}'" if isinstance(value, str) else str(value) for value in values)
    return InvalidQuery(f"{INVALID_EXPRESSION}: unexpected value type (expected string, got ({printed}))")


def is_column(attribute: Attribute) -> bool:
    """Return whether the row has a column of its own for the attribute."""
    return attribute.name in SYSTEM
