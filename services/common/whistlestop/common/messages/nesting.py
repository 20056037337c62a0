"""Limits on how deeply messages and JSON nest, so that whatever is stored can be read again.

Protobuf parsers refuse messages that nest deeper than 100 levels (upb in Python, prost in the SDKs' core, and
others), and what a client sends is stored inside other messages: an event, a history, a reply. Only two messages of
the API contain themselves: Failure and Nexus's Failure, by their `cause`. Every other message is at most 13 levels
deep. So a limit on the number of causes, applied where a request enters, limits everything.

Temporal keeps 20 causes of a failure that is too large, and up to 10,000 of one that is not, which SDKs then fail to
read. Here 64 are kept: a failing child workflow adds two, so that is a tree of 32 generations.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, TypeVar, cast

from google.protobuf.message import DecodeError, Message
from temporalio.api.failure.v1 import message_pb2 as failure_pb
from temporalio.api.nexus.v1 import message_pb2 as nexus_pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor, FieldDescriptor

    Bound = Callable[[Any], None]

M = TypeVar("M", bound=Message)

MAX_CAUSES = 64
CUT_OFF = f"Further causes were cut off: a failure keeps {MAX_CAUSES} of them."
MAX_JSON_DEPTH = 200
"""Go's parser allows 10,000; Python's own limit depends on how deep the caller is on the stack."""

MAX_REQUEST_FIELDS = 20_000
"""Maximum number of fields that are walked through in a request that nests too deeply to be parsed."""
MAX_STORED_FIELDS = 2_000_000

_FAILURE, _NEXUS_FAILURE = failure_pb.Failure.DESCRIPTOR.full_name, nexus_pb.Failure.DESCRIPTOR.full_name
_RECURSIVE = frozenset({_FAILURE, _NEXUS_FAILURE})
_CAUSE = {
    name: kind.DESCRIPTOR.fields_by_name["cause"].number
    for name, kind in ((_FAILURE, failure_pb.Failure), (_NEXUS_FAILURE, nexus_pb.Failure))
}
_LENGTH_DELIMITED = 2
_WALKED = MAX_CAUSES + 1
"""One cause more than the limit is left, so that `cut_causes` sees that there were too many."""


# ---- failures in messages --------------------------------------------------------------------------------------------


def cut_causes(failure: failure_pb.Failure | nexus_pb.Failure) -> None:
    """Remove the causes of a failure beyond the limit, in place; the last one then says that causes are missing."""
    current: Any = failure
    for _ in range(MAX_CAUSES):
        if not current.HasField("cause"):
            return
        last, current = current, current.cause
    if current.HasField("cause"):
        last.ClearField("cause")
        last.cause.message = CUT_OFF
        if isinstance(failure, failure_pb.Failure):
            last.cause.source = "Server"
            last.cause.server_failure_info.SetInParent()


def bound_of(kind: type[Message]) -> Bound | None:
    """Return a function that cuts the causes of all failures in a message of that type, in place.

    Returns None for a type that cannot contain a failure.
    """
    return _bound(cast("Descriptor", kind.DESCRIPTOR))


_bounds: dict[str, Any] = {}


def _bound(descriptor: Descriptor) -> Bound | None:
    name = descriptor.full_name
    if name in _RECURSIVE:
        return cut_causes
    if name not in _bounds:
        _bounds[name] = None
        steps = [step for field in descriptor.fields if (step := _step(field)) is not None]
        if steps:
            _bounds[name] = _all_of(descriptor, steps)
    found: Bound | None = _bounds[name]
    return found


def _step(field: FieldDescriptor) -> tuple[str, Bound, str] | None:
    """Return how to descend into a field: its name, the function to apply, and its oneof (empty: none).

    Returns None for a field that cannot contain a failure.
    """
    kind = field.message_type
    if kind is None:
        return None
    if kind.GetOptions().map_entry:
        inner = kind.fields_by_name["value"].message_type
        bound = None if inner is None else _bound(inner)
        return None if bound is None else (field.name, _each_value(field.name, bound), "")
    bound = _bound(kind)
    if bound is None:
        return None
    if field.is_repeated:
        return field.name, _each(field.name, bound), ""
    oneof = field.containing_oneof
    return field.name, _one(field.name, bound), "" if oneof is None else oneof.name


def _each_value(name: str, bound: Bound) -> Bound:
    def visit(message: Any) -> None:
        for value in getattr(message, name).values():
            bound(value)

    return visit


def _each(name: str, bound: Bound) -> Bound:
    def visit(message: Any) -> None:
        for value in getattr(message, name):
            bound(value)

    return visit


def _one(name: str, bound: Bound) -> Bound:
    def visit(message: Any) -> None:
        if message.HasField(name):
            bound(getattr(message, name))

    return visit


def _all_of(descriptor: Descriptor, steps: list[tuple[str, Bound, str]]) -> Bound:
    plain = [visit for _, visit, oneof in steps if not oneof]
    if len(plain) == len(steps) == 1:
        return plain[0]
    # A oneof is checked only once, since there are many commands and few of them carry a failure.
    oneofs = {
        oneof: {name: visit for name, visit, of in steps if of == oneof} for oneof in {of for _, _, of in steps if of}
    }

    def visit_all(message: Any) -> None:
        for visit in plain:
            visit(message)
        for oneof, by_field in oneofs.items():
            of_field = by_field.get(message.WhichOneof(oneof))
            if of_field is not None:
                of_field(message)

    return visit_all


# ---- bytes that nest too deeply to be parsed -------------------------------------------------------------------------


def parse(kind: type[M], data: bytes, *, most_fields: int = MAX_STORED_FIELDS) -> M:
    """Parse a message; if it nests too deeply, remove the causes beyond the limit. Raises DecodeError."""
    try:
        return kind.FromString(data)
    except DecodeError:
        cut = shallow(kind, data, most_fields)
        if cut is None:
            raise
        return kind.FromString(cut)


def shallow(kind: type[Message], data: bytes, most_fields: int) -> bytes | None:
    """Return the serialised message without the causes beyond the limit; None when that does not help."""
    walk = _Walk(data, most_fields)
    try:
        parts, _ = walk.message(cast("Descriptor", kind.DESCRIPTOR), 0, len(data), _WALKED)
    except (_GivenUp, IndexError, RecursionError):
        return None
    return b"".join(parts) if walk.has_cut else None


class _GivenUp(Exception):
    """The bytes are malformed, or have too many fields."""


class _Walk:
    """Walks through the fields that may contain a failure, and skips all others."""

    def __init__(self, data: bytes, most_fields: int) -> None:
        self._data = data
        self._view = memoryview(data)
        self._left = most_fields
        self.has_cut = False

    def message(self, descriptor: Descriptor, at: int, end: int, causes: int) -> tuple[list[bytes | memoryview], int]:
        """Return the parts to keep of the message between two offsets, and their total length."""
        parts: list[bytes | memoryview] = []
        length, kept = 0, at
        cause = _CAUSE.get(descriptor.full_name, 0)
        while at < end:
            start = at
            self._left -= 1
            if self._left < 0:
                raise _GivenUp
            key, at = self._varint(at)
            number, wire_type = key >> 3, key & 7
            first, at = self._value(wire_type, at)
            if at > end:
                raise _GivenUp
            inner = self._inner(descriptor, number) if wire_type == _LENGTH_DELIMITED else None
            if inner is None:
                continue
            parts.append(self._view[kept:start])
            length += start - kept
            kept = at
            if number == cause and not causes:
                self.has_cut = True
                continue
            within, size = self.message(inner, first, at, causes - 1 if number == cause else _WALKED)
            head = _varint(key) + _varint(size)
            parts.append(head)
            parts += within
            length += len(head) + size
        parts.append(self._view[kept:end])
        return parts, length + end - kept

    @staticmethod
    def _inner(descriptor: Descriptor, number: int) -> Descriptor | None:
        field = descriptor.fields_by_number.get(number)
        kind = None if field is None else field.message_type
        return kind if kind is not None and _contains_causes(kind) else None

    def _value(self, wire_type: int, at: int) -> tuple[int, int]:
        """Return the offsets at which the value begins and ends."""
        if wire_type == 0:
            return at, self._varint(at)[1]
        if wire_type == 1:
            return at, at + 8
        if wire_type == 5:
            return at, at + 4
        if wire_type != _LENGTH_DELIMITED:
            raise _GivenUp
        size, at = self._varint(at)
        return at, at + size

    def _varint(self, at: int) -> tuple[int, int]:
        data, shift, value = self._data, 0, 0
        while shift < 70:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
            shift += 7
        raise _GivenUp


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _contains_causes(descriptor: Descriptor) -> bool:
    """Return whether a message of that type is or may contain a failure."""
    if descriptor.GetOptions().map_entry:
        inner = descriptor.fields_by_name["value"].message_type
        return inner is not None and _contains_causes(inner)
    return _bound(descriptor) is not None


# ---- JSON ------------------------------------------------------------------------------------------------------------


def load_json(
    data: bytes | str,
    parse_float: Callable[[str], Any] | None = None,
    *,
    parse_pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    first_only: bool = False,
) -> Any:
    """Parse JSON. Raises ValueError for invalid JSON, too deep nesting, and NaN or Infinity.

    `parse_pairs` makes the objects; with `first_only`, anything after the first value is ignored.
    """
    text = data if isinstance(data, str) else data.decode("utf-8-sig", "surrogatepass")
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
        _check_json_depth(text)
    try:
        if first_only or parse_pairs is not None:
            decoder = json.JSONDecoder(
                parse_float=parse_float, parse_constant=_no_constant, object_pairs_hook=parse_pairs
            )
            return decoder.raw_decode(text.lstrip(" \t\r\n"))[0] if first_only else decoder.decode(text)
        return json.loads(text, parse_float=parse_float, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _check_json_depth(text: str) -> None:
    """Raise ValueError when brackets nest deeper than the limit."""
    depth = 0
    for match in _json_brackets().finditer(text):
        mark = match[0][0]
        if mark in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise ValueError("nested too deeply")
        elif mark in "]}":
            depth -= 1


@functools.cache
def _json_brackets() -> Any:
    import re

    return re.compile(r'[\[\]{}]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
