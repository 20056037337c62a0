"""Read requests in Temporal's JSON, as strictly as Temporal's server does.

This is protobuf JSON with payloads as the JSON that they contain ("shorthand"; both forms are accepted everywhere,
unless the caller disables shorthand), and short enum names (`Running` for `WORKFLOW_EXECUTION_STATUS_RUNNING`). An
unknown field, a duplicate field (in the same or the other spelling), and a value of the wrong type are errors.
Anything after the first value of a body is ignored, as in Temporal.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from whistlestop.common.messages.nesting import load_json
from whistlestop.frontend.endpoints.payload_json import (
    MESSAGE_TYPE,
    NULL,
    PAYLOAD,
    PAYLOADS,
    PLAIN,
    PROTO,
    number,
    ordered,
)

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor
    from google.protobuf.message import Message

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_SPECIAL_FLOATS = frozenset({"NaN", "Infinity", "-Infinity"})
_TEXTS = {
    "google.protobuf.Duration": re.compile(r"[+-]?(\d+(\.\d{0,9})?|\.\d{1,9})s"),
    "google.protobuf.Timestamp": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"),
    "google.protobuf.FieldMask": re.compile(r"[^_\s]*"),
}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: ("int32", -(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: ("int64", -(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: ("uint32", 0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: ("uint64", 0, 2**64 - 1),
}
_FLOATS = {FieldDescriptor.CPPTYPE_FLOAT: "float", FieldDescriptor.CPPTYPE_DOUBLE: "double"}
_BOM = b"\xef\xbb\xbf"


class _Object(dict[str, Any]):
    """An object that remembers a duplicate key, which is allowed in a payload but not in a message."""

    twice: str | None = None


def fill_from_json(message: Message, data: bytes, *, shorthand: bool = True) -> None:
    """Parse JSON into `message`. Raises ValueError with the reason."""
    if not data.strip(b" \t\r\n"):
        return
    tree = _Reading(shorthand=shorthand).message(message.DESCRIPTOR, _parsed(data))
    try:
        json_format.ParseDict(tree, message)
    except json_format.ParseError as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def _parsed(data: bytes) -> Any:
    if data.startswith(_BOM):
        raise ValueError("invalid character '\ufeff' looking for beginning of value")
    try:
        return load_json(data, parse_float=number, parse_pairs=_object, first_only=True)
    except json.JSONDecodeError as error:
        if error.pos >= len(error.doc):
            raise ValueError("unexpected EOF") from None
        raise ValueError(f"syntax error (line {error.lineno}:{error.colno}): the body is not JSON") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"syntax error: invalid UTF-8 at byte {error.start}") from None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        found.twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return found


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _unexpected(value: Any) -> ValueError:
    token = "{" if isinstance(value, dict) else "[" if isinstance(value, list) else _quoted(value)
    return ValueError(f"syntax error: unexpected token {token}")


class _Reading:
    """Converts Temporal's JSON to protobuf JSON for `json_format`."""

    def __init__(self, *, shorthand: bool) -> None:
        self._shorthand = shorthand

    def message(self, descriptor: Any, tree: Any) -> Any:
        """Convert a message of that type."""
        name = descriptor.full_name
        if self._shorthand and name == PAYLOAD:
            return _long_payload(tree)
        if self._shorthand and name == PAYLOADS and isinstance(tree, list):
            return {"payloads": [_long_payload(each) for each in tree]}
        if name.startswith("google.protobuf."):
            return _well_known(name, tree)
        if not isinstance(tree, _Object):
            raise _unexpected(tree)
        if tree.twice is not None:
            raise ValueError(f"duplicate field {_quoted(tree.twice)}")
        read: dict[str, Any] = {}
        for key, value in tree.items():
            field = descriptor.fields_by_name.get(key) or descriptor.fields_by_camelcase_name.get(key)
            if field is None:
                raise ValueError(f"unknown field {_quoted(key)}")
            if value is None and not self._takes_null(field):
                continue
            if field.name in read:
                raise ValueError(f"duplicate field {_quoted(key)}")
            read[field.name] = self._field(field, value)
        return read

    def _takes_null(self, field: Any) -> bool:
        """Return whether `null` is a value of the field, as for a payload, rather than its absence."""
        kind = field.message_type
        return self._shorthand and not field.is_repeated and kind is not None and kind.full_name == PAYLOAD

    def _field(self, field: Any, value: Any) -> Any:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            if not isinstance(value, _Object):
                raise _unexpected(value)
            if value.twice is not None:
                raise ValueError(f"duplicate map key {_quoted(value.twice)}")
            inner = kind.fields_by_name["value"]
            return {key: self._one(inner, each) for key, each in value.items()}
        if field.is_repeated:
            if not isinstance(value, list):
                raise _unexpected(value)
            return [self._one(field, each) for each in value]
        return self._one(field, value)

    def _one(self, field: Any, value: Any) -> Any:
        if field.message_type is not None:
            return self.message(field.message_type, value)
        if value is None:
            raise _unexpected(value)
        return _enum(field.enum_type, value) if field.enum_type is not None else _scalar(field, value)


