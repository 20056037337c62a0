"""Search attributes: which names there are, which of them a user may set, and whether a value fits its type.

The names and types are those of Temporal's server. Frontend (start, signal-with-start) and history (upsert,
continue-as-new, child workflows) hold requests to the same rules.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from temporalio.api.enums.v1.common_pb2 import IndexedValueType

from whistlestop.common.errors import Code, ServiceError, invalid_argument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from temporalio.api.common.v1.message_pb2 import Payload, SearchAttributes

TEXT = IndexedValueType.INDEXED_VALUE_TYPE_TEXT
KEYWORD = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
INT = IndexedValueType.INDEXED_VALUE_TYPE_INT
DOUBLE = IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE
BOOL = IndexedValueType.INDEXED_VALUE_TYPE_BOOL
DATETIME = IndexedValueType.INDEXED_VALUE_TYPE_DATETIME
KEYWORD_LIST = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST

TYPE_NAMES: dict[int, str] = {
    0: "Unspecified", TEXT: "Text", KEYWORD: "Keyword", INT: "Int", DOUBLE: "Double", BOOL: "Bool",
    DATETIME: "Datetime", KEYWORD_LIST: "KeywordList",
}
"""How Temporal writes a type in messages and in the `type` metadata of payloads."""

SYSTEM: dict[str, int] = {
    "WorkflowId": KEYWORD, "RunId": KEYWORD, "WorkflowType": KEYWORD, "StartTime": DATETIME,
    "ExecutionTime": DATETIME, "CloseTime": DATETIME, "ExecutionStatus": KEYWORD, "TaskQueue": KEYWORD,
    "HistoryLength": INT, "ExecutionDuration": INT, "StateTransitionCount": INT, "HistorySizeBytes": INT,
    "ParentWorkflowId": KEYWORD, "ParentRunId": KEYWORD, "RootWorkflowId": KEYWORD, "RootRunId": KEYWORD,
}
"""Columns of their own; never set by a user."""

_SETTABLE: dict[str, int] = {
    "TemporalChangeVersion": KEYWORD_LIST, "BinaryChecksums": KEYWORD_LIST, "BuildIds": KEYWORD_LIST,
    "BatcherNamespace": KEYWORD, "BatcherUser": KEYWORD, "TemporalScheduledStartTime": DATETIME,
    "TemporalScheduledById": KEYWORD, "TemporalSchedulePaused": BOOL, "TemporalNamespaceDivision": KEYWORD,
    "TemporalPauseInfo": KEYWORD_LIST, "TemporalReportedProblems": KEYWORD_LIST,
}

PREDEFINED: dict[str, int] = {
    **_SETTABLE,
    "TemporalWorkerDeploymentVersion": KEYWORD, "TemporalWorkflowVersioningBehavior": KEYWORD,
    "TemporalWorkerDeployment": KEYWORD, "TemporalUsedWorkerDeploymentVersions": KEYWORD_LIST,
    "TemporalExternalPayloadCount": INT, "TemporalExternalPayloadSizeBytes": INT,
}
"""Defined by the server and kept beside the custom ones."""

RESERVED_NAMES = frozenset({"NamespaceId", "MemoEncoding", "Memo", "VisibilityTaskKey"})
RESERVED_PREFIX = "Temporal"

CUSTOM_LIMITS: dict[int, int] = {BOOL: 3, INT: 3, DOUBLE: 3, DATETIME: 3, KEYWORD: 10, KEYWORD_LIST: 3, TEXT: 3}
"""How many custom attributes of each type a namespace may have: the columns that Temporal's SQL stores come with."""

NUMBER_OF_KEYS_LIMIT = 100
SIZE_OF_VALUE_LIMIT = 2 * 1024
TOTAL_SIZE_LIMIT = 40 * 1024

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class UnknownSearchAttribute(ServiceError):  # noqa: N818 - an answer to a caller, like its base
    """The namespace (as it was read) maps no such attribute: worth a second look at the store."""

    def __init__(self, namespace: str, name: str) -> None:
        super().__init__(
            Code.INVALID_ARGUMENT, f"Namespace {namespace} has no mapping defined for search attribute {name}"
        )


def is_reserved(name: str) -> bool:
    """Whether the name can't be a custom attribute's."""
    return name in SYSTEM or name in PREDEFINED or name in RESERVED_NAMES or name.startswith(RESERVED_PREFIX)


def type_of(name: str, custom: Mapping[str, int]) -> int | None:
    """The attribute's type as seen in a namespace with those custom attributes."""
    return SYSTEM.get(name) or PREDEFINED.get(name) or custom.get(name)


def check_search_attributes(
    attributes: SearchAttributes, namespace: str, custom: Mapping[str, int], *, sizes: bool = False
) -> None:
    """Raise ServiceError unless a user may set these. `sizes` adds the limits on bytes."""
    fields = attributes.indexed_fields
    if not fields:
        return
    for name in fields:
        if name not in SYSTEM and name not in PREDEFINED and name not in custom:
            raise UnknownSearchAttribute(namespace, name)
    if len(fields) > NUMBER_OF_KEYS_LIMIT:
        raise invalid_argument(f"number of search attributes {len(fields)} exceeds limit {NUMBER_OF_KEYS_LIMIT}")
    for name, payload in fields.items():
        kind = custom.get(name) or _SETTABLE.get(name)
        if kind is None:
            raise invalid_argument(f"{name} attribute can't be set in SearchAttributes")
        if not fits(payload, kind):
            raise invalid_argument(
                f"invalid value for search attribute {name} of type {TYPE_NAMES[kind]}: {_shown(payload)}"
            )
    if sizes:
        check_sizes(attributes)


def check_sizes(attributes: SearchAttributes) -> None:
    """The limits on bytes of each value and of all together."""
    for name, payload in attributes.indexed_fields.items():
        if len(payload.data) > SIZE_OF_VALUE_LIMIT:
            raise invalid_argument(
                f"search attribute {name} value size {len(payload.data)} exceeds size limit {SIZE_OF_VALUE_LIMIT}"
            )
    total = attributes.ByteSize()
    if total > TOTAL_SIZE_LIMIT:
        raise invalid_argument(f"total size of search attributes {total} exceeds size limit {TOTAL_SIZE_LIMIT}")


def fits(payload: Payload, kind: int) -> bool:
    """Whether the value is of the type, or a list of one such value, or nothing (which unsets it)."""
    encoding = payload.metadata.get("encoding", b"")
    if encoding == b"binary/null":
        return True
    if encoding != b"json/plain":
        return False
    try:
        value = json.loads(payload.data)
    except ValueError:
        return False
    if value is None:
        return True
    if kind == KEYWORD_LIST:
        return isinstance(value, list) and all(item is None or isinstance(item, str) for item in value)
    if isinstance(value, list):
        return len(value) == 0 or (len(value) == 1 and _is_a(value[0], kind))
    return _is_a(value, kind)


def _is_a(value: object, kind: int) -> bool:
    if kind == BOOL:
        return isinstance(value, bool)
    if kind == INT:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if kind == DOUBLE:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == DATETIME:
        return isinstance(value, str) and _RFC3339.fullmatch(value) is not None
    return isinstance(value, str)


def _shown(payload: Payload) -> str:
    """The value as Go prints it."""
    try:
        return _go(json.loads(payload.data))
    except ValueError:
        return f"value from <{str(payload).strip()}>"


def _go(value: object) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | int):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, list):
        return "[" + " ".join(_go(each) for each in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_go(value[key])}" for key in sorted(value)) + "]"
    return str(value)
