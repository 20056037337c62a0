"""Messages made of bytes: each byte is a choice, so that whatever is fuzzed is a message that parses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from google.protobuf.message import Message

_MOST_DEPTH = 6
_NUMBERS = (0, 1, 2, -1, 5, 100, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 10**9, 86_400)
_FLOATS = (0.0, 1.0, -1.0, 0.5, 1e308, float("nan"), float("inf"), float("-inf"))
_TEXTS = (
    "", "default", "w", "q", "x", "temporal-system", "/_sys/q/1", "a.b", "\x00", "\u2028", "5s", "* * * * *", "@every 1h", "1d",
    "WorkflowId = 'w'", "CustomInt > 5 AND ExecutionStatus IN ('Running')", "http://127.0.0.1:1/", "https://example.com/x",
    "01a22aaa-ef96-7175-9a23-7cd10214efe1", "Europe/Berlin", "__temporal_system", "y" * 1_001, "\U0001f600", "json/plain", "BuildIds",
)  # fmt: skip
_BYTES = (
    b"",
    b"1",
    b'"a"',
    b"{}",
    b"[[[]]]",
    b"null",
    b"\x00\xff",
    b"1e999",
    b"json/plain",
    b"binary/null",
    b"Keyword",
    b"Int",
)


class _Choices:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def take(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0


def filled(kind: type[Message], data: bytes) -> Message:
    """A message of that kind, by the choices in `data`."""
    message, choices = kind(), _Choices(data)
    if "namespace" in kind.DESCRIPTOR.fields_by_name:
        message.namespace = "default"  # type: ignore[attr-defined]
    while choices.left:
        _set_one(message, choices, 0)
    return message


def _set_one(message: Any, choices: _Choices, depth: int) -> None:
    fields, choice = message.DESCRIPTOR.fields, choices.take()
    if not fields:
        return
    field = fields[choice % len(fields)]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _set_entry(message, field, choices, depth)
    elif field.message_type is not None:
        _fill(
            getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name),
            choices,
            depth + 1,
        )
    elif field.is_repeated:
        getattr(message, field.name).append(_value(field, choices))
    else:
        setattr(message, field.name, _value(field, choices))


def _set_entry(message: Any, field: Any, choices: _Choices, depth: int) -> None:
    key = _value(field.message_type.fields_by_name["key"], choices)
    value = field.message_type.fields_by_name["value"]
    if value.message_type is not None:
        _fill(getattr(message, field.name)[key], choices, depth + 1)
    else:
        getattr(message, field.name)[key] = _value(value, choices)


def _fill(message: Any, choices: _Choices, depth: int) -> None:
    message.SetInParent()
    if depth < _MOST_DEPTH:
        for _ in range(choices.take() % 5):
            _set_one(message, choices, depth)


def _value(field: FieldDescriptor, choices: _Choices) -> Any:
    choice = choices.take()
    if field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values] + [99]
        return numbers[choice % len(numbers)]
    if field.type == FieldDescriptor.TYPE_STRING:
        return _TEXTS[choice % len(_TEXTS)]
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _BYTES[choice % len(_BYTES)]
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return bool(choice % 2)
    if field.cpp_type in {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}:
        return _FLOATS[choice % len(_FLOATS)]
    return _in_range(_NUMBERS[choice % len(_NUMBERS)], field)


def _in_range(number: int, field: FieldDescriptor) -> int:
    is_short = field.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32}
    is_positive = field.cpp_type in {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
    most = 2**31 if is_short else 2**63
    return min(max(number, 0 if is_positive else -most), most - 1)