def _well_known(name: str, value: Any) -> Any:
    pattern = _TEXTS.get(name)
    if pattern is not None and not isinstance(value, str):
        raise _unexpected(value)
    if pattern is not None and pattern.fullmatch(value) is None:
        raise ValueError(f"invalid {name} value {_quoted(value)}")
    return value


def _scalar(field: Any, value: Any) -> Any:
    kind, found = field.cpp_type, None
    if kind in _INTEGERS:
        name, least, most = _INTEGERS[kind]
        found = _number_of(value)
        if isinstance(found, int) and least <= found <= most:
            return found
    elif kind in _FLOATS:
        name = _FLOATS[kind]
        if isinstance(value, str) and value in _SPECIAL_FLOATS:
            return value
        found = _number_of(value)
        if found is not None:
            return found
    elif kind == FieldDescriptor.CPPTYPE_BOOL:
        name = "bool"
        if isinstance(value, bool):
            return value
    else:
        is_bytes = field.type == FieldDescriptor.TYPE_BYTES
        name = "bytes" if is_bytes else "string"
        if isinstance(value, str) and (not is_bytes or _BASE64.fullmatch(value)):
            return value
    raise ValueError(f"invalid value for {name} type: {_quoted(value)}")


def _number_of(value: Any) -> int | float | None:
    """Return the number in a number or numeric string; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if _NUMBER.fullmatch(value) is None:
            return None
        return int(value) if value.lstrip("-").isdigit() else number(value)
    return value if isinstance(value, int | float) else None


def _enum(kind: EnumDescriptor, value: Any) -> Any:
    """Convert a short enum name, such as `Running` to `WORKFLOW_EXECUTION_STATUS_RUNNING`."""
    if isinstance(value, str):
        if value in kind.values_by_name:
            return value
        prefix = _CAMEL.sub("_", kind.name).upper()
        long = f"{prefix}_{_CAMEL.sub('_', value).upper()}"
        if long in kind.values_by_name:
            return long
    elif isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31:
        return value
    raise ValueError(f"invalid value for enum type: {_quoted(value)}")


def _long_payload(value: Any) -> dict[str, Any]:
    if _is_long(value):
        long: dict[str, Any] = value
        return long
    if value is None:
        return {"metadata": {"encoding": _encoded(NULL)}}
    metadata = {"encoding": _encoded(PLAIN)}
    if isinstance(value, dict) and isinstance(value.get(MESSAGE_TYPE), str):
        metadata = {"encoding": _encoded(PROTO), "messageType": _encoded(value[MESSAGE_TYPE].encode())}
        value = {key: each for key, each in value.items() if key != MESSAGE_TYPE}
    text = json.dumps(ordered(value), ensure_ascii=False, separators=(",", ":"))
    return {"metadata": metadata, "data": _encoded(text.encode("utf-8", "replace"))}


def _is_long(value: Any) -> bool:
    """Return whether this is a payload in protobuf's form: base64 in `metadata` and `data`, and neither empty."""
    if not isinstance(value, dict) or not set(value) <= {"metadata", "data", "externalPayloads"}:
        return False
    metadata, data = value.get("metadata"), value.get("data", "")
    if not isinstance(metadata, dict) or not metadata or not isinstance(data, str):
        return False
    try:
        decoded = {key: base64.b64decode(each, validate=True) for key, each in metadata.items()}
        base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return False
    return bool(data) or decoded.get("encoding") == NULL


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
