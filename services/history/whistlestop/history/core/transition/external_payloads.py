"""Count the payloads stored externally to which a run's history refers, and their sizes.

Every batch of events is checked, and hardly any has such a payload. So the serialised batch is first searched for the
byte pattern of a reference, and only a batch with a match is examined message by message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from temporalio.api.common.v1 import message_pb2 as common_pb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from temporalio.api.history.v1 import message_pb2 as history_pb

    from whistlestop.history.core.state_pb2 import MutableState

# Field 3 of a payload: a message that is empty or has a number in its field 1.
_MAY_BE_EXTERNAL = re.compile(rb"\x1a(?:\x00|[\x02-\x0b]\x08)")
find = _MAY_BE_EXTERNAL.search
"""Return a match if the bytes look like those of a batch with such a payload; otherwise None."""
_PAYLOAD = common_pb.Payload.DESCRIPTOR
_LEFT_OUT = common_pb.SearchAttributes.DESCRIPTOR


def add(state: MutableState, events: Iterable[history_pb.HistoryEvent], data: bytes) -> None:
    """Count the external payloads of the events. `data` is the batch as it is stored."""
    if find(data) is None:
        return
    for event in events:
        name = event.WhichOneof("attributes")
        if name is not None:
            attributes = getattr(event, name)
            for field in _holders(attributes.DESCRIPTOR):
                _count(state, _sizes_in(attributes, field))
        if event.HasField("user_metadata"):
            _count(state, _sizes(event.user_metadata))
        for marker in event.event_group_markers:
            _count(state, _sizes(marker))


def _count(state: MutableState, sizes: Iterable[int]) -> None:
    for size in sizes:
        state.external_payload_count += 1
        state.external_payload_size_bytes += size


@cache
def _holders(kind: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Return the fields of a type of attributes that may hold payloads."""
    return tuple(
        field for field in kind.fields if field.message_type is not None and _may_hold_payloads(field.message_type)
    )


def _sizes_in(attributes: Any, field: FieldDescriptor) -> Iterable[int]:
    value = getattr(attributes, field.name)
    if not field.is_repeated:
        return _sizes(value) if attributes.HasField(field.name) else ()
    return chain.from_iterable(map(_sizes, value.values() if isinstance(value, Mapping) else value))


def _sizes(message: Any) -> Iterable[int]:
    if message.DESCRIPTOR is _PAYLOAD:
        for reference in message.external_payloads:
            yield reference.size_bytes
        return
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is None or not _may_hold_payloads(kind):
            continue
        if isinstance(value, Message):
            yield from _sizes(value)
            continue
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _sizes(each)


@cache
def _may_hold_payloads(kind: Descriptor) -> bool:
    """Return whether a message of that type may hold payloads that are counted."""
    seen: set[Descriptor] = set()
    waiting = [kind]
    while waiting:
        current = waiting.pop()
        if current is _PAYLOAD:
            return True
        if current is _LEFT_OUT or current in seen:
            continue
        seen.add(current)
        waiting += [field.message_type for field in current.fields if field.message_type is not None]
    return False
