"""Search attribute values: what may be set, how it is stored, and how it comes back."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload, SearchAttributes

from tests.visibility.support import CUSTOM
from whistlestop.storage.visibility import (
    AttributeType,
    InvalidSearchAttributes,
    Limits,
    Value,
    decode_value,
    encode_value,
    is_reserved,
    is_valid_name,
    row_json,
    row_payloads,
    validate,
)
from whistlestop.storage.visibility.times import format_rfc3339, parse_duration_ns, parse_rfc3339_us


def _payload(data: str, encoding: str = "json/plain") -> Payload:
    return Payload(metadata={"encoding": encoding.encode()}, data=data.encode())


def _attributes(**payloads: Payload) -> SearchAttributes:
    return SearchAttributes(indexed_fields=payloads)


ACCEPTED: list[tuple[str, Payload, Value | None]] = [
    ("CustomInt", _payload("5"), 5),
    ("CustomInt", _payload("[1]"), 1),
    ("CustomInt", _payload("null"), None),
    ("CustomInt", _payload("[]"), None),
    ("CustomInt", _payload("", "binary/null"), None),
    ("CustomInt", Payload(metadata={"encoding": b"json/plain", "type": b"Keyword"}, data=b"5"), 5),
    ("CustomDouble", _payload("1"), 1.0),
    ("CustomBool", _payload("true"), True),
    ("CustomKw", _payload('["x"]'), "x"),
    ("CustomKw", _payload('"a\\u0000b"'), "a\ufffdb"),
    ("CustomDt", _payload('"2020-01-01T00:00:00.1234567+01:00"'), 1_577_833_200_123_456),
    ("CustomList", _payload('["a","b"]'), ["a", "b"]),
    ("CustomList", _payload("[]"), None),
    ("TemporalNamespaceDivision", _payload('"x"'), "x"),
]


@pytest.mark.parametrize(("name", "payload", "value"), ACCEPTED)
def test_value_is_accepted(name: str, payload: Payload, value: Value | None) -> None:
    assert validate(_attributes(**{name: payload}), CUSTOM, "default") == {name: value}


REFUSED = [
    ("Foo", _payload('"a"'), "Namespace default has no mapping defined for search attribute Foo"),
    ("WorkflowId", _payload('"a"'), "WorkflowId attribute can't be set in SearchAttributes"),
    (
        "TemporalWorkerDeployment",
        _payload('"a"'),
        "TemporalWorkerDeployment attribute can't be set in SearchAttributes",
    ),
    ("CustomInt", _payload('"a"'), "invalid value for search attribute CustomInt of type Int: a"),
    ("CustomInt", _payload("1.5"), "invalid value for search attribute CustomInt of type Int: 1.5"),
    ("CustomInt", _payload("[1,2]"), "invalid value for search attribute CustomInt of type Int: [1 2]"),
    ("CustomInt", _payload("true"), "invalid value for search attribute CustomInt of type Int: true"),
    ("CustomInt", _payload("1e3"), "invalid value for search attribute CustomInt of type Int: 1000"),
    ("CustomInt", _payload("99999999999999999999"), "invalid value for search attribute CustomInt of type Int: 1e+20"),
    ("CustomInt", _payload("5", "binary/plain"), "invalid value for search attribute CustomInt of type Int: [53]"),
    ("CustomKw", _payload("1"), "invalid value for search attribute CustomKw of type Keyword: 1"),
    ("CustomKw", _payload('{"a":1}'), "invalid value for search attribute CustomKw of type Keyword: map[a:1]"),
    ("CustomList", _payload('"a"'), "invalid value for search attribute CustomList of type KeywordList: a"),
    ("CustomList", _payload('["a",1]'), "invalid value for search attribute CustomList of type KeywordList: [a 1]"),
    ("CustomBool", _payload("1"), "invalid value for search attribute CustomBool of type Bool: 1"),
    ("CustomDt", _payload('"2020-01-01"'), "invalid value for search attribute CustomDt of type Datetime: 2020-01-01"),
    ("CustomDouble", _payload('"1"'), "invalid value for search attribute CustomDouble of type Double: 1"),
    ("CustomText", _payload("5"), "invalid value for search attribute CustomText of type Text: 5"),
    ("CustomInt", Payload(), "invalid value for search attribute CustomInt of type Int: value from <>"),
    ("CustomKw", _payload(f'"{"x" * 3000}"'), "search attribute CustomKw value size 3002 exceeds size limit 2048"),
]


@pytest.mark.parametrize(("name", "payload", "message"), REFUSED)
def test_value_is_refused(name: str, payload: Payload, message: str) -> None:
    with pytest.raises(InvalidSearchAttributes) as refused:
        validate(_attributes(**{name: payload}), CUSTOM, "default")
    assert refused.value.message == message


def test_bounds_on_all_attributes_together() -> None:
    two = _attributes(CustomInt=_payload("1"), CustomKw=_payload('"a"'))
    with pytest.raises(InvalidSearchAttributes, match="number of search attributes 2 exceeds limit 1"):
        validate(two, CUSTOM, "default", Limits(number_of_keys=1))
    with pytest.raises(InvalidSearchAttributes, match=f"total size of search attributes {two.ByteSize()} exceeds size"):
        validate(two, CUSTOM, "default", Limits(total_size=10))


@pytest.mark.parametrize("data", ["NaN", "Infinity", "1e999", '"\\ud800"', "[" * 100_000, "{", '"a', "1" * 5000])
def test_odd_json_is_decoded_or_refused(data: str) -> None:
    for kind in AttributeType:
        with suppress(ValueError):
            decode_value(_payload(data), kind)


_VALUES: dict[AttributeType, st.SearchStrategy[Value]] = {
    AttributeType.Bool: st.booleans(),
    AttributeType.Int: st.integers(-(2**63), 2**63 - 1),
    AttributeType.Double: st.floats(allow_nan=False, allow_infinity=False),
    AttributeType.Datetime: st.integers(-62_000_000_000_000_000, 250_000_000_000_000_000),
    AttributeType.Keyword: st.text(),
    AttributeType.Text: st.text(),
    AttributeType.KeywordList: st.lists(st.text(), min_size=1),
}


@given(st.data())
def test_payload_of_a_value_decodes_to_the_value(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(AttributeType))
    value = data.draw(_VALUES[kind])
    payload = encode_value(value, kind)
    assert payload.metadata["type"] == kind.name.encode()
    decoded = decode_value(payload, kind)
    if isinstance(value, str | list):
        assert str(decoded) == str(value).replace("\\x00", "\ufffd").replace("\0", "\ufffd")
    else:
        assert decoded == value


def test_row_holds_values_by_type_and_gives_them_back() -> None:
    payloads = {
        "CustomInt": _payload("5"),
        "CustomDt": _payload('"2020-01-01T00:00:00Z"'),
        "CustomText": _payload('"Hello Wide-World"'),
        "CustomList": _payload('["a"]'),
        "Typed": Payload(metadata={"encoding": b"json/plain", "type": b"Keyword"}, data=b'"k"'),
        "Unknown": _payload("1"),
        "CustomKw": _payload("7"),
        "WorkflowId": _payload('"w"'),
    }
    row = row_json(payloads, CUSTOM)
    assert json.loads(row) == {
        "CustomInt": 5,
        "CustomDt": 1_577_836_800_000_000,
        "CustomText": "Hello Wide-World",
        "~CustomText": " hello wide world ",
        "CustomList": ["a"],
        "Typed": "k",
        "Unknown": 1,
    }
    back = row_payloads(row, CUSTOM)
    assert {name: (payload.data, payload.metadata["type"]) for name, payload in back.items()} == {
        "CustomInt": (b"5", b"Int"),
        "CustomDt": (b'"2020-01-01T00:00:00Z"', b"Datetime"),
        "CustomText": (b'"Hello Wide-World"', b"Text"),
        "CustomList": (b'["a"]', b"KeywordList"),
    }


def test_row_without_attributes() -> None:
    assert row_json({}) == "{}"
    assert row_payloads("{}", CUSTOM) == {}


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("5", 5),
        ("0", 0),
        ("1h30m", 5400 * 10**9),
        ("-1.5h", -5400 * 10**9),
        ("300ms", 300_000_000),
        ("1µs", 1000),
        ("1.5d2h", 38 * 3600 * 10**9),
        ("01:02:03", 3723 * 10**9),
    ],
)
def test_duration(text: str, duration_ns: int) -> None:
    assert parse_duration_ns(text) == duration_ns


@pytest.mark.parametrize("text", ["", "1", "2020-13-01T00:00:00Z", "2020-01-01 00:00:00Z", "2020-01-01T00:00:00"])
def test_values_that_are_no_time_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rfc3339_us(text)


@given(st.integers(-62_000_000_000_000_000, 250_000_000_000_000_000))
def test_time_survives_being_written(time_us: int) -> None:
    assert parse_rfc3339_us(format_rfc3339(time_us)) == time_us


def test_names_of_the_server_are_reserved() -> None:
    assert [name for name in ("WorkflowId", "BuildIds", "Memo", "TemporalX", "Mine") if is_reserved(name)] == [
        "WorkflowId",
        "BuildIds",
        "Memo",
        "TemporalX",
    ]


def test_names_that_would_break_a_json_path_are_not_valid() -> None:
    assert [name for name in ("ok", "my-attr", "é", "", 'a"b', "a\\", "~a", "a\0") if is_valid_name(name)] == [
        "ok",
        "my-attr",
        "é",
    ]
