"""The search attributes that exist, and the encodings of their values.

A value has three forms: the `Payload` of the API, a Python value (bool, int, float, str, list of str; a Datetime is an
int of microseconds since the Unix epoch), and its entry in the JSON object `search_attributes` of a visibility row.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from temporalio.api.common.v1 import Payload, SearchAttributes

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.records import record
from whistlestop.storage.attribute_types import AttributeType
from whistlestop.storage.visibility.errors import InvalidSearchAttributes
from whistlestop.storage.visibility.goformat import go_value
from whistlestop.storage.visibility.times import format_rfc3339, parse_rfc3339_us

if TYPE_CHECKING:
    from collections.abc import Mapping

Value: TypeAlias = bool | int | float | str | list[str]

RESERVED_PREFIX = "Temporal"
MAX_INT = 2**63 - 1
MIN_INT = -(2**63)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A search attribute of a query: `name` is the stored name, `alias` what the user wrote."""

    name: str
    type: AttributeType
    alias: str


_T = AttributeType

SYSTEM: Mapping[str, AttributeType] = MappingProxyType(
    {
        "WorkflowId": _T.Keyword,
        "RunId": _T.Keyword,
        "WorkflowType": _T.Keyword,
        "StartTime": _T.Datetime,
        "ExecutionTime": _T.Datetime,
        "CloseTime": _T.Datetime,
        "ExecutionStatus": _T.Keyword,
        "TaskQueue": _T.Keyword,
        "HistoryLength": _T.Int,
        "ExecutionDuration": _T.Int,
        "StateTransitionCount": _T.Int,
        "HistorySizeBytes": _T.Int,
        "ParentWorkflowId": _T.Keyword,
        "ParentRunId": _T.Keyword,
        "RootWorkflowId": _T.Keyword,
        "RootRunId": _T.Keyword,
    }
)
"""Attributes that have columns of their own; a request can't set them."""

SETTABLE_PREDEFINED: Mapping[str, AttributeType] = MappingProxyType(
    {
        "TemporalChangeVersion": _T.KeywordList,
        "BinaryChecksums": _T.KeywordList,
        "BuildIds": _T.KeywordList,
        "BatcherNamespace": _T.Keyword,
        "BatcherUser": _T.Keyword,
        "TemporalScheduledStartTime": _T.Datetime,
        "TemporalScheduledById": _T.Keyword,
        "TemporalSchedulePaused": _T.Bool,
        "TemporalNamespaceDivision": _T.Keyword,
        "TemporalPauseInfo": _T.KeywordList,
        "TemporalReportedProblems": _T.KeywordList,
    }
)
"""The server's own attributes that a client may set all the same (older SDKs and tools do)."""

PREDEFINED: Mapping[str, AttributeType] = MappingProxyType(
    {
        **SETTABLE_PREDEFINED,
        "TemporalWorkerDeploymentVersion": _T.Keyword,
        "TemporalWorkflowVersioningBehavior": _T.Keyword,
        "TemporalWorkerDeployment": _T.Keyword,
        "TemporalUsedWorkerDeploymentVersions": _T.KeywordList,
        "TemporalExternalPayloadCount": _T.Int,
        "TemporalExternalPayloadSizeBytes": _T.Int,
    }
)
"""Attributes that the server writes, beside the custom ones, into the row's JSON object."""

SYSTEM_AND_PREDEFINED: Mapping[str, AttributeType] = MappingProxyType({**SYSTEM, **PREDEFINED})
"""The attributes that ListSearchAttributes reports as system attributes."""

RESERVED = frozenset({"NamespaceId", "MemoEncoding", "Memo", "VisibilityTaskKey"})

# Prefix of a further key in the row's JSON object for each Text attribute: its normalised words with a space around
# each, so that both databases can find whole words (and runs of them) by a plain substring test.
TEXT_WORDS_PREFIX = "~"

_NAME = re.compile(r'[^~"\\\x00-\x1f][^"\\\x00-\x1f]*')
_WORD = re.compile(r"[^\W_]+")


def is_reserved(name: str) -> bool:
    """Return whether the name is reserved, so that no custom attribute may have it."""
    return name in SYSTEM_AND_PREDEFINED or name in RESERVED or name.startswith(RESERVED_PREFIX)


