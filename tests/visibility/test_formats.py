"""Numbers, times, durations, tokens and literals of filters, by table."""

from __future__ import annotations

from typing import Any

import pytest

from whistlestop.storage.visibility import InvalidPageToken, InvalidQuery, InvalidSearchAttributes, parse
from whistlestop.storage.visibility.goformat import go_float, go_quote, go_value
from whistlestop.storage.visibility.literals import STATUS_NAMES, STATUS_NUMBERS
from whistlestop.storage.visibility.times import format_rfc3339, parse_duration_ns, parse_rfc3339_us
from whistlestop.storage.visibility.tokens import MAX_LENGTH, MAX_TOKENS, Tokens


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.0, "-0"), (1.0, "1"), (-1.5, "-1.5"), (10.0, "10"), (100000.0, "100000"),
        (999999.0, "999999"), (1000000.0, "1e+06"), (1234567.0, "1.234567e+06"), (1e21, "1e+21"), (-2.5e10, "-2.5e+10"),
        (0.1, "0.1"), (0.001, "0.001"), (0.0001, "0.0001"), (0.00012, "0.00012"), (0.00001, "1e-05"),
        (1.5e-7, "1.5e-07"), (1e100, "1e+100"), (1e-100, "1e-100"), (123.456, "123.456"), (20.05, "20.05"),
    ],
)  # fmt: skip
def test_numbers_as_go_prints_them(value: float, text: str) -> None:
    assert go_float(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "<nil>"), (True, "true"), (False, "false"), (5, "5"), (2_000_000, "2e+06"), (10**300, str(10**300)),
        (10**299, "1e+299"), (-(10**300), str(-(10**300))), (1.5, "1.5"), (b"ab", "[97 98]"), ([1, "x"], "[1 x]"),
        ({"b": 1, "a": None}, "map[a:<nil> b:1]"), ("x", "x"),
    ],
)  # fmt: skip
def test_values_as_go_prints_them(value: object, text: str) -> None:
    assert go_value(value) == text


def test_texts_as_go_quotes_them() -> None:
    assert go_quote('é"\\\n') == '"é\\"\\\\\\n"'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1970-01-01T00:00:00Z", 0), ("1970-01-01T00:00:01.5Z", 1_500_000), ("1970-01-01T00:00:01,5Z", 1_500_000),
        ("1970-01-01T00:00:00.1234567Z", 123_456), ("1970-01-02T3:04:05Z", 97_445_000_000),
        ("1970-01-01T01:00:00+01:00", 0), ("1969-12-31T23:30:00-00:30", 0), ("1970-01-02T00:00:00+24:00", 0),
        ("1969-12-31T23:59:59Z", -1_000_000), ("1970-01-01T00:59:00+00:59", 0),
    ],
)  # fmt: skip
def test_times(text: str, value: int) -> None:
    assert parse_rfc3339_us(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "1970-01-01", "1970-01-01T00:00:00", "1970-01-01 00:00:00Z", "1970-13-01T00:00:00Z", "1970-01-01T24:00:00Z",
        "1970-01-01T00:60:00Z", "1970-01-01T00:00:60Z", "1970-01-01T00:00:00+25:00", "1970-01-01T00:00:00+00:60",
        "1970-01-01T00:00:00.Z", "1970-01-01T00:00:00ZZ", "19700-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_texts_that_are_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rfc3339_us(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "1970-01-01T00:00:00Z"), (1, "1970-01-01T00:00:00.000001Z"), (1_500_000, "1970-01-01T00:00:01.5Z"),
        (-1, "1969-12-31T23:59:59.999999Z"), (-62_135_596_800_000_000, "0001-01-01T00:00:00Z"),
        (-62_135_596_800_000_001, "0001-01-01T00:00:00Z"), (2**62, "9999-12-31T23:59:59.999999Z"),
    ],
)  # fmt: skip
def test_times_are_written(value: int, text: str) -> None:
    assert format_rfc3339(value) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("+0", 0), ("5", 5), ("-5", -5), ("1ns", 1), ("1us", 1000), ("1µs", 1000), ("1μs", 1000),
        ("1ms", 10**6), ("1s", 10**9), ("1m", 60 * 10**9), ("1h", 3600 * 10**9), ("1d", 86400 * 10**9),
        ("1h30m", 5400 * 10**9), ("1.5s", 1_500_000_000), (".5s", 500_000_000), ("2.s", 2 * 10**9),
        ("-1.5s", -1_500_000_000), ("+1s", 10**9), ("1.23456789123s", 1_234_567_891), ("01:02:03", 3723 * 10**9),
        ("  1:2:3x", 3723 * 10**9), ("100:59:59", 363_599 * 10**9),
    ],
)  # fmt: skip
def test_durations(text: str, value: int) -> None:
    assert parse_duration_ns(text) == value


