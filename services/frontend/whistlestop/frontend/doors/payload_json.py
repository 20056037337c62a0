"""Temporal's JSON: protobuf's own, with payloads written as the JSON they hold ("shorthand").

A payload of `json/plain` is the value itself, one of `json/protobuf` an object with `_protoMessageType`, a `Payloads`
an array; whatever does not fit stays in protobuf's form. Reading takes both forms everywhere, and the short names of
enums (`Running` for `WORKFLOW_EXECUTION_STATUS_RUNNING`).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from whistlestop.common.nesting import load_json

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor
    from google.protobuf.message import Message

_PAYLOAD = "temporal.api.common.v1.Payload"
_PAYLOADS = "temporal.api.common.v1.Payloads"
_MESSAGE_TYPE = "_protoMessageType"
_NULL, _PLAIN, _PROTO = b"binary/null", b"json/plain", b"json/protobuf"
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def to_json(message: Message, *, shorthand: bool, pretty: bool) -> bytes:
    """The message as Temporal's JSON."""
    tree: Any = json_format.MessageToDict(message)
    if shorthand:
        tree = _shorten(message, tree)
    text = json.dumps(tree, ensure_ascii=False, **({"indent": 2} if pretty else {"separators": (",", ":")}))
    return text.encode("utf-8", "replace")


def fill_from_json(message: Message, data: bytes) -> None:
    """Parse into `message`. Raises ValueError with the reason."""
    if not data.strip():
        return
    tree = load_json(data, parse_float=_number)
    try:
        json_format.ParseDict(_lengthen(message.DESCRIPTOR, tree), message)
    except json_format.ParseError as error:
        raise ValueError(str(error)) from None


def _shorten(message: Any, tree: Any) -> Any:
    name = message.DESCRIPTOR.full_name
    if name == _PAYLOAD:
        fits, value = _short_value(message)
        return value if fits else tree
    if name == _PAYLOADS:
        short = [_short_value(each) for each in message.payloads]
        null = [each.metadata.get("encoding") == _NULL for each in message.payloads]
        full = tree.get("payloads", [])
        shown = [value if fits else full[i] for i, (fits, value) in enumerate(short)]
        every = all(fits or null[i] for i, (fits, _) in enumerate(short))
        return shown if every else {**tree, "payloads": shown}
    if name.startswith("google.protobuf."):
        return tree
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            tree[field.json_name] = _shorten_field(field, value, tree[field.json_name])
    return tree


def _shorten_field(field: Any, value: Any, tree: Any) -> Any:
    if field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].type != FieldDescriptor.TYPE_MESSAGE:
            return tree
        return {str(key): _shorten(each, tree[_key(key)]) for key, each in value.items()}
    if field.is_repeated:
        return [_shorten(each, tree[i]) for i, each in enumerate(value)]
    return _shorten(value, tree)


def _key(key: object) -> str:
    return ("true" if key else "false") if isinstance(key, bool) else str(key)


def _short_value(payload: Any) -> tuple[bool, Any]:
    """Whether the payload has a short form, and it."""
    encoding = payload.metadata.get("encoding", b"")
    try:
        if encoding == _PLAIN and len(payload.metadata) == 1:
            return True, load_json(payload.data, parse_float=_number)
        if encoding == _PROTO and len(payload.metadata) == 2 and payload.metadata.get("messageType"):
            value = load_json(payload.data, parse_float=_number)
            if isinstance(value, dict):
                return True, {**value, _MESSAGE_TYPE: payload.metadata["messageType"].decode("utf-8", "replace")}
    except ValueError:
        pass
    return False, None


def _lengthen(descriptor: Any, tree: Any) -> Any:
    name = descriptor.full_name
    if name == _PAYLOAD:
        return _long_payload(tree)
    if name == _PAYLOADS and isinstance(tree, list):
        return {"payloads": [_long_payload(each) for each in tree]}
    if not isinstance(tree, dict) or name.startswith("google.protobuf."):
        return tree
    fields = {**descriptor.fields_by_name, **{field.json_name: field for field in descriptor.fields}}
    return {key: _lengthen_field(fields.get(key), value) for key, value in tree.items()}


def _lengthen_field(field: Any, value: Any) -> Any:
    if field is None or (value is None and field.message_type is None):
        return value
    if field.enum_type is not None:
        return [_enum(field.enum_type, v) for v in value] if isinstance(value, list) else _enum(field.enum_type, value)
    if field.message_type is None:
        return value
    if field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {k: _lengthen_field(inner, v) for k, v in value.items()} if isinstance(value, dict) else value
    if field.is_repeated:
        return [_lengthen(field.message_type, each) for each in value] if isinstance(value, list) else value
    if value is None and field.message_type.full_name != _PAYLOAD:
        return None
    return _lengthen(field.message_type, value)


def _enum(kind: EnumDescriptor, value: Any) -> Any:
    """`Running` -> `WORKFLOW_EXECUTION_STATUS_RUNNING`; anything else as it is."""
    if not isinstance(value, str) or value in kind.values_by_name:
        return value
    prefix = _CAMEL.sub("_", kind.name).upper()
    long = f"{prefix}_{_CAMEL.sub('_', value).upper()}"
    return long if long in kind.values_by_name else value


def _long_payload(value: Any) -> dict[str, Any]:
    if _is_long(value):
        long: dict[str, Any] = value
        return long
    if value is None:
        return {"metadata": {"encoding": _encoded(_NULL)}}
    metadata = {"encoding": _encoded(_PLAIN)}
    if isinstance(value, dict) and isinstance(value.get(_MESSAGE_TYPE), str):
        metadata = {"encoding": _encoded(_PROTO), "messageType": _encoded(value[_MESSAGE_TYPE].encode())}
        value = {key: each for key, each in value.items() if key != _MESSAGE_TYPE}
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return {"metadata": metadata, "data": _encoded(text.encode("utf-8", "replace"))}


def _is_long(value: Any) -> bool:
    """Whether this is a payload in protobuf's form: base64 in `metadata` and `data`, and something in both."""
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
    return bool(data) or decoded.get("encoding") == _NULL


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _number(text: str) -> int | float:
    """As Go writes it back: a whole number has no point. Raises ValueError for one that Go can't hold."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return int(value) if value.is_integer() and abs(value) < 1e21 else value
