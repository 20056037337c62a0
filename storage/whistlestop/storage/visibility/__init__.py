"""The list filter of visibility, as pure code: parse what a client writes, and compile it to SQL.

    query = parse("WorkflowType = 'order' AND CustomerId = 'c1'", custom={"CustomerId": AttributeType.Keyword})
    sql, parameters = where_clause(query, SQLITE)            # or POSTGRES; a condition on `executions_visibility`
    sql, parameters = list_clause(query, SQLITE)             # the same, for use with these:
    for behind, more, order in page_steps(query, parse_page_token(token), SQLITE):    # until the page is full
        # SELECT ... WHERE namespace_id = ? AND {sql} AND {behind} ORDER BY {order} LIMIT ?
    # the next token: PageKey(close_time, start_time, run_id of the last row).token()

    columns, values = group_by_columns(query, SQLITE)        # SELECT {columns}, COUNT(*) ... GROUP BY 1
    group_payloads(query, row_values)

    values = validate(request.search_attributes, custom, namespace_name)   # what a request may set
    text = row_json(payloads, custom)                        # for VisibilityRow.search_attributes
    payloads = row_payloads(row.search_attributes, custom)   # and back, for a listed execution

    matches(query, row)                                      # the same in Python, for tests

Values in rows: times are microseconds since the Unix epoch, ExecutionDuration is in nanoseconds. Errors are
InvalidQuery, InvalidPageToken and InvalidSearchAttributes; their `message` is the text for INVALID_ARGUMENT.
"""

from __future__ import annotations

from whistlestop.storage.attribute_types import AttributeType
from whistlestop.storage.visibility.attributes import (
    DEFAULT_LIMITS,
    PREDEFINED,
    SETTABLE_PREDEFINED,
    SYSTEM,
    SYSTEM_AND_PREDEFINED,
    Attribute,
    Limits,
    Value,
    decode_value,
    encode_value,
    is_reserved,
    is_valid_name,
    payload_type,
    row_json,
    row_payloads,
    validate,
)
from whistlestop.storage.visibility.dialects import POSTGRES, SQLITE, Dialect, Parameter
from whistlestop.storage.visibility.errors import InvalidPageToken, InvalidQuery, InvalidSearchAttributes
from whistlestop.storage.visibility.evaluate import evaluate, matches
from whistlestop.storage.visibility.literals import STATUS_NAMES, STATUS_NUMBERS
from whistlestop.storage.visibility.query import Query, parse, resolve
from whistlestop.storage.visibility.sql import (
    OPEN_CLOSE_TIME,
    ORDER_BY,
    PageKey,
    compiled,
    group_by_columns,
    group_payloads,
    list_clause,
    page_steps,
    parse_page_token,
    where_clause,
)

__all__ = [
    "DEFAULT_LIMITS",
    "OPEN_CLOSE_TIME",
    "ORDER_BY",
    "POSTGRES",
    "PREDEFINED",
    "SETTABLE_PREDEFINED",
    "SQLITE",
    "STATUS_NAMES",
    "STATUS_NUMBERS",
    "SYSTEM",
    "SYSTEM_AND_PREDEFINED",
    "Attribute",
    "AttributeType",
    "Dialect",
    "InvalidPageToken",
    "InvalidQuery",
    "InvalidSearchAttributes",
    "Limits",
    "PageKey",
    "Parameter",
    "Query",
    "Value",
    "compiled",
    "decode_value",
    "encode_value",
    "evaluate",
    "group_by_columns",
    "group_payloads",
    "is_reserved",
    "is_valid_name",
    "list_clause",
    "matches",
    "page_steps",
    "parse",
    "parse_page_token",
    "payload_type",
    "resolve",
    "row_json",
    "row_payloads",
    "validate",
    "where_clause",
]
