"""Completion callbacks within this server: their URL, and the token that identifies the waiting operation."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from google.protobuf.message import DecodeError

from whistlestop.common.proto.nexus_pb2 import OperationToken

if TYPE_CHECKING:
    from temporalio.api.common.v1 import message_pb2 as common_pb

    from whistlestop.history.core.limits import Limits
    from whistlestop.history.core.state_pb2 import MutableState

SYSTEM_URL = "temporal://system"
CALLBACK_HEADER = "temporal-callback-token"
_TOKEN_VERSION = 1


def callback_url(state: MutableState, limits: Limits) -> str:
    """Return the URL for completions of this run's operations by external handlers; empty if none is set."""
    url = limits.nexus_callback_url.replace("{{.NamespaceName}}", quote(state.namespace, safe=""))
    return url.replace("{{.NamespaceID}}", state.namespace_id)


def token_of(token: OperationToken) -> str:
    """Return the token as it is sent in a callback's header."""
    return json.dumps({"v": _TOKEN_VERSION, "d": base64.urlsafe_b64encode(token.SerializeToString()).decode()})


def parse_token(text: str) -> OperationToken | None:
    """Return the token; None when the text is not one of ours."""
    try:
        found = json.loads(text)
        if found.get("v") != _TOKEN_VERSION:
            return None
        token = OperationToken.FromString(base64.urlsafe_b64decode(found["d"]))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, DecodeError):
        return None
    return token if token.workflow_id and token.request_id else None


def header_of(callback: common_pb.Callback.Nexus, name: str) -> str:
    """Return a callback's header, whatever the case of its name; empty when it has none."""
    return next((value for key, value in callback.header.items() if key.lower() == name), "")


def stays_here(state: MutableState, limits: Limits, callback: common_pb.Callback.Nexus) -> bool:
    """Return whether the callback is called without HTTP: it leads to an operation within this server.

    Temporal's server delivers its own callbacks itself, whichever URL it is configured to give to workers. Callbacks to
    another namespace use their URL, and so pass the checks at its other end.
    """
    if callback.url == SYSTEM_URL:
        return True
    token = parse_token(header_of(callback, CALLBACK_HEADER))
    if token is None or token.namespace_id != state.namespace_id:
        return False
    return callback.url == callback_url(state, limits)