def is_valid_name(name: str) -> bool:
    """Return whether the name can be used in a JSON path and in a row.

    It may have no quotes, backslashes and control characters, and must not start with `~`, the prefix of our own keys.
    """
    return _NAME.fullmatch(name) is not None


def words(text: str) -> list[str]:
    """Return the words of a Text value: letters and digits, without accents and case."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return _WORD.findall(plain.casefold())


def joined_words(text: str) -> str:
    """Return the words with a space before, between and after them; empty when there are none."""
    found = words(text)
    return f" {' '.join(found)} " if found else ""


def storable(text: str) -> str:
    """Return the text with the replacement character for NUL and lone surrogates, which Postgres can't store."""
    if text.isascii() and "\0" not in text:
        return text
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


def encode_value(value: Value | None, kind: AttributeType) -> Payload:
    """Return the payload of a value, with its type in the metadata; `None` gives a `binary/null` payload."""
    metadata = {"type": kind.name.encode()}
    if value is None:
        return Payload(metadata={"encoding": b"binary/null", **metadata})
    content = format_rfc3339(value) if kind is _T.Datetime and isinstance(value, int) else value
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Payload(metadata={"encoding": b"json/plain", **metadata}, data=data)


def payload_type(payload: Payload) -> AttributeType | None:
    """Return the type that the payload's metadata names, or None."""
    name = payload.metadata.get("type", b"").decode("utf-8", "replace")
    if name in AttributeType.__members__:
        return AttributeType[name]
    camel = "".join(part.capitalize() for part in name.removeprefix("INDEXED_VALUE_TYPE_").split("_"))
    return AttributeType.__members__.get(camel)


def decode_value(payload: Payload, kind: AttributeType) -> Value | None:
    """Return the Python value; None where the payload unsets the attribute.

    A list of one element stands for the element (early clients sent lists), an empty list for None. Raise ValueError
    when the payload is not of type `kind`.
    """
    decoded = _decode_any(payload)
    if decoded is None or decoded == []:
        return None
    if kind is _T.KeywordList and isinstance(decoded, list):
        return _keyword_list(decoded)
    if isinstance(decoded, list):
        if len(decoded) != 1:
            raise ValueError("list of values not allowed")
        decoded = decoded[0]
    return _scalar(decoded, kind)


def _keyword_list(decoded: list[object]) -> list[str]:
    if not all(item is None or isinstance(item, str) for item in decoded):
        raise ValueError("unable to decode")
    return [storable(item) if isinstance(item, str) else "" for item in decoded]


def _scalar(decoded: object, kind: AttributeType) -> Value:
    is_number = isinstance(decoded, int | float) and not isinstance(decoded, bool)
    match kind:
        case _T.Bool if isinstance(decoded, bool):
            return decoded
        case _T.Keyword | _T.Text if isinstance(decoded, str):
            return storable(decoded)
        case _T.Datetime if isinstance(decoded, str):
            return parse_rfc3339_us(decoded)
        case _T.Int if is_number and isinstance(decoded, int) and MIN_INT <= decoded <= MAX_INT:
            return int(decoded)
        case _T.Double if is_number and isinstance(decoded, int | float):
            return _double(decoded)
    raise ValueError("unable to decode")


def _double(number: float) -> float:
    try:
        value = float(number)
    except OverflowError as overflow:
        raise ValueError("unable to decode") from overflow
    if not math.isfinite(value):
        raise ValueError("unable to decode")
    return value


def _decode_any(payload: Payload) -> object:
    """Decode the payload without regard to a type; return bytes for a binary one. Raise ValueError."""
    match payload.metadata.get("encoding", b""):
        case b"binary/null":
            return None
        case b"binary/plain":
            return payload.data
        case b"json/plain":
            try:
                return json.loads(payload.data.decode("utf-8", "replace"), parse_constant=_no_constant)
            except RecursionError as deep:
                raise ValueError("nested too deeply") from deep
        case _:
            raise ValueError("unknown encoding")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


@record
class Limits:
    """Bounds on the search attributes of one run."""

    number_of_keys: int = 100
    size_of_value: int = 2 * 1024
    total_size: int = 40 * 1024


DEFAULT_LIMITS = Limits()


