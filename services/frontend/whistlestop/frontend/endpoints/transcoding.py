"""Paths of Temporal's JSON API, from the `google.api.http` annotations of its RPCs.

A path determines an RPC and some fields of its request. The annotations are read once, when first needed.
"""

from __future__ import annotations

import functools
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from google.api import annotations_pb2  # type: ignore[import-untyped]  # its package carries no types
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.frontend.registry import REGISTRY, RpcSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message

_VARIABLE = re.compile(r"\{([a-z0-9_.]+)\}")
_TRUE, _FALSE = ("true", "True", "1", "t", "T", "TRUE"), ("false", "False", "0", "f", "F", "FALSE")
_INTEGERS = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})


@dataclass(frozen=True, slots=True)
class Binding:
    """A path of an RPC. A segment is a literal, or the name of a field in braces."""

    spec: RpcSpec
    http_method: str
    segments: tuple[str, ...]
    body: str
    """`*`: the body is the request; a field's name: the body is that field; empty: no body."""

    @property
    def literals(self) -> int:
        """The number of literal segments: the more, the more specific the path."""
        return sum(not segment.startswith("{") for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Match:
    """An RPC and the fields set by its path."""

    binding: Binding
    variables: dict[str, str]


def find(http_method: str, path: str) -> Match | None:
    """Return the binding of a percent-encoded path; None when there is none.

    A trailing slash matches only if the last segment is a variable, which is then empty.
    """
    if not path.startswith("/"):
        return None
    segments = tuple(path[1:].split("/"))
    for binding in _table().get((http_method, len(segments)), ()):
        variables = _variables(binding, segments)
        if variables is not None:
            return Match(binding, variables)
    return None


def other_methods(path: str) -> bool:
    """Return whether the path exists with another HTTP method."""
    return any(find(method, path) is not None for method in ("GET", "POST", "PUT", "DELETE", "PATCH"))


def set_field(message: Message, path: str, values: list[str]) -> None:
    """Set a field, given its dotted path and its values as text. Unknown paths are ignored. Raises ValueError."""
    target: Any = message
    *parents, last = path.split(".")
    for name in parents:
        field = _field(target, name)
        if field is None or field.message_type is None or field.is_repeated:
            return
        target = getattr(target, field.name)
    field = _field(target, last)
    if field is None:
        return
    try:
        _assign(target, field, values)
    except ValueError as error:
        raise ValueError(f'parsing field "{field.name}": {error}') from None


def _assign(target: Any, field: Any, values: list[str]) -> None:
    if field.is_repeated:
        if field.message_type is None:
            getattr(target, field.name).extend(_scalar(field, each) for each in values)
        return
    if field.message_type is None:
        setattr(target, field.name, _scalar(field, values[-1]))
        return
    if field.message_type.full_name.startswith("google.protobuf."):
        part = getattr(target, field.name)
        part.SetInParent()
        try:
            part.FromJsonString(values[-1])
        except (AttributeError, ValueError, json_format.ParseError) as error:
            raise ValueError(f'"{values[-1]}" is not a valid value') from error


def _scalar(field: Any, text: str) -> Any:
    if field.enum_type is not None:
        found = field.enum_type.values_by_name.get(text)
        if found is not None:
            return found.number
        if text.lstrip("-").isdigit() and int(text) in field.enum_type.values_by_number:
            return int(text)
        raise ValueError(f'"{text}" is not a valid value')
    if field.cpp_type in _INTEGERS:
        if re.fullmatch(r"[+-]?\d+", text) is None:
            raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        return int(text)
    if field.cpp_type in _FLOATS:
        return float(text)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text not in _TRUE + _FALSE:
            raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
        return text in _TRUE
    if field.type == FieldDescriptor.TYPE_BYTES:
        import base64

        standard = text.replace("-", "+").replace("_", "/").replace(" ", "+")
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    return text


def _field(message: Any, name: str) -> Any:
    descriptor = message.DESCRIPTOR
    found = descriptor.fields_by_name.get(name)
    return found if found is not None else descriptor.fields_by_camelcase_name.get(name)


def _variables(binding: Binding, segments: tuple[str, ...]) -> dict[str, str] | None:
    variables = {}
    last = len(segments) - 1
    for index, (expected, actual) in enumerate(zip(binding.segments, segments, strict=True)):
        if expected.startswith("{"):
            if not actual and index != last:
                return None
            variables[expected[1:-1]] = unquote(actual)
        elif expected != unquote(actual):
            return None
    return variables


@functools.cache
def _table() -> dict[tuple[str, int], list[Binding]]:
    table: dict[tuple[str, int], list[Binding]] = {}
    for binding in bindings():
        table.setdefault((binding.http_method, len(binding.segments)), []).append(binding)
    for candidates in table.values():
        candidates.sort(key=lambda each: -each.literals)
    return table


def bindings() -> Iterator[Binding]:
    """Yield all paths that lead to an RPC."""
    return _bindings(REGISTRY.values())


def _bindings(specs: Iterable[RpcSpec]) -> Iterator[Binding]:
    for spec in specs:
        # The paths are only in the service descriptors, which the registry does not import.
        module = import_module(f"temporalio.{spec.service.removeprefix('temporal.').rpartition('.')[0]}.service_pb2")
        service = module.DESCRIPTOR.services_by_name[spec.service.rpartition(".")[2]]
        options = service.methods_by_name[spec.method].GetOptions()
        if not options.HasExtension(annotations_pb2.http):
            continue
        rule = options.Extensions[annotations_pb2.http]
        for each in (rule, *rule.additional_bindings):
            verb = each.WhichOneof("pattern")
            yield Binding(spec, verb.upper(), tuple(getattr(each, verb).strip("/").split("/")), each.body)
