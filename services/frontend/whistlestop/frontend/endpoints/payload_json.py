"""Write Temporal's JSON: protobuf JSON with payloads written as the JSON that they contain ("shorthand").

A `json/plain` payload is written as its value, a `json/protobuf` payload as an object with `_protoMessageType`, a
`Payloads` as an array; anything else is written in protobuf's form. Keys of maps, and of objects in payloads, are
sorted, as in Go. `request_json` reads this format.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from whistlestop.common.messages.json_messages import to_tree
from whistlestop.common.messages.nesting import load_json

if TYPE_CHECKING:
    from google.protobuf.message import Message

PAYLOAD = "temporal.api.common.v1.Payload"
PAYLOADS = "temporal.api.common.v1.Payloads"
MESSAGE_TYPE = "_protoMessageType"
NULL, PLAIN, PROTO = b"binary/null", b"json/plain", b"json/protobuf"


def to_json(message: Message, *, shorthand: bool, pretty: bool) -> bytes:
    """Return the message as Temporal's JSON in UTF-8. With `shorthand`, payloads that are JSON appear as such."""
    tree: Any = to_tree(message)
    tree = _shorten(message, tree, short=shorthand)
    text = json.dumps(tree, ensure_ascii=False, **({"indent": 2} if pretty else {"separators": (",", ":")}))
    return text.encode("utf-8", "replace")


def _shorten(message: Any, tree: Any, *, short: bool) -> Any:
    name = message.DESCRIPTOR.full_name
    if name == PAYLOAD and short:
        fits, value = _short_value(message)
        return value if fits else tree
    if name == PAYLOADS and short:
        values = [_short_value(each) for each in message.payloads]
        null = [each.metadata.get("encoding") == NULL for each in message.payloads]
        full = tree.get("payloads", [])
        shortened = [value if fits else full[i] for i, (fits, value) in enumerate(values)]
        every = all(fits or null[i] for i, (fits, _) in enumerate(values))
        return shortened if every else {**tree, "payloads": shortened}
    if name.startswith("google.protobuf."):
        return tree
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            tree[field.json_name] = _shorten_field(field, value, tree[field.json_name], short=short)
    return tree


def _shorten_field(field: Any, value: Any, tree: Any, *, short: bool) -> Any:
    if field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].type != FieldDescriptor.TYPE_MESSAGE:
            return dict(sorted(tree.items()))
        return {_key(key): _shorten(value[key], tree[_key(key)], short=short) for key in sorted(value)}
    if field.is_repeated:
        return [_shorten(each, tree[i], short=short) for i, each in enumerate(value)]
    return _shorten(value, tree, short=short)


def _key(key: object) -> str:
    return ("true" if key else "false") if isinstance(key, bool) else str(key)


def _short_value(payload: Any) -> tuple[bool, Any]:
    """Return whether the payload has a shorthand form, and that form."""
    encoding = payload.metadata.get("encoding", b"")
    try:
        if encoding == PLAIN and len(payload.metadata) == 1:
            return True, ordered(load_json(payload.data, parse_float=number))
        if encoding == PROTO and len(payload.metadata) == 2 and payload.metadata.get("messageType"):
            value = load_json(payload.data, parse_float=number)
            if isinstance(value, dict):
                kind = payload.metadata["messageType"].decode("utf-8", "replace")
                return True, ordered({**value, MESSAGE_TYPE: kind})
    except ValueError:
        pass
    return False, None


def number(text: str) -> int | float:
    """Parse a number as Go writes it: without a point if it is whole. Raises ValueError beyond Go's range."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


def ordered(value: Any) -> Any:
    """Return the value with the keys of all its objects sorted."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value)}
    return [ordered(each) for each in value] if isinstance(value, list) else value
