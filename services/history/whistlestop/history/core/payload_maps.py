"""Maps of payloads: search attributes and memos."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message


def is_null_payload(payload: Message) -> bool:
    """Return whether an upsert of this value deletes the key: it is empty or encodes null or an empty list."""
    data: bytes = payload.data  # type: ignore[attr-defined]
    encoding: bytes = payload.metadata.get("encoding", b"")  # type: ignore[attr-defined]
    return encoding == b"binary/null" or not data or (encoding == b"json/plain" and data in (b"null", b"[]"))


def merge_payloads(target: object, changes: object) -> None:
    """Merge a map of payloads into another; a null payload removes its key."""
    for key, payload in changes.items():  # type: ignore[attr-defined]
        if is_null_payload(payload):
            target.pop(key, None)  # type: ignore[attr-defined]
        else:
            target[key].CopyFrom(payload)  # type: ignore[index]