@pytest.mark.parametrize("text", ["", "s", "1x", "1.s.", "-1:00:00", "1:60:00", "1:00:60", "1:2", "1 s", "1h 2m", "."])
def test_texts_that_are_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration_ns(text)


def test_names_of_statuses() -> None:
    assert STATUS_NUMBERS == {
        "Unspecified": 0, "Running": 1, "Completed": 2, "Failed": 3, "Canceled": 4, "Terminated": 5,
        "ContinuedAsNew": 6, "TimedOut": 7, "Paused": 8,
    }  # fmt: skip
    assert {number: name for name, number in STATUS_NUMBERS.items()} == STATUS_NAMES


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a", [("name", "a")]), ("A b", [("name", "A"), ("name", "b")]), ("AND", [("and", "and")]),
        ("&&", [("and", "")]), ("||", [("or", "")]), ("<>", [("!=", "")]), ("rlike", [("regexp", "rlike")]),
        ("<=>", [("<=>", "")]), ("->>", [("->>", "")]), (">=", [(">=", "")]), ("'x'", [("string", "x")]),
        ('"x"', [("string", "x")]), ("'a''b'", [("string", "a'b")]), ('"a""b"', [("string", 'a"b')]),
        (r"'a\'b'", [("string", "a'b")]), (r"'\n\t\0\b\r\Z\x\\'", [("string", "\n\t\0\b\r\x1ax\\")]),
        ("`a b`", [("name", "a b")]), ("`a``b`", [("name", "a`b")]), ("x'0f'", [("hex", "0f")]),
        ("B'01'", [("hex", "01")]), ("0x1F", [("hexnum", "0x1F")]), ("1", [("number", "1")]),
        ("1.5e-3", [("number", "1.5e-3")]), (".5", [("number", ".5")]), ("?", [("argument", ":v1")]),
        ("? ?", [("argument", ":v1"), ("argument", ":v2")]), (":a", [("argument", ":a")]),
        ("a -- b\nc", [("name", "a"), ("name", "c")]), ("a # b", [("name", "a")]), ("a // b", [("name", "a")]),
        ("a /* b */ c", [("name", "a"), ("name", "c")]), ("", []),
    ],
)  # fmt: skip
def test_tokens(text: str, tokens: list[tuple[str, str]]) -> None:
    given = Tokens(text)
    found = []
    while given.kind != "end":
        token = given.next()
        found.append((token.kind, token.text))
    assert found == tokens
    assert given.next().kind == given.next().kind == "end"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("1a", "badnumber"), ("'x", "badstring"), ("`x", "badquoted"), ("``", "nothing"), ("/* x", "badcomment"),
     ("é", "unknown"), ("a 'x", "badstring")],
)  # fmt: skip
def test_tokens_stop_at_a_fault(text: str, kind: str) -> None:
    given = Tokens(text + " and more")
    kinds = [given.next().kind for _ in range(3)]
    assert kinds[-1] == kind


def test_tokens_are_accepted_and_expected() -> None:
    given = Tokens("a = 1")
    assert not given.accept("=")
    assert given.accept("name")
    assert given.expect("=").kind == "="
    with pytest.raises(InvalidQuery) as refused:
        given.expect("string")
    assert refused.value.message == "invalid query: malformed SQL query: syntax error at position 33 near '1'"
    assert given.next().text == "1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "syntax error at position 29"), ("", "syntax error at position 22"),
        ("order", "syntax error at position 33 near 'order'"), ("'x'", "syntax error at position 31 near 'x'"),
        ("é", "syntax error at position 29 near '?'"), ("order by x", "syntax error at position 27 near 'order'"),
        ("''", "syntax error at position 30"),
    ],
)  # fmt: skip
def test_where_a_fault_is(text: str, message: str) -> None:
    error = Tokens(text).error()
    assert error.message.removeprefix("invalid query: malformed SQL query: ") == message.replace("'?'", "'é'")


