"""Messages of any kind, with what is unusual in them: extreme numbers, odd payloads, failures as deep as bytes allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

from tests.isolation.backend import chain

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from hypothesis.strategies import DrawFn

_TEXT = st.sampled_from(["", "a", "w", "ä\U0001f600", "\u2028", "a" * 300, "1h", "* * * * *", "-1", "{}", "'"])
_BYTES = st.sampled_from([
    b"", b"x", b'"text"', b"1", b"null", b"NaN", b"[Infinity]", b"1e999", b"[" * 300 + b"]" * 300, b'{"a":' * 5000, b"\xff\xfe",
    b'{"a":{"b":[1,2.0,null,true]}}', b"9" * 5000, b'"\\ud800"',
])  # fmt: skip
_ENCODINGS = st.sampled_from([b"json/plain", b"binary/null", b"binary/plain", b"json/protobuf", b"", b"\xff", b"x"])
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_SPANS = st.sampled_from([0, 1, 60, -1, 86_400, 315_576_000_000, 315_576_000_001, 2**63 - 1, -(2**63), 253_402_300_800])
_NANOS = st.sampled_from([0, 1, 999_999_999, -1, 2**31 - 1, -(2**31)])


@st.composite
def messages(draw: DrawFn, kind: type[Message], depth: int = 5) -> Any:
    """A message of that kind, some of whose fields are set."""
    message: Any = kind()
    _fill(draw, message, depth)
    return message


def _fill(draw: DrawFn, message: Any, depth: int) -> None:
    name = message.DESCRIPTOR.full_name
    if name in ("google.protobuf.Duration", "google.protobuf.Timestamp"):
        message.seconds, message.nanos = draw(_SPANS), draw(_NANOS)
        return
    if name == "temporal.api.common.v1.Payload":
        message.data = draw(_BYTES)
        if draw(st.booleans()):
            message.metadata["encoding"] = draw(_ENCODINGS)
        return
    if name == "temporal.api.failure.v1.Failure" and draw(st.booleans()):
        message.ParseFromString(chain(draw(st.sampled_from([1, 30, 65, 66, 90, 97]))))
        return
    for field in message.DESCRIPTOR.fields:
        if draw(st.integers(0, 2)) == 0:
            _set(draw, message, field, depth)


def _set(draw: DrawFn, message: Any, field: Any, depth: int) -> None:
    if field.message_type is not None:
        if depth <= 0:
            return
        target = getattr(message, field.name)
        if field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            key = draw(_scalar(field.message_type.fields_by_name["key"]))
            if value.message_type is None:
                target[key] = draw(_scalar(value))
            else:
                _fill(draw, target[key], depth - 1)
        elif field.is_repeated:
            for _ in range(draw(st.integers(1, 2))):
                _fill(draw, target.add(), depth - 1)
        else:
            target.SetInParent()
            _fill(draw, target, depth - 1)
    elif field.is_repeated:
        getattr(message, field.name).append(draw(_scalar(field)))
    else:
        setattr(message, field.name, draw(_scalar(field)))


def _scalar(field: Any) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([*field.enum_type.values_by_number, 77])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type in _INTEGERS:
        least, most = _INTEGERS[field.cpp_type]
        return st.sampled_from([0, 1, 5, least, most])
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return st.sampled_from([0.0, 1.0, 1.5, -1.0, float("inf"), float("nan"), 1e30])
    return _BYTES if field.type == FieldDescriptor.TYPE_BYTES else _TEXT
