"""What a filter may say, and the words in which the rest is refused.

The words were taken down from the real server; the ones that clients see there are the ones they see here.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.visibility.support import CUSTOM
from whistlestop.storage.visibility import AttributeType, InvalidQuery, parse, resolve

GOOD = [
    "",
    "   ",
    "WorkflowId = 'a'",
    'WorkflowId = "a"',
    "WorkflowId = 'a' GROUP BY ExecutionStatus",
    "group by `ExecutionStatus`",
    "GROUP BY TemporalNamespaceDivision",
    "WorkflowId IN ('a', 'b')",
    "StartTime > '2020-01-01T00:00:00Z'",
    "StartTime BETWEEN 1 AND 2",
    "CustomInt > -5",
    "CustomInt > -1.5",
    "CustomInt > +5",
    "CustomInt > 99999999999999999999",
    "CustomInt IN (1, 2.5)",
    "CustomDouble = -.5",
    "CustomBool = TRUE",
    "CustomBool < true",
    "CustomDt > '2020-01-01T00:00:00.123456789+02:00'",
    "ExecutionStatus = 'WORKFLOW_EXECUTION_STATUS_RUNNING'",
    "ExecutionStatus = 1",
    "ExecutionStatus BETWEEN 1 AND 2",
    "ExecutionDuration > '1h30m'",
    "ExecutionDuration > '1d'",
    "ExecutionDuration > '10:00:00'",
    "ExecutionDuration = '-1h'",
    "WorkflowId STARTS_WITH 'a%'",
    "NOT (WorkflowId = 'a' OR RunId = 'b') AND TaskQueue != 'c'",
    "WorkflowId != 'a' || RunId = 'b' && RunId = 'c'",
    "WorkflowId <> 'a'",
    "WorkflowId NOT BETWEEN 'a' AND 'b'",
    "NOT NOT WorkflowId = 'a'",
    "WorkflowId = 'it''s' ;",
    'WorkflowId = "it\'s \\"q\\" \\n" -- a comment',
    "WorkflowId = 'a'/**/AND RunId = 'b'",
    "`Custom-kw` = 'x'",
    "CustomText = '!!'",
    "CustomText IS NOT NULL",
    "CustomList NOT IN ('a', 'b')",
    "TemporalUsedWorkerDeploymentVersions = 'x'",
    "ExternalPayloadCount = 1",
]


@pytest.mark.parametrize("text", GOOD)
def test_filter_is_taken(text: str) -> None:
    parse(text, CUSTOM)


_MALFORMED = "malformed SQL query: "
_EXPRESSION = "invalid expression: "
_UNSUPPORTED = "operation is not supported: "
_TYPE = "invalid expression: invalid value type for search attribute "

BAD = [
    ("WorkflowId = 'a' ORDER BY StartTime", f"{_UNSUPPORTED}'ORDER BY' clause"),
    ("order by StartTime desc", f"{_UNSUPPORTED}'ORDER BY' clause"),
    ("order by CustomText", f"{_UNSUPPORTED}unable to sort by search attribute type Text"),
    ("order by Foo", "invalid search attribute: Foo"),
    ("Foo = 'a' LIMIT 5", f"{_UNSUPPORTED}'LIMIT' clause"),
    ("GROUP BY ExecutionStatus LIMIT 1", f"{_UNSUPPORTED}'LIMIT' clause"),
    ("GROUP BY ExecutionStatus, WorkflowType", f"{_UNSUPPORTED}'GROUP BY' clause supports only a single field"),
    ("GROUP BY WorkflowType", f"{_UNSUPPORTED}'GROUP BY' clause is not supported for search attribute WorkflowType"),
    ("GROUP BY 'a'", f"{_EXPRESSION}must be a column name but was *sqlparser.SQLVal"),
    ("GROUP BY Foo", "invalid search attribute: Foo"),
    ("WorkflowId", f"{_EXPRESSION}incomplete expression"),
    ("NOT WorkflowId", f"{_EXPRESSION}incomplete expression"),
    ("WorkflowId =", f"{_MALFORMED}syntax error at position 40"),
    ("WorkflowId == 'a'", f"{_MALFORMED}syntax error at position 41"),
    ("WorkflowId = 'a", f"{_MALFORMED}syntax error at position 43 near 'a'"),
    ("WorkflowId IN 'a'", f"{_MALFORMED}syntax error at position 45 near 'a'"),
    ("WorkflowId IN ()", f"{_MALFORMED}syntax error at position 44"),
    ("WorkflowId = 'a' AND", f"{_MALFORMED}syntax error at position 48"),
    ("AND WorkflowId = 'a'", f"{_MALFORMED}syntax error at position 31 near 'and'"),
    ("WorkflowId = 'a' WorkflowId = 'b'", f"{_MALFORMED}syntax error at position 55 near 'WorkflowId'"),
    ("(WorkflowId = 'a'", f"{_MALFORMED}syntax error at position 45"),
    ("WorkflowId = 'a')", f"{_MALFORMED}syntax error at position 45"),
    ("WorkflowId = 'a' = 'b'", f"{_MALFORMED}syntax error at position 46"),
    ("WorkflowId = $1", f"{_MALFORMED}syntax error at position 42 near '$'"),
    ("WorkflowId = 'é' AND x = é", f"{_MALFORMED}syntax error at position 55 near 'é'"),
    ("Key = 'x'", f"{_MALFORMED}syntax error at position 31 near 'key'"),
    ("WorkflowId = 'a'; drop table x", f"{_MALFORMED}syntax error at position 50 near 'drop'"),
    ("WorkflowId IS NOT", f"{_MALFORMED}syntax error at position 45"),
    ("WorkflowId NOT 'a'", f"{_MALFORMED}syntax error at position 46 near 'a'"),
    ("WorkflowId BETWEEN 'a' OR 'b'", f"{_MALFORMED}syntax error at position 53 near 'or'"),
    ("CustomInt = 5a", f"{_MALFORMED}syntax error at position 41 near '5'"),
    ("CustomInt > --5", f"{_MALFORMED}syntax error at position 43"),
    ("a. = 1", f"{_MALFORMED}syntax error at position 32"),
    ("a.b.c.d = 1", f"{_MALFORMED}syntax error at position 34"),
    ("`abc = 1", f"{_MALFORMED}syntax error at position 36 near 'abc = 1'"),
    ("`` = 1", f"{_MALFORMED}syntax error at position 30"),
    (";", f"{_MALFORMED}syntax error at position 29"),
    ("ORDER BY", f"{_MALFORMED}syntax error at position 30"),
    ("WorkflowId = (select 1", f"{_MALFORMED}syntax error at position 50"),
    ("Foo = 'a'", "invalid search attribute: Foo"),
    ("foo.bar = 'a'", "invalid search attribute: foo.bar"),
    ("workflowid = 'x'", "invalid search attribute: workflowid"),
    ("NamespaceId = 'x'", "invalid search attribute: NamespaceId"),
    (
        "WorkflowId = a",
        f'{_UNSUPPORTED}column name on the right side of comparison expression (did you forget to quote "a"?)',
    ),
    ("WorkflowId LIKE 'a%'", f"{_UNSUPPORTED}operator 'LIKE' not supported for Keyword type search attribute 'WorkflowId'"),
    ("WorkflowId <=> 'a'", f"{_UNSUPPORTED}operator '<=>' not supported for Keyword type search attribute 'WorkflowId'"),
    ("CustomText < 'a'", f"{_UNSUPPORTED}operator '<' not supported for Text type search attribute 'CustomText'"),
    ("CustomText IN ('a')", f"{_UNSUPPORTED}operator 'IN' not supported for Text type search attribute 'CustomText'"),
    (
        "CustomList STARTS_WITH 'a'",
        f"{_UNSUPPORTED}operator 'STARTS_WITH' not supported for KeywordList type search attribute 'CustomList'",
    ),
    ("WorkflowId = NULL", f"{_EXPRESSION}unexpected value type *sqlparser.NullVal"),
    ("WorkflowId = ('a')", f"{_EXPRESSION}unexpected value type *sqlparser.ParenExpr"),
    ("WorkflowId = (select 1)", f"{_EXPRESSION}unexpected value type *sqlparser.Subquery"),
    ("CustomInt > 1+1", f"{_EXPRESSION}unexpected value type *sqlparser.BinaryExpr"),
    ("WorkflowId = upper('a')", f"{_UNSUPPORTED}nested func"),
    ("now()", f"{_UNSUPPORTED}function expression"),
    ("(WorkflowId) = 'a'", f"{_EXPRESSION}must be a column name but was *sqlparser.ParenExpr"),
    ("WorkflowId = 'a' IS NULL", f"{_EXPRESSION}must be a column name but was *sqlparser.ComparisonExpr"),
    ("'a'", f"{_UNSUPPORTED}expression of type *sqlparser.SQLVal"),
    ("true", f"{_UNSUPPORTED}expression of type sqlparser.BoolVal"),
    ("(WorkflowId, RunId)", f"{_UNSUPPORTED}expression of type sqlparser.ValTuple"),
    ("!(WorkflowId = 'a')", f"{_UNSUPPORTED}expression of type *sqlparser.UnaryExpr"),
    ("exists (select 1)", f"{_UNSUPPORTED}expression of type *sqlparser.ExistsExpr"),
    ("WorkflowId IS TRUE", f"{_EXPRESSION}'IS' operator can only be used as 'IS NULL' or 'IS NOT NULL'"),
    ("CustomList BETWEEN 'a' AND 'b'", f"{_EXPRESSION}cannot do range condition on search attribute 'CustomList' of type KeywordList"),
    ("WorkflowId = 1", f"{_TYPE}WorkflowId of type Keyword: 1 (type: int64)"),
    ("WorkflowId = true", f"{_TYPE}WorkflowId of type Keyword: true (type: bool)"),
    ("WorkflowId = 1e3", f"{_TYPE}WorkflowId of type Keyword: 1000 (type: float64)"),
    ("CustomKw = 123456789012345678901", f"{_TYPE}CustomKw of type Keyword: 1.2345678901234568e+20 (type: float64)"),
    ("CustomInt = '5'", f'{_TYPE}CustomInt of type Int: "5" (type: string)'),
    ("CustomBool = 1", f"{_TYPE}CustomBool of type Bool: 1 (type: int64)"),
    ("CustomList IN ('a', 1)", f"{_TYPE}CustomList of type KeywordList: 1 (type: int64)"),
    ("StartTime > 1.5", f"{_TYPE}StartTime of type Datetime: 1.5 (type: float64)"),
    ("StartTime > '2020-01-01'", f"{_EXPRESSION}unable to parse datetime '2020-01-01'"),
    ("CustomInt > 0x1F", f'{_EXPRESSION}unable to parse value "0x1F"'),
    ("CustomInt > 1e999", f'{_EXPRESSION}unable to parse value "1e999"'),
    ("WorkflowId = ?", f'{_EXPRESSION}unable to parse value ":v1"'),
    ("CustomText = ' '", f"{_EXPRESSION}no tokens found filtering on Text type search attribute CustomText"),
    ("CustomList = ('a','b')", f"{_EXPRESSION}unexpected value type (expected string, got ('a', 'b'))"),
    ("ExecutionStatus = 'running'", f"{_EXPRESSION}invalid ExecutionStatus value 'running'"),
    ("ExecutionStatus = 99", f"{_EXPRESSION}invalid ExecutionStatus value 99"),
    ("ExecutionStatus = 1.5", f"{_EXPRESSION}unexpected value type float64 for search attribute ExecutionStatus"),
    ("ExecutionDuration > '10:60:00'", f"{_EXPRESSION}invalid duration value for search attribute ExecutionDuration: 10:60:00"),
    ("ExecutionDuration > 1.5", f"{_EXPRESSION}unexpected value type float64 for search attribute ExecutionDuration"),
    (
        "WorkflowId STARTS_WITH ('a','b')",
        f'{_EXPRESSION}right-hand side of "starts_with" operator must be a literal string (got: [a b])',
    ),
    ("GROUP BY ExecutionStatus HAVING 1 = 1", f"{_UNSUPPORTED}'HAVING' clause"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "detail"), BAD)
def test_filter_is_refused(text: str, detail: str) -> None:
    with pytest.raises(InvalidQuery) as refused:
        parse(text, CUSTOM)
    assert refused.value.message == f"invalid query: {detail}"


_FRAGMENTS = st.sampled_from(
    [
        "WorkflowId",
        "CustomList",
        "CustomInt",
        "=",
        "!=",
        "<",
        "<=>",
        "(",
        ")",
        ",",
        ".",
        ";",
        "'a'",
        '"b"',
        "1",
        "-1.5",
        "0x",
        "1e9",
        "AND",
        "OR",
        "NOT",
        "IN",
        "IS",
        "NULL",
        "BETWEEN",
        "LIKE",
        "`",
        "\\",
        "'",
        '"',
        "STARTS_WITH",
        "GROUP",
        "BY",
        "ORDER",
        "LIMIT",
        "--",
        "/*",
        "*/",
        "#",
        "?",
        ":a",
        "true",
        "select",
        "exists",
        "case",
        "é",
        "\x00",
        "�",
    ]
)


@given(st.lists(_FRAGMENTS, max_size=12).map(" ".join) | st.text(max_size=40))
def test_every_filter_is_served_or_refused(text: str) -> None:
    with suppress(InvalidQuery):
        parse(text, CUSTOM)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("WorkflowId", "WorkflowId"),
        ("TemporalWorkflowId", "WorkflowId"),
        ("ChangeVersion", "TemporalChangeVersion"),
        ("ScheduleId", "WorkflowId"),
        ("TemporalScheduleId", "WorkflowId"),
        ("CustomKw", "CustomKw"),
        ("TemporalCustomKw", "CustomKw"),
        ("Memo", None),
    ],
)
def test_name_means_attribute(alias: str, name: str | None) -> None:
    found = resolve(alias, CUSTOM)
    assert (found.name if found else None) == name


def test_custom_schedule_id_comes_before_the_alias_of_workflow_id() -> None:
    found = resolve("ScheduleId", {"ScheduleId": AttributeType.Int})
    assert found is not None
    assert found.name == "ScheduleId"
