"""The SQL of each dialect for each kind of attribute, as text and parameters."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from whistlestop.storage.visibility import POSTGRES, SQLITE, Attribute, AttributeType, Dialect


def _attribute(kind: AttributeType) -> Attribute:
    return Attribute("A", kind, "A")


SQLITE_VALUE = "CASE WHEN json_type(search_attributes, ?) IN {} THEN {} END"
EXTRACT = "json_extract(search_attributes, ?)"
POSTGRES_VALUE = "(CASE WHEN jsonb_typeof(search_attributes::jsonb -> %s::text) = '{}' THEN {} END)"
ARROW = "(search_attributes::jsonb ->> %s::text)"


@pytest.mark.parametrize(
    ("kind", "sqlite", "postgres"),
    [
        (AttributeType.Text, ("('text')", EXTRACT), ("string", f'{ARROW} COLLATE "C"')),
        (AttributeType.Keyword, ("('text')", EXTRACT), ("string", f'{ARROW} COLLATE "C"')),
        (AttributeType.Int, ("('integer', 'real')", EXTRACT), ("number", f"{ARROW}::numeric")),
        (AttributeType.Double, ("('integer', 'real')", f"CAST({EXTRACT} AS REAL)"), ("number", f"{ARROW}::float8")),
        (AttributeType.Datetime, ("('integer', 'real')", EXTRACT), ("number", f"{ARROW}::numeric")),
        (AttributeType.Bool, ("('true', 'false')", EXTRACT), ("boolean", f"{ARROW}::boolean")),
    ],
)
def test_a_value(kind: AttributeType, sqlite: tuple[str, str], postgres: tuple[str, str]) -> None:
    assert SQLITE.attribute(_attribute(kind)) == (SQLITE_VALUE.format(*sqlite), ['$."A"', '$."A"'])
    assert POSTGRES.attribute(_attribute(kind)) == (POSTGRES_VALUE.format(*postgres), ["A", "A"])


def test_lists_and_words() -> None:
    keywords, text = _attribute(AttributeType.KeywordList), _attribute(AttributeType.Text)
    assert SQLITE.is_list(keywords) == ("json_type(search_attributes, ?) = 'array'", ['$."A"'])
    assert POSTGRES.is_list(keywords) == ("jsonb_typeof(search_attributes::jsonb -> %s::text) = 'array'", ["A"])
    assert SQLITE.has_any(keywords, ("x", "y")) == (
        (
            "(COALESCE(json_type(search_attributes, ?) = 'array', 0) AND EXISTS "
            "(SELECT 1 FROM json_each(search_attributes, ?) AS item WHERE item.value IN (?, ?)))"
        ),
        ['$."A"', '$."A"', "x", "y"],
    )
    one = "(search_attributes::jsonb -> %s::text) @> to_jsonb(%s::text)"
    assert POSTGRES.has_any(keywords, ("x", "y")) == (
        f"COALESCE(jsonb_typeof(search_attributes::jsonb -> %s::text) = 'array' AND ({one} OR {one}), FALSE)",
        ["A", "A", "x", "A", "y"],
    )
    for dialect, marks in ((SQLITE, 2), (POSTGRES, 2)):
        sql, parameters = dialect.has_word(text, "word")
        assert sql.startswith("COALESCE(")
        assert sql.count(dialect.placeholder) == marks
        assert str(parameters[0]).strip('$."').endswith("A")
        assert parameters[1] == "word"


@pytest.mark.parametrize(
    ("dialect", "ordered", "starts"),
    [(SQLITE, "c", "substr(e, 1, ?) = ?"), (POSTGRES, 'c COLLATE "C"', "left(e, %s::int) = %s::text")],
)
def test_texts(dialect: Dialect, ordered: str, starts: str) -> None:
    assert dialect.ordered("c") == ordered
    assert dialect.starts_with("e") == starts


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1.5, AttributeType.Int, Decimal("1.5")), (1.5, AttributeType.Double, 1.5), (1, AttributeType.Int, 1),
        ("x", AttributeType.Keyword, "x"), (True, AttributeType.Bool, True),
    ],
)  # fmt: skip
def test_literals(value: Any, kind: AttributeType, expected: Any) -> None:
    found = POSTGRES.parameter(value, kind)
    assert (found, type(found)) == (expected, type(expected))
    assert SQLITE.parameter(value, kind) is value