def validate(
    attributes: SearchAttributes, custom: Mapping[str, AttributeType], namespace: str, limits: Limits = DEFAULT_LIMITS
) -> dict[str, Value | None]:
    """Return the values that a request sets, by name; None unsets one. Raise InvalidSearchAttributes."""
    fields = attributes.indexed_fields
    for name in sorted(fields):
        if name not in SYSTEM_AND_PREDEFINED and name not in custom:
            raise InvalidSearchAttributes(f"Namespace {namespace} has no mapping defined for search attribute {name}")
    if len(fields) > limits.number_of_keys:
        raise InvalidSearchAttributes(
            f"number of search attributes {len(fields)} exceeds limit {limits.number_of_keys}"
        )
    values = {name: _validated(name, fields[name], custom) for name in sorted(fields)}
    for name in values:
        size = len(fields[name].data)
        if size > limits.size_of_value:
            raise InvalidSearchAttributes(
                f"search attribute {name} value size {size} exceeds size limit {limits.size_of_value}"
            )
    if attributes.ByteSize() > limits.total_size:
        raise InvalidSearchAttributes(
            f"total size of search attributes {attributes.ByteSize()} exceeds size limit {limits.total_size}"
        )
    return values


def _validated(name: str, payload: Payload, custom: Mapping[str, AttributeType]) -> Value | None:
    kind = custom.get(name) or SETTABLE_PREDEFINED.get(name)
    if kind is None:
        raise InvalidSearchAttributes(f"{name} attribute can't be set in SearchAttributes")
    try:
        return decode_value(payload, kind)
    except ValueError:
        raise InvalidSearchAttributes(
            f"invalid value for search attribute {name} of type {kind.name}: {_text_of(payload)}"
        ) from None


def _text_of(payload: Payload) -> str:
    try:
        return go_value(_decode_any(payload))
    except ValueError:
        from google.protobuf import text_format  # 10 ms of import, for an error hardly ever seen

        return f"value from <{text_format.MessageToString(payload, as_one_line=True)}>"


def row_json(payloads: Mapping[str, Payload], custom: Mapping[str, AttributeType] | None = None) -> str:
    """Return the JSON object `search_attributes` of a visibility row.

    Types are taken from `custom`, the predefined attributes and the payloads' own metadata, in this order. Without any
    of these the JSON value decides, which takes a Datetime or Text for a Keyword: better pass `custom`, or types in the
    metadata. Values that can't be decoded and system attributes are left out: a row must never fail a run.
    """
    row: dict[str, Value] = {}
    for name, payload in payloads.items():
        kind = (custom or {}).get(name) or PREDEFINED.get(name) or payload_type(payload) or _guess(payload)
        if kind is None or name in SYSTEM or not is_valid_name(name):
            continue
        try:
            value = decode_value(payload, kind)
        except ValueError:
            continue
        if value is None:
            continue
        row[name] = value
        if kind is _T.Text and isinstance(value, str):
            row[TEXT_WORDS_PREFIX + name] = joined_words(value)
    return json.dumps(row, separators=(",", ":"), allow_nan=False) if row else "{}"


def _guess(payload: Payload) -> AttributeType | None:
    try:
        value = _decode_any(payload)
    except ValueError:
        return None
    kinds = {bool: _T.Bool, int: _T.Int, float: _T.Double, str: _T.Keyword, list: _T.KeywordList}
    return kinds.get(type(value))


def row_payloads(row: str, custom: Mapping[str, AttributeType]) -> dict[str, Payload]:
    """Return the payloads of a row's JSON object, without attributes that are gone or have another type now."""
    stored = json.loads(row) if row and row != "{}" else {}
    found: dict[str, Payload] = {}
    for name, value in stored.items():
        kind = custom.get(name) or PREDEFINED.get(name)
        if kind is not None and has_type(value, kind):
            found[name] = encode_value(value, kind)
    return found


def has_type(value: object, kind: AttributeType) -> bool:
    """Return whether a value of the row's JSON object has the attribute's current type."""
    match kind:
        case _T.Bool:
            return isinstance(value, bool)
        case _T.Int | _T.Double | _T.Datetime:
            return isinstance(value, int | float) and not isinstance(value, bool)
        case _T.KeywordList:
            return isinstance(value, list)
        case _:
            return isinstance(value, str)