def test_long_filters_are_refused() -> None:
    with pytest.raises(InvalidQuery, match=f"longer than {MAX_LENGTH} characters"):
        Tokens("a" * (MAX_LENGTH + 1))
    Tokens("a" * MAX_LENGTH)
    with pytest.raises(InvalidQuery, match=f"more than {MAX_TOKENS} words"):
        Tokens("," * (MAX_TOKENS + 1))
    Tokens("," * (MAX_TOKENS - 1))


def test_the_errors_say_what_they_are() -> None:
    assert InvalidQuery("x").message == str(InvalidQuery("x")) == "invalid query: x"
    assert InvalidPageToken().message == "invalid page token"
    assert str(InvalidPageToken()) == "invalid query: the page token is not valid"
    assert InvalidSearchAttributes("x").message == str(InvalidSearchAttributes("x")) == "x"


def _value(text: str, name: str = "CustomInt") -> Any:
    from tests.visibility.support import CUSTOM

    where: Any = parse(f"{name} = {text}", custom=CUSTOM).where
    [value] = [item.value for item in where.items if hasattr(item, "value")]
    return value


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("CustomInt", "5", 5), ("CustomInt", "-5", -5), ("CustomInt", "1.5", 1.5), ("CustomDouble", "2", 2.0),
        ("CustomInt", str(2**63 - 1), 2**63 - 1), ("CustomInt", str(2**63), float(2**63)),
        ("CustomInt", str(-(2**63)), -(2**63)), ("CustomBool", "true", True), ("CustomBool", "false", False),
        ("CustomKw", "'x'", "x"), ("CustomDt", "1500", 1), ("CustomDt", "'1970-01-01T00:00:01Z'", 1_000_000),
        ("ExecutionStatus", "'Running'", 1), ("ExecutionStatus", "2", 2),
        ("ExecutionStatus", "'WORKFLOW_EXECUTION_STATUS_TIMED_OUT'", 7), ("ExecutionDuration", "5", 5),
        ("ExecutionDuration", "'1h'", 3600 * 10**9), ("ExecutionDuration", f"'{2**63 - 1}'", 2**63 - 1),
    ],
)  # fmt: skip
def test_literals(name: str, text: str, value: Any) -> None:
    found = _value(text, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ExecutionStatus", "99", "invalid ExecutionStatus value 99"),
        ("ExecutionStatus", "'Nope'", "invalid ExecutionStatus value 'Nope'"),
        ("ExecutionStatus", "'WORKFLOW_EXECUTION_STATUS_NOPE'", "invalid ExecutionStatus value 'WORKFLOW_EXECUTION_STATUS_NOPE'"),
        ("ExecutionStatus", "1.5", "unexpected value type float64 for search attribute ExecutionStatus"),
        ("ExecutionDuration", "1.5", "unexpected value type float64 for search attribute ExecutionDuration"),
        ("ExecutionDuration", "'x'", "invalid duration value for search attribute ExecutionDuration: x"),
        ("ExecutionDuration", f"'{2**63}'", f"invalid duration value for search attribute ExecutionDuration: {2**63}"),
        ("ExecutionDuration", f"'-{2**63 + 1}'",
         f"invalid duration value for search attribute ExecutionDuration: -{2**63 + 1}"),
        ("CustomDt", "'x'", "unable to parse datetime 'x'"),
        ("CustomInt", "true", "invalid value type for search attribute CustomInt of type Int: true (type: bool)"),
        ("CustomInt", "'x'", 'invalid value type for search attribute CustomInt of type Int: "x" (type: string)'),
        ("CustomKw", "1", "invalid value type for search attribute CustomKw of type Keyword: 1 (type: int64)"),
        ("CustomKw", "1.5", "invalid value type for search attribute CustomKw of type Keyword: 1.5 (type: float64)"),
        ("CustomKw", "false", "invalid value type for search attribute CustomKw of type Keyword: false (type: bool)"),
        ("CustomDt", "1.5", "invalid value type for search attribute CustomDt of type Datetime: 1.5 (type: float64)"),
        ("CustomInt", "1e999", 'unable to parse value "1e999"'),
    ],
)  # fmt: skip
def test_literals_that_are_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(InvalidQuery) as refused:
        _value(text, name)
    assert refused.value.message == f"invalid query: invalid expression: {message}"
