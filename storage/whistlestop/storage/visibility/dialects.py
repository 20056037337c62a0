"""The differences between the databases: reading a value from the JSON object, and placeholders.

The Postgres dialect uses only what Aurora DSQL accepts: the column is text, and cast to jsonb while the query runs. A
stored value of another type than the attribute's (an attribute may be removed and added again with another type) reads
as NULL; it must not fail the statement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

from whistlestop.storage.attribute_types import AttributeType
from whistlestop.storage.visibility.attributes import TEXT_WORDS_PREFIX, Attribute

if TYPE_CHECKING:
    from decimal import Decimal

    from whistlestop.storage.visibility.literals import Scalar

Parameter: TypeAlias = "bool | int | float | str | Decimal"
Fragment: TypeAlias = "tuple[str, list[Parameter]]"


class Dialect(Protocol):
    """The SQL of one database. Names and values that a user wrote are passed as parameters, never in the text."""

    placeholder: str
    division: str
    """The expression for the namespace division, `-` where there is none; literally as in the index used by lists."""

    def attribute(self, attribute: Attribute) -> Fragment:
        """Return the expression for a value in the JSON object: NULL if absent or of another type.

        Not for KeywordList.
        """
        ...

    def is_list(self, attribute: Attribute) -> Fragment:
        """Return the expression for whether the JSON object has a list of that name: true, false or NULL."""
        ...

    def has_any(self, attribute: Attribute, values: tuple[str, ...]) -> Fragment:
        """Return the expression for whether the list has one of the values; false, not NULL, without a list."""
        ...

    def has_word(self, attribute: Attribute, term: str) -> Fragment:
        """Return the expression for whether the words of a Text contain the term; false, not NULL, without a text."""
        ...

    def ordered(self, column: str) -> str:
        """Return an expression that orders a text column by code points."""
        ...

    def starts_with(self, expression: str) -> str:
        """Return a condition with two parameters: the prefix's length in characters, and the prefix."""
        ...

    def parameter(self, value: Scalar, kind: AttributeType) -> Parameter:
        """Return a literal in the form that the database's driver needs."""
        ...


class SqliteDialect:
    """The dialect of SQLite 3.38 or newer."""

    placeholder = "?"
    division = (
        "COALESCE(CASE WHEN json_type(search_attributes, '$.TemporalNamespaceDivision') = 'text'"
        " THEN json_extract(search_attributes, '$.TemporalNamespaceDivision') END, '-')"
    )

    _TYPES: ClassVar = {
        AttributeType.Text: "('text')",
        AttributeType.Keyword: "('text')",
        AttributeType.Int: "('integer', 'real')",
        AttributeType.Double: "('integer', 'real')",
        AttributeType.Datetime: "('integer', 'real')",
        AttributeType.Bool: "('true', 'false')",
    }

    def attribute(self, attribute: Attribute) -> Fragment:
        """Return the expression for a value in the JSON object: NULL if absent or of another type.

        Not for KeywordList.
        """
        path = _path(attribute.name)
        value = "json_extract(search_attributes, ?)"
        if attribute.type is AttributeType.Double:
            value = f"CAST({value} AS REAL)"
        types = self._TYPES[attribute.type]
        return f"CASE WHEN json_type(search_attributes, ?) IN {types} THEN {value} END", [path, path]

    def is_list(self, attribute: Attribute) -> Fragment:
        """Return the expression for whether the JSON object has a list of that name: true, false or NULL."""
        return "json_type(search_attributes, ?) = 'array'", [_path(attribute.name)]

    def has_any(self, attribute: Attribute, values: tuple[str, ...]) -> Fragment:
        """Return the expression for whether the list has one of the values; false, not NULL, without a list."""
        path = _path(attribute.name)
        wanted = ", ".join("?" * len(values))
        matching = f"SELECT 1 FROM json_each(search_attributes, ?) AS item WHERE item.value IN ({wanted})"  # noqa: S608  marks
        is_list = "COALESCE(json_type(search_attributes, ?) = 'array', 0)"
        return f"({is_list} AND EXISTS ({matching}))", [path, path, *values]

    def has_word(self, attribute: Attribute, term: str) -> Fragment:
        """Return the expression for whether the words of a Text contain the term; false, not NULL, without a text."""
        path = _path(TEXT_WORDS_PREFIX + attribute.name)
        return "COALESCE(instr(json_extract(search_attributes, ?), ?) > 0, 0)", [path, term]

    def ordered(self, column: str) -> str:
        """Return an expression that orders a text column by code points."""
        return column

    def starts_with(self, expression: str) -> str:
        """Return a condition with two parameters: the prefix's length in characters, and the prefix."""
        return f"substr({expression}, 1, ?) = ?"

    def parameter(self, value: Scalar, kind: AttributeType) -> Parameter:
        """Return a literal in the form that the database's driver needs."""
        return value


