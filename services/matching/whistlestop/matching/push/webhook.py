"""Notify a receiver of waiting tasks, or send them, by signed HTTP POST requests.

Requests are signed according to Standard Webhooks: HMAC-SHA256 over id, timestamp and body, so that the receiver can
check origin and age. docs/push.md describes the protocol for those who write receivers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from temporalio.api.enums.v1 import task_queue_pb2 as queue_enums

from whistlestop.common.clock import SECOND_NS
from whistlestop.common.messages.enum_names import enum_name
from whistlestop.matching.push.provider import ProviderError
from whistlestop.net import addresses
from whistlestop.net.outbound import BadRequest, NoAnswer, Outbound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from whistlestop.common.clock import Clock
    from whistlestop.common.ids import Ids
    from whistlestop.matching.push.provider import Details, Work
    from whistlestop.net.outbound import Answer

START = "wake"
TASK = "task"
"""The modes: notify of waiting tasks, or send activity tasks, one per request."""
_KEYS = frozenset({"url", "secret", "mode", "timeout_ms", "task_queues"})
_PREFIX = "whsec_"
_MIN_SECRET = 16
_TIMEOUT_MS = (100, 60_000)
_DEFAULT_TIMEOUT_MS = 10_000


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header `webhook-signature`; `timestamp` is in seconds since the Unix epoch.

    Raise ProviderError for a malformed secret.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()


def _key(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProviderError(f"secret is not base64 behind {_PREFIX}: {error}") from None


def timeout_ms_of(details: Details) -> int:
    """Return the maximum time for an answer, in milliseconds."""
    return int(details.get("timeout_ms", _DEFAULT_TIMEOUT_MS))


def mode_of(details: Details) -> str:
    """Return the mode (`wake` or `task`, not checked); `wake` by default."""
    return str(details.get("mode") or START)


class Webhook:
    """The provider `webhook`. Details: `url`, `secret`, `mode` (`wake`, or `task` with `task_queues`), `timeout_ms`."""

    backlog_per_worker = 10

    def __init__(
        self,
        clock: Clock,
        ids: Ids,
        allowed: Sequence[tuple[str, bool]] = (("*", False),),
        outbound: Outbound | None = None,
    ) -> None:
        """Create the provider; `allowed` are patterns of host[:port], and whether they may be used without TLS."""
        self._clock = clock
        self._ids = ids
        self._allowed = allowed
        self._outbound = outbound or Outbound()

    def check(self, details: Details) -> None:
        """Raise ProviderError for details that are invalid."""
        for name in details:
            if name not in _KEYS:
                raise ProviderError(f'unknown config key "{name}" for the webhook compute provider')
        url, secret = details.get("url"), details.get("secret")
        if not isinstance(url, str) or not url:
            raise ProviderError('the webhook compute provider requires "url" to be configured')
        self._check_url(url)
        if not isinstance(secret, str) or len(secret) < _MIN_SECRET:
            raise ProviderError(
                f'the webhook compute provider requires a "secret" of at least {_MIN_SECRET} characters'
            )
        _key(secret)
        if mode_of(details) not in (START, TASK):
            raise ProviderError(f'mode must be "{START}" or "{TASK}"')
        timeout = details.get("timeout_ms", _DEFAULT_TIMEOUT_MS)
        if isinstance(timeout, bool) or not isinstance(timeout, int) or not _TIMEOUT_MS[0] <= timeout <= _TIMEOUT_MS[1]:
            raise ProviderError(f"timeout_ms must be an integer between {_TIMEOUT_MS[0]} and {_TIMEOUT_MS[1]}")

        names = details.get("task_queues", [])
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise ProviderError("task_queues must be a list of names")
        if (mode_of(details) == TASK) != bool(names):
            raise ProviderError(f'mode "{TASK}", and no other, requires "task_queues" to be configured')

    def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname
            _ = parts.port
        except ValueError as error:
            raise ProviderError(f"invalid webhook url: {error}") from None
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise ProviderError(f"invalid webhook url, expected https://host/path without user or password: {url}")
        for pattern, insecure in self._allowed:
            if not self._outbound.may_be_stored(parts):
                break
            if addresses.matches(parts, pattern) and (insecure or parts.scheme == "https"):
                return
        raise ProviderError(f"webhook url does not match any allowed address: {url}")

    async def validate(self, details: Details) -> None:
        """Check the details only: any request would make a receiver do something. Raise ProviderError."""
        self.check(details)

    async def start(self, details: Details, work: Work, count: int) -> int:
        """Send one request for all `count` workers, and return `count`. Raise ProviderError.

        The receiver knows best how to start several.
        """
        data = self.described(work) | {"workers": count}
        answer = await self.send(details, "worker.wanted", data)
        if not 200 <= answer.status < 300:
            raise ProviderError(f"the webhook answered with status {answer.status}")
        return count

    @staticmethod
    def described(work: Work) -> dict[str, Any]:
        """Return the fields that tell the receiver what a request is for."""
        return {
            "namespace": work.context.namespace,
            "deployment_name": work.version.deployment_name,
            "build_id": work.version.build_id,
            "scaling_group": work.group,
            "task_queues": [
                {"name": name, "type": enum_name(queue_enums.TaskQueueType, kind), "backlog": backlog}
                for name, kind, backlog in work.queues
            ],
        }

    async def send(self, details: Details, kind: str, data: Mapping[str, Any]) -> Answer:
        """POST one signed message and return the answer. Raise ProviderError when there is none."""
        self._check_url(details["url"])
        seconds = self._clock.now_ns() // SECOND_NS
        body = json.dumps({"type": kind, "timestamp": seconds, "data": data}, separators=(",", ":")).encode()
        message_id = f"msg_{self._ids.uuid()}"
        headers = {
            "content-type": "application/json",
            "user-agent": "whistlestop",
            "webhook-id": message_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signature(details["secret"], message_id, seconds, body),
        }
        timeout_s = timeout_ms_of(details) / 1000
        try:
            return await self._outbound.post(details["url"], headers, body, timeout_s)
        except (NoAnswer, BadRequest) as error:
            raise ProviderError(f"the webhook did not answer: {error}") from None
