"""Completion callbacks of starts and updates: allowed addresses and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whistlestop.common.errors import invalid_argument, unimplemented
from whistlestop.frontend.api import checks
from whistlestop.net import addresses

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from temporalio.api.common.v1.message_pb2 import Callback, Link

    from whistlestop.frontend.api.rules import Rules

_ALWAYS_ALLOWED = frozenset({"temporal://system", "temporal://internal"})


def check_callbacks(callbacks: Collection[Callback], rules: Rules) -> None:
    """Raise ServiceError unless all callbacks may be attached. Header names are lowered in place."""
    if len(callbacks) > rules.config.max_callbacks_per_execution:
        raise invalid_argument(
            f"cannot attach more than {rules.config.max_callbacks_per_execution} callbacks to an execution"
        )
    for callback in callbacks:
        kind = callback.WhichOneof("variant")
        if kind is None:
            raise unimplemented("unknown callback variant: <nil>")
        if kind == "internal":
            raise invalid_argument("unsupported callback variant: *common.Callback_Internal_")
        _check_nexus(callback.nexus, rules)


def _check_nexus(callback: Callback.Nexus, rules: Rules) -> None:
    if checks.length(callback.url) > rules.config.callback_url_max_length:
        raise invalid_argument(
            f"invalid url: url length longer than max length allowed of {rules.config.callback_url_max_length}"
        )
    _check_url(callback.url, rules)
    headers = {name.lower(): value for name, value in callback.header.items()}
    size = sum(checks.length(name) + checks.length(value) for name, value in headers.items())
    if size > rules.config.callback_header_max_size:
        raise invalid_argument(
            f"invalid header: header size longer than max allowed size of {rules.config.callback_header_max_size}"
        )
    callback.header.clear()
    callback.header.update(headers)


def _check_url(url: str, rules: Rules) -> None:
    if url in _ALWAYS_ALLOWED:
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise invalid_argument(f"invalid callback url: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise invalid_argument(f"invalid url: unknown scheme: {url}")
    if not addresses.host_of(parts):
        raise invalid_argument("invalid url: missing host")
    for pattern, allow_insecure in rules.config.callback_allowed_addresses:
        if addresses.matches(parts, pattern):
            if parts.scheme == "http" and not allow_insecure:
                raise invalid_argument(f"invalid url: callback address does not allow insecure connections: {url}")
            return
    raise invalid_argument(f"invalid url: url does not match any configured callback address: {url}")


def links_beside_callbacks(links: Iterable[Link], callbacks: Iterable[Callback]) -> list[Link]:
    """Return the links that no Nexus callback of the request has, too: SDKs repeat them for older servers."""
    known = {_bytes(link) for callback in callbacks if callback.HasField("nexus") for link in callback.links}
    return [link for link in links if _bytes(link) not in known]


def _bytes(link: Link) -> bytes:
    return link.SerializeToString(deterministic=True)