class PostgresDialect:
    """The dialect of Postgres 14 or newer and of Aurora DSQL, through psycopg."""

    placeholder = "%s"
    division = (
        "COALESCE(CASE WHEN jsonb_typeof(search_attributes::jsonb -> 'TemporalNamespaceDivision') = 'string'"
        " THEN search_attributes::jsonb ->> 'TemporalNamespaceDivision' END, '-')"
    )

    _OBJECT = "search_attributes::jsonb"
    _TYPES: ClassVar = {
        AttributeType.Text: ("string", ""),
        AttributeType.Keyword: ("string", ""),
        AttributeType.Int: ("number", "::numeric"),
        AttributeType.Double: ("number", "::float8"),
        AttributeType.Datetime: ("number", "::numeric"),
        AttributeType.Bool: ("boolean", "::boolean"),
    }

    def attribute(self, attribute: Attribute) -> Fragment:
        """Return the expression for a value in the JSON object: NULL if absent or of another type.

        Not for KeywordList.
        """
        json_type, cast = self._TYPES[attribute.type]
        value = f"({self._OBJECT} ->> %s::text){cast}"
        if json_type == "string":
            value = f'{value} COLLATE "C"'
        return (
            f"(CASE WHEN jsonb_typeof({self._OBJECT} -> %s::text) = '{json_type}' THEN {value} END)",
            [attribute.name, attribute.name],
        )

    def is_list(self, attribute: Attribute) -> Fragment:
        """Return the expression for whether the JSON object has a list of that name: true, false or NULL."""
        return f"jsonb_typeof({self._OBJECT} -> %s::text) = 'array'", [attribute.name]

    def has_any(self, attribute: Attribute, values: tuple[str, ...]) -> Fragment:
        """Return the expression for whether the list has one of the values; false, not NULL, without a list."""
        one = f"({self._OBJECT} -> %s::text) @> to_jsonb(%s::text)"
        parameters: list[Parameter] = [attribute.name]
        for value in values:
            parameters += [attribute.name, value]
        any_matches = " OR ".join([one] * len(values))
        is_list = f"jsonb_typeof({self._OBJECT} -> %s::text) = 'array'"
        return f"COALESCE({is_list} AND ({any_matches}), FALSE)", parameters

    def has_word(self, attribute: Attribute, term: str) -> Fragment:
        """Return the expression for whether the words of a Text contain the term; false, not NULL, without a text."""
        name = TEXT_WORDS_PREFIX + attribute.name
        return f"COALESCE(strpos({self._OBJECT} ->> %s::text, %s::text) > 0, FALSE)", [name, term]

    def ordered(self, column: str) -> str:
        """Return an expression that orders a text column by code points."""
        return f'{column} COLLATE "C"'

    def starts_with(self, expression: str) -> str:
        """Return a condition with two parameters: the prefix's length in characters, and the prefix."""
        return f"left({expression}, %s::int) = %s::text"

    def parameter(self, value: Scalar, kind: AttributeType) -> Parameter:
        """Return a float as Decimal, since a whole number would be compared with a float inexactly."""
        if not isinstance(value, float) or kind is AttributeType.Double:
            return value
        from decimal import Decimal

        return Decimal(value)


SQLITE: Dialect = SqliteDialect()
POSTGRES: Dialect = PostgresDialect()


def _path(name: str) -> str:
    return f'$."{name}"'
