"""Find names and ids that cannot be stored: those with U+0000.

Postgres has no text with U+0000, so such a name could be written to one store and not to another, and such an id
could never be found again. They are refused where a request enters, whatever the store. Data that is only kept
(payloads, failures, reasons, descriptions) may contain it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

NUL = "\0"
_KEPT_MESSAGES = frozenset(
    f"temporal.api.{name}"
    for name in (
        "command.v1.Command",  # the workflow task fails by it: see history/core
        "common.v1.DataBlob", "common.v1.Header", "common.v1.Memo", "common.v1.Payload", "common.v1.Payloads",
        "failure.v1.Failure", "history.v1.History", "nexus.v1.Failure", "nexus.v1.HandlerError", "protocol.v1.Message",
        "query.v1.WorkflowQueryResult", "sdk.v1.UserMetadata",
    )
)  # fmt: skip
_KEPT_FIELDS = frozenset(
    (
        "comment", "control", "description", "details", "error_message", "message", "notes", "owner_email", "pause",
        "reason", "unpause",
    )
)  # fmt: skip
_CHECKED_FIELDS = frozenset(
    ("temporal.api.nexus.v1.EndpointSpec.name", "temporal.api.nexus.v1.EndpointTarget.Worker.task_queue")
)
"""Names whose own rule refuses U+0000, and tells of a length over the limit first."""
_KEPT_MAPS = frozenset(("data", "header", "metadata", "nexus_header", "headers"))
"""Maps of text to text."""


def nul_field(message: Message) -> str:
    """Return the path of a name or id with U+0000 (`execution.workflow_id`), or an empty string.

    In almost every message the byte 0 occurs only as the length of an empty submessage that is set; then this is a
    single search of its serialised form.
    """
    zeros = message.SerializeToString().count(b"\0")
    if not zeros:
        return ""
    plan = _plan(message)
    for name in plan.tokens:
        zeros -= getattr(message, name).count(b"\0")
    if not zeros:
        return ""
    for name in plan.kept_lists:
        for each in getattr(message, name):
            zeros -= each.SerializeToString().count(b"\0")
    if not zeros:
        return ""
    names = plan.any_messages
    for index, name in enumerate(names):
        if message.HasField(name) and not getattr(message, name).ByteSize():
            zeros -= 1
            if not zeros:
                # In most messages of a class the same fields are empty: check this one first next time.
                names.insert(0, names.pop(index))
                return ""
    return _search(message)


class _Plan(NamedTuple):
    """The fields of a class of messages that have to be searched, by their kind."""

    texts: tuple[str, ...]
    lists_of_texts: tuple[str, ...]
    messages: tuple[str, ...]
    lists_of_messages: tuple[str, ...]
    maps: tuple[str, ...]
    tokens: tuple[str, ...]
    """Fields of bytes."""
    kept_lists: tuple[str, ...]
    """Lists of messages that are only kept, of which there may be thousands."""
    any_messages: list[str]
    """Singular message fields, the one last found empty first."""


_plans: dict[type[Message], _Plan] = {}
"""Cached per class: asking descriptors at each request would cost ten times as much."""


def _plan(message: Message) -> _Plan:
    plan = _plans.get(type(message))
    if plan is None:
        plan = _plans[type(message)] = _plan_of(message)
    return plan


def _search(message: Message) -> str:
    plan = _plan(message)
    for name in plan.texts:
        if NUL in getattr(message, name):
            return name
    for name in plan.lists_of_texts:
        if any(NUL in text for text in getattr(message, name)):
            return name
    for name in plan.messages:
        if message.HasField(name) and (found := _search(getattr(message, name))):
            return f"{name}.{found}"
    for name in plan.lists_of_messages:
        for each in getattr(message, name):
            if found := _search(each):
                return f"{name}.{found}"
    for name in plan.maps:
        entries = getattr(message, name)
        if not entries:
            continue
        found_in_map = _search_map(message.DESCRIPTOR.fields_by_name[name], entries)
        if found_in_map is not None:
            return f"{name}.{found_in_map}" if found_in_map else name
    return ""


def _plan_of(message: Message) -> _Plan:
    plan = _Plan(*([] for _ in _Plan._fields))  # type: ignore[arg-type]  # tuples at the end
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and not field.is_repeated:
            plan.any_messages.append(field.name)
        if field.type == field.TYPE_BYTES and not field.is_repeated:
            plan.tokens.append(field.name)  # type: ignore[attr-defined]  # a list until the end
        if field.is_repeated and field.message_type is not None and field.message_type.full_name in _KEPT_MESSAGES:
            plan.kept_lists.append(field.name)  # type: ignore[attr-defined]  # likewise
        if field.name in _KEPT_FIELDS or field.full_name in _CHECKED_FIELDS:
            continue
        if field.type == field.TYPE_STRING:
            names: Any = plan.lists_of_texts if field.is_repeated else plan.texts
        elif field.message_type is None or field.message_type.full_name in _KEPT_MESSAGES:
            continue
        elif field.message_type.GetOptions().map_entry:
            names = plan.maps
        else:
            names = plan.lists_of_messages if field.is_repeated else plan.messages
        names.append(field.name)
    return _Plan(*(tuple(names) for names in plan[:-1]), plan.any_messages)  # type: ignore[call-arg,arg-type]  # five tuples


def _search_map(field: Any, entries: Mapping[Any, Any]) -> str | None:
    of = field.message_type.fields_by_name["value"]
    if field.name in _KEPT_MAPS and of.message_type is None:
        return None
    for key, value in entries.items():
        if isinstance(key, str) and NUL in key:
            return ""
        if of.type == of.TYPE_STRING and NUL in value:
            return ""
        if of.message_type is None or of.message_type.full_name in _KEPT_MESSAGES:
            continue
        if found := _search(value):
            return found
    return None
