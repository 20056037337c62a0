"""Rows and filters by chance, and tables to hold the rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from temporalio.api.enums.v1 import workflow_pb2 as enums

from whistlestop.storage.records import ExecutionKey, VisibilityRow
from whistlestop.storage.visibility import AttributeType, Value, encode_value, row_json

if TYPE_CHECKING:
    from collections.abc import Mapping

CUSTOM: Mapping[str, AttributeType] = {
    "CustomKw": AttributeType.Keyword,
    "Custom-kw": AttributeType.Keyword,
    "CustomText": AttributeType.Text,
    "CustomInt": AttributeType.Int,
    "CustomDouble": AttributeType.Double,
    "CustomBool": AttributeType.Bool,
    "CustomDt": AttributeType.Datetime,
    "CustomList": AttributeType.KeywordList,
}

COLUMNS = (
    "namespace_id", "run_id", "workflow_id", "workflow_type_name", "task_queue", "status", "start_time",
    "execution_time", "close_time", "execution_duration", "history_length", "history_size_bytes",
    "state_transition_count", "parent_workflow_id", "parent_run_id", "root_workflow_id", "root_run_id",
    "search_attributes",
)  # fmt: skip
_NUMBERS = ("status", "time", "duration", "length", "bytes", "count")
CREATE = (
    "CREATE TEMPORARY TABLE executions_visibility ("
    + ", ".join(f"{name} {'BIGINT' if name.endswith(_NUMBERS) else 'TEXT'}" for name in COLUMNS)
    + ")"
)


def insert(placeholder: str) -> str:
    return f"INSERT INTO executions_visibility VALUES ({', '.join([placeholder] * len(COLUMNS))})"


def values(row: VisibilityRow) -> tuple[object, ...]:
    return (
        row.key.namespace_id, row.key.run_id, row.key.workflow_id, row.workflow_type, row.task_queue, row.status,
        row.start_time_us, row.execution_time_us, row.close_time_us, row.execution_duration_ns, row.history_length,
        row.history_size_bytes, row.state_transition_count, row.parent_workflow_id, row.parent_run_id,
        row.root_workflow_id, row.root_run_id, row.search_attributes,
    )  # fmt: skip


def make_row(
    run_id: str = "r1",
    *,
    workflow_id: str = "w1",
    status: int = 1,
    start_time_us: int = 1_000_000,
    close_time_us: int | None = None,
    history_length: int = 3,
    parent_workflow_id: str | None = None,
    attributes: Mapping[str, Value] | None = None,
    raw_attributes: str | None = None,
) -> VisibilityRow:
    """A running workflow, unless a close time says otherwise."""
    payloads = {
        name: encode_value(value, CUSTOM.get(name, AttributeType.Keyword)) for name, value in (attributes or {}).items()
    }
    return VisibilityRow(
        key=ExecutionKey("ns", workflow_id, run_id),
        workflow_type="Type",
        task_queue="queue",
        status=status,
        start_time_us=start_time_us,
        execution_time_us=start_time_us,
        close_time_us=close_time_us,
        execution_duration_ns=None if close_time_us is None else (close_time_us - start_time_us) * 1000,
        history_length=history_length,
        history_size_bytes=history_length * 100,
        state_transition_count=history_length,
        parent_workflow_id=parent_workflow_id,
        parent_run_id=None if parent_workflow_id is None else "pr",
        root_workflow_id=parent_workflow_id or workflow_id,
        root_run_id=run_id,
        search_attributes=raw_attributes or row_json(payloads, CUSTOM),
        memo=b"",
    )


# Few values, so that filters and rows meet; some that an SQL text, a LIKE or a JSON path could trip over.
strings = st.sampled_from(
    [
        "",
        "a",
        "A",
        "ab",
        "aB",
        "b",
        "a'b",
        'a"b',
        "a%",
        "a_",
        "%",
        "\\",
        "é",
        "z\0z",
        "日本",
        "$.a",
        "?",
        "%s",
        "1",
        "🙂",
    ]
)
texts = st.sampled_from(["", "Hello World", "hello", "wide-world", "Été", "a b c", "world wide", "!!", "a_b"])
ints = st.one_of(st.integers(-3, 3), st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63)]))
floats = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, 0.5, 1.5, -2.5, 1e300, 5e-324, 3.0, float(2**53)]),
    st.floats(allow_nan=False, allow_infinity=False),
)
times_us = st.integers(-2, 4).map(lambda step: step * 1_500_000)

_BY_TYPE: Mapping[AttributeType, st.SearchStrategy[Value]] = {
    AttributeType.Keyword: strings,
    AttributeType.Text: texts,
    AttributeType.Int: ints,
    AttributeType.Double: floats,
    AttributeType.Bool: st.booleans(),
    AttributeType.Datetime: times_us,
    AttributeType.KeywordList: st.lists(strings, max_size=3),
}


_OPEN = (enums.WORKFLOW_EXECUTION_STATUS_RUNNING, enums.WORKFLOW_EXECUTION_STATUS_PAUSED)
"""The statuses of runs without a close time; all others have one."""


@st.composite
def rows(draw: st.DrawFn) -> VisibilityRow:
    attributes = {name: draw(_BY_TYPE[kind]) for name, kind in CUSTOM.items() if draw(st.booleans())}
    if draw(st.integers(0, 4)) == 0:
        attributes["TemporalNamespaceDivision"] = draw(strings)
    raw = None
    if draw(st.integers(0, 4)) == 0:  # what an attribute left that has another type now
        raw = json.dumps({name: draw(st.sampled_from([1, "a", 1.5, True, ["a"], {"a": 1}, None])) for name in CUSTOM})
    start = draw(times_us)
    status = draw(st.integers(1, 8))
    return make_row(
        draw(st.sampled_from(["r1", "r2", "r3"])),
        workflow_id=draw(st.sampled_from(["a", "ab", "B"])),
        status=status,
        start_time_us=start,
        close_time_us=None if status in _OPEN else start + abs(draw(times_us)),
        history_length=draw(st.integers(0, 3)),
        parent_workflow_id=draw(st.none() | st.sampled_from(["a", "p"])),
        attributes=attributes,
        raw_attributes=raw,
    )


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("\0", "\\0")
    return f"'{escaped}'"


_ATTRIBUTES = {
    **{name: kind for name, kind in CUSTOM.items() if "-" not in name},
    "`Custom-kw`": AttributeType.Keyword,
    "WorkflowId": AttributeType.Keyword,
    "ParentWorkflowId": AttributeType.Keyword,
    "StartTime": AttributeType.Datetime,
    "CloseTime": AttributeType.Datetime,
    "HistoryLength": AttributeType.Int,
    "ExecutionDuration": AttributeType.Int,
    "ExecutionStatus": AttributeType.Keyword,
    "TemporalNamespaceDivision": AttributeType.Keyword,
    "BuildIds": AttributeType.KeywordList,
}


def _literal(name: str, kind: AttributeType) -> st.SearchStrategy[str]:
    if name == "ExecutionStatus":
        return st.sampled_from(["'Running'", "'Completed'", "'TimedOut'", "2", "'WORKFLOW_EXECUTION_STATUS_FAILED'"])
    if name == "ExecutionDuration":
        return st.sampled_from(["0", "'1.5s'", "'3s'", "'00:00:03'", "'1d'", "1500000000"])
    match kind:
        case AttributeType.Int:
            return ints.map(str) | floats.map(repr)
        case AttributeType.Double:
            return floats.map(repr) | ints.map(str)
        case AttributeType.Bool:
            return st.sampled_from(["true", "FALSE"])
        case AttributeType.Datetime:
            return times_us.map(lambda us: str(us * 1000)) | st.sampled_from(
                ["'1970-01-01T00:00:01.5Z'", "'1970-01-01T02:00:03+02:00'", "'2026-01-01T00:00:00Z'"]
            )
        case AttributeType.Text:
            return st.sampled_from(["hello", "World nope", "wide-world", "ete", "b c", "!!", "a"]).map(quoted)
        case _:
            return strings.map(quoted)


@st.composite
def conditions(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(_ATTRIBUTES)))
    kind = _ATTRIBUTES[name]
    literal = _literal(name, kind)
    is_list = kind is AttributeType.KeywordList
    forms = ["null"]
    if kind is AttributeType.Text or is_list:
        forms += ["equal", "equal"]
    else:
        forms += ["compare", "compare"]
    if kind is not AttributeType.Text:
        forms.append("in")
    if kind not in (AttributeType.Text, AttributeType.Bool, AttributeType.KeywordList):
        forms.append("between")
    if kind is AttributeType.Keyword and name != "ExecutionStatus":
        forms.append("prefix")
    negated = draw(st.sampled_from(["", "NOT "]))
    match draw(st.sampled_from(forms)):
        case "null":
            return f"{name} IS {negated}NULL"
        case "equal":
            return f"{name} {'!' if negated else ''}= {draw(literal)}"
        case "compare":
            return f"{name} {draw(st.sampled_from(['=', '!=', '<', '<=', '>', '>=', '<>']))} {draw(literal)}"
        case "in":
            return f"{name} {negated}IN ({', '.join(draw(st.lists(literal, min_size=1, max_size=3)))})"
        case "between":
            return f"{name} {negated}BETWEEN {draw(literal)} AND {draw(literal)}"
        case _:
            return f"{name} {negated}STARTS_WITH {draw(literal)}"


filters = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.builds("({} AND {})".format, inner, inner),
        st.builds("({} OR {})".format, inner, inner),
        st.builds("{} or {} AND {}".format, inner, inner, inner),
        inner.map("NOT ({})".format),
        inner.map("not {}".format),
    ),
    max_leaves=6,
)
