"""The protocol of compute providers, and the parsing of their details."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from whistlestop.common.errors import invalid_argument
from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from temporalio.api.common.v1.message_pb2 import Payload

    from whistlestop.common.context import CallContext
    from whistlestop.common.versioning.deployments import Version

    Details = Mapping[str, Any]

_GO_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "bool"}


class ProviderError(Exception):
    """The target could not be reached or refused the request. The message is shown to whoever configures it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the workers are started for."""

    context: CallContext
    version: Version
    group: str
    queues: Sequence[tuple[str, int, int]] = ()
    """Task queue, task type and the number of waiting tasks."""


class Provider(Protocol):
    """Start workers that end by themselves."""

    backlog_per_worker: int
    """The scaler's default for targets of this kind."""

    def check(self, details: Details) -> None:
        """Raise ProviderError for details that are invalid."""
        ...

    async def validate(self, details: Details) -> None:
        """Check the details with the target as well, if that starts nothing. Raise ProviderError."""
        ...

    async def start(self, details: Details, work: Work, count: int) -> int:
        """Start `count` workers; return how many were started. Raise ProviderError when none could be."""
        ...


def decode(payload: Payload) -> dict[str, Any]:
    """Return the details of a provider or a scaler as an object; {} for an empty payload. Raise INVALID_ARGUMENT."""
    if not payload.data and not payload.metadata:
        return {}
    try:
        found = json.loads(payload.data or b"null")
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"unable to decode: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        kind = _GO_KINDS.get(type(found), "value")
        raise invalid_argument(
            f"unable to decode: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
        )
    return found
