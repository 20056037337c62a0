"""What a filter lists is the same in Python, on SQLite and on Postgres."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.postgres import server_url
from tests.visibility import support
from whistlestop.storage.visibility import (
    POSTGRES,
    SQLITE,
    AttributeType,
    InvalidPageToken,
    InvalidQuery,
    PageKey,
    Query,
    group_by_columns,
    group_payloads,
    matches,
    page_steps,
    parse,
    parse_page_token,
    where_clause,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whistlestop.storage.records import VisibilityRow


EVERYTHING = Query(None)


@pytest.fixture(scope="module")
def sqlite() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute(support.CREATE)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(server_url()) as connection:
        connection.execute(support.CREATE)
        yield connection
        connection.rollback()


def _listed_by_sqlite(connection: sqlite3.Connection, rows: list[VisibilityRow], text: str) -> list[int]:
    connection.execute("DELETE FROM executions_visibility")
    connection.executemany(support.insert("?"), [support.values(row) for row in rows])
    condition, parameters = where_clause(parse(text, support.CUSTOM), SQLITE)
    found = connection.execute(f"SELECT rowid FROM executions_visibility WHERE {condition}", parameters)
    first = connection.execute("SELECT MIN(rowid) FROM executions_visibility").fetchone()[0]
    return sorted(rowid - first for (rowid,) in found)


def _listed_by_postgres(
    connection: psycopg.Connection[tuple[object, ...]], rows: list[VisibilityRow], text: str
) -> list[str]:
    connection.execute("DELETE FROM executions_visibility")
    for at, row in enumerate(rows):
        line = list(support.values(row))
        line[0] = str(at)
        connection.execute(support.insert("%s"), line)
    condition, parameters = where_clause(parse(text, support.CUSTOM), POSTGRES)
    found = connection.execute(
        f"SELECT namespace_id FROM executions_visibility WHERE {condition}".encode(),
        parameters,
    )
    return sorted(str(namespace_id) for (namespace_id,) in found)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(support.rows(), min_size=1, max_size=4), text=support.filters)
def test_sqlite_lists_what_the_reference_lists(
    sqlite: sqlite3.Connection, rows: list[VisibilityRow], text: str
) -> None:
    query = parse(text, support.CUSTOM)
    assert _listed_by_sqlite(sqlite, rows, text) == [at for at, row in enumerate(rows) if matches(query, row)]


@pytest.mark.postgres
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(support.rows(), min_size=1, max_size=4), text=support.filters)
def test_postgres_lists_what_the_reference_lists(
    postgres: psycopg.Connection[tuple[object, ...]], rows: list[VisibilityRow], text: str
) -> None:
    query = parse(text, support.CUSTOM)
    expected = sorted(str(at) for at, row in enumerate(rows) if matches(query, row))
    assert _listed_by_postgres(postgres, rows, text) == expected


ROW = support.make_row(
    "r1",
    workflow_id="Abc",
    attributes={
        "CustomKw": "Foo",
        "CustomList": ["Foo", "bar baz"],
        "CustomText": "Hello wide-World",
        "CustomInt": 5,
        "CustomDouble": 1.5,
        "CustomBool": True,
        "CustomDt": 1_577_836_800_000_000,
    },
)
BARE = support.make_row("r2", workflow_id="bare")

# Found by running the real server, but for the case of keywords, which its SQLite store alone ignores.
LISTED = [
    ("CustomKw = 'Foo'", "Abc"),
    ("CustomKw = 'foo'", ""),
    ("CustomKw != 'x'", "Abc"),
    ("NOT CustomKw = 'x'", "Abc"),
    ("CustomList = 'Foo'", "Abc"),
    ("CustomList = 'bar'", ""),
    ("CustomList = 'bar baz'", "Abc"),
    ("CustomList != 'x'", "Abc bare"),
    ("CustomList != 'Foo'", "bare"),
    ("CustomList NOT IN ('x')", "Abc bare"),
    ("CustomList IS NULL", "bare"),
    ("CustomText = 'hello'", "Abc"),
    ("CustomText = 'wide-world'", "Abc"),
    ("CustomText = 'world nope'", "Abc"),
    ("CustomText = 'hell'", ""),
    ("CustomText != 'nope'", "Abc bare"),
    ("CustomText = 'World Hello'", "Abc"),
    ("CloseTime > '2020-01-01T00:00:00Z'", ""),
    ("CloseTime IS NULL", "Abc bare"),
    ("HistoryLength IS NULL", "Abc bare"),
    ("HistoryLength > 0", ""),
    ("WorkflowId STARTS_WITH 'Ab'", "Abc"),
    ("WorkflowId NOT STARTS_WITH 'x'", "Abc bare"),
    ("CustomInt != 4.5", "Abc"),
    ("CustomInt IN (1, 5)", "Abc"),
    ("CustomDouble BETWEEN 1 AND 2", "Abc"),
    ("CustomBool = true", "Abc"),
    ("CustomDt = '2020-01-01T01:00:00+01:00'", "Abc"),
    ("CustomDt = 1577836800000000000", "Abc"),
    ("CustomKw NOT IN ('x')", "Abc"),
    ("CustomKw > 'A'", "Abc"),
    ("ParentWorkflowId IS NULL", "Abc bare"),
    ("RootWorkflowId = 'Abc'", "Abc"),
    ("ScheduleId = 'Abc'", "Abc"),
    ("ExecutionStatus = 'Running' OR CustomKw = 'x'", "Abc bare"),
    ("TemporalNamespaceDivision IS NOT NULL", ""),
    ("", "Abc bare"),
]


@pytest.mark.parametrize(("text", "listed"), LISTED)
def test_filter_lists(text: str, listed: str) -> None:
    query = parse(text, support.CUSTOM)
    assert " ".join(row.key.workflow_id for row in (ROW, BARE) if matches(query, row)) == listed


def test_rows_of_a_division_are_listed_only_when_the_filter_names_it(sqlite: sqlite3.Connection) -> None:
    rows = [BARE, support.make_row(attributes={"TemporalNamespaceDivision": "scheduler"})]
    assert _listed_by_sqlite(sqlite, rows, "WorkflowType = 'Type'") == [0]
    assert _listed_by_sqlite(sqlite, rows, "TemporalNamespaceDivision = 'scheduler'") == [1]
    assert _listed_by_sqlite(sqlite, rows, "GROUP BY TemporalNamespaceDivision") == [0, 1]


def test_attribute_whose_stored_value_has_another_type_reads_as_null(sqlite: sqlite3.Connection) -> None:
    rows = [support.make_row(raw_attributes='{"CustomInt":"five","CustomList":"a"}')]
    assert _listed_by_sqlite(sqlite, rows, "CustomInt IS NULL AND CustomList IS NULL") == [0]


def test_no_text_of_the_user_gets_into_the_sql() -> None:
    text = "CustomKw = 'secret' AND CustomList IN ('secret') AND CustomText = 'secret' AND `Custom-kw` STARTS_WITH 'secret'"
    for dialect in (SQLITE, POSTGRES):
        condition, parameters = where_clause(parse(text, support.CUSTOM), dialect)
        assert "secret" not in condition
        assert "Custom" not in condition
        assert condition.count(dialect.placeholder) == len(parameters)


@pytest.mark.parametrize(
    "text",
    [
        " OR ".join(f"CustomInt = {number}" for number in range(5000)),
        f"WorkflowId IN ({', '.join(repr(str(number)) for number in range(9000))})",
        "(" * 99 + "CustomInt = 5" + ")" * 99,
        "NOT " * 30 + "CustomInt = 5",
        "(CustomInt = 1 OR (CustomInt = 2 AND " * 15 + "CustomInt = 5" + "))" * 15,
        "NOT (CustomInt = 1 OR (CustomInt = 2 AND " * 10 + "CustomInt = 5" + "))" * 10,
        "(CustomInt = 1 OR (CustomInt = 2 OR CustomInt = 6) AND " * 14 + "CustomList = 'Foo'" + ")" * 14,
    ],
    ids=["many alternatives", "many values", "many parentheses", "many negations", "deep", "deep, NOT", "deep, lists"],
)
def test_large_filter_is_served(sqlite: sqlite3.Connection, text: str) -> None:
    assert _listed_by_sqlite(sqlite, [ROW], text) == [at for at in [0] if matches(parse(text, support.CUSTOM), ROW)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(" * 100 + "CustomInt = 5" + ")" * 100, "malformed SQL query: max nesting level reached at position 128"),
        ("NOT " * 100 + "CustomInt = 5", "max nesting level reached"),
        ("NOT " * 31 + "CustomInt = 5", "more than 30 levels of AND, OR and NOT"),
        ("CustomInt = 1 AND (CustomInt = 2 OR (" * 16 + "CustomInt = 5" + "))" * 16, "more than 30 levels"),
    ],
)
def test_deeper_filter_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidQuery, match=problem):
        parse(text, support.CUSTOM)


def test_more_values_than_a_statement_may_have_are_refused() -> None:
    with pytest.raises(InvalidQuery, match="more than 10000 values"):
        parse(f"WorkflowId IN ({', '.join(['1'.join(chr(39) * 2)] * 10_001)})", support.CUSTOM)


def test_a_filter_of_megabytes_is_refused_before_it_is_read_to_its_end() -> None:
    """It would hold up the server for seconds."""
    with pytest.raises(InvalidQuery, match="more than 100000 words"):
        parse("CustomInt = 1 OR " * 200_000, support.CUSTOM)


def _pages(connection: sqlite3.Connection, size: int) -> list[str]:
    listed: list[str] = []
    token = b""
    while True:
        page: list[Any] = []
        for behind, parameters, order in page_steps(EVERYTHING, parse_page_token(token), SQLITE):
            page += connection.execute(
                "SELECT close_time, start_time, run_id FROM executions_visibility"
                f" WHERE {behind} ORDER BY {order} LIMIT ?",
                [*parameters, size - len(page)],
            ).fetchall()
        if not page:
            return listed
        listed += [run_id for _, _, run_id in page]
        token = PageKey(*page[-1]).token()


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_pages_list_open_runs_first_then_the_last_closed(sqlite: sqlite3.Connection, size: int) -> None:
    rows = [
        support.make_row("closed early", start_time_us=0, close_time_us=10),
        support.make_row("closed late", start_time_us=1, close_time_us=20),
        support.make_row("closed late too", start_time_us=2, close_time_us=20),
        support.make_row("open b", start_time_us=5),
        support.make_row("open a", start_time_us=5),
        support.make_row("open since long", start_time_us=-5),
    ]
    _listed_by_sqlite(sqlite, rows, "")
    expected = ["open a", "open b", "open since long", "closed late too", "closed late", "closed early"]
    assert _pages(sqlite, size) == expected


@pytest.mark.postgres
def test_postgres_goes_on_behind_a_page_and_counts_groups(postgres: psycopg.Connection[tuple[object, ...]]) -> None:
    rows = [
        support.make_row("open"),
        support.make_row("closed", status=2, close_time_us=5),
        support.make_row("open too"),
    ]
    _listed_by_postgres(postgres, rows, "")
    steps = page_steps(EVERYTHING, PageKey(None, 1_000_000, "open"), POSTGRES)
    found = []
    for behind, parameters, order in steps:
        statement = f"SELECT run_id FROM executions_visibility WHERE {behind} ORDER BY {order}"
        found += postgres.execute(statement.encode(), parameters).fetchall()
    assert found == [("open too",), ("closed",)]
    for text, groups in [
        ("GROUP BY ExecutionStatus", [(1, 2), (2, 1)]),
        ("GROUP BY TemporalNamespaceDivision", [(None, 3)]),
    ]:
        columns, values = group_by_columns(parse(text, support.CUSTOM), POSTGRES)
        grouped = f"SELECT {columns[0]}, COUNT(*) FROM executions_visibility GROUP BY 1 ORDER BY 1"
        assert postgres.execute(grouped.encode(), values).fetchall() == groups


@pytest.mark.parametrize(
    "token",
    [b"garbage", b"{}", b"[]", b"[1,2]", b'["a",1,"r"]', b'[1,2,"\\u00e9"]', b'[1e3,2,"r"]', b"\xff", b"[" * 10_000],
)
def test_page_token_that_is_not_ours_is_refused(token: bytes) -> None:
    with pytest.raises(InvalidPageToken) as refused:
        parse_page_token(token)
    assert refused.value.message == "invalid page token"


def test_groups_carry_status_names(sqlite: sqlite3.Connection) -> None:
    rows = [support.make_row(status=status) for status in (1, 1, 2)]
    query = parse("GROUP BY ExecutionStatus", support.CUSTOM)
    _listed_by_sqlite(sqlite, rows, "")
    (column,), _ = group_by_columns(query, SQLITE)
    found = sqlite.execute(f"SELECT {column}, COUNT(*) FROM executions_visibility GROUP BY 1 ORDER BY 1").fetchall()
    groups = [(group_payloads(query, [value])[0], count) for value, count in found]
    assert [(payload.data, payload.metadata["type"], count) for payload, count in groups] == [
        (b'"Running"', b"Keyword", 2),
        (b'"Completed"', b"Keyword", 1),
    ]


def test_custom_attribute_does_not_shadow_a_system_one() -> None:
    query = parse("WorkflowId = 'Abc'", {"WorkflowId": AttributeType.Int})
    assert matches(query, ROW)
