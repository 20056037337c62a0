"""Find names and ids that no store can hold: those with U+0000.

Postgres has no text with U+0000, so a name with it could be written to one store and not to another, and an id with it
could never be found again. Names and ids with it are refused at the entrance, on every store. What is only kept
(payloads, failures, reasons, descriptions) may have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor
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
_KEPT_MAPS = frozenset(("data", "header", "metadata", "nexus_header", "headers"))
"""Of text to text."""


def nul_field(message: Message) -> str:
    """Return the path of a name or id with U+0000 (`execution.workflow_id`), or an empty string.

    Almost no message holds the byte 0 at all, and then this is one search in its serialised form.
    """
    return _search(message) if b"\0" in message.SerializeToString() else ""


def _search(message: Message) -> str:
    for field, value in message.ListFields():
        if field.name in _KEPT_FIELDS:
            continue
        if field.type == field.TYPE_STRING:
            texts = value if field.is_repeated else (value,)
            if any(NUL in text for text in texts):
                return field.name
        elif field.message_type is not None and field.message_type.full_name not in _KEPT_MESSAGES:
            found = _search_in(field, value)
            if found is not None:
                return f"{field.name}.{found}" if found else field.name
    return ""


def _search_in(field: FieldDescriptor, value: object) -> str | None:
    """Look into a message field; None when there is nothing."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _search_map(field.name, field.message_type.fields_by_name["value"], value)
    for each in value if field.is_repeated else (value,):  # type: ignore[attr-defined]  # reflection knows no types
        if found := _search(each):
            return found
    return None


def _search_map(name: str, of: FieldDescriptor, entries: object) -> str | None:
    if name in _KEPT_MAPS and of.message_type is None:
        return None
    for key, value in entries.items():  # type: ignore[attr-defined]  # reflection knows no types
        if isinstance(key, str) and NUL in key:
            return ""
        if of.type == of.TYPE_STRING and NUL in value:
            return ""
        if of.message_type is None or of.message_type.full_name in _KEPT_MESSAGES:
            continue
        if found := _search(value):
            return found
    return None
