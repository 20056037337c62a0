"""The token that a completion callback carries to the operation that waits for it."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from google.protobuf.message import DecodeError

from whistlestop.common.proto.nexus_pb2 import OperationToken

if TYPE_CHECKING:
    from whistlestop.history.core.limits import Limits
    from whistlestop.history.core.state_pb2 import MutableState

CALLBACK_HEADER = "temporal-callback-token"
_TOKEN_VERSION = 1


def callback_url(state: MutableState, limits: Limits) -> str:
    """Where somebody who answers over HTTP sends how an operation of this run ended; empty where nobody may."""
    url = limits.nexus_callback_url.replace("{{.NamespaceName}}", quote(state.namespace, safe=""))
    return url.replace("{{.NamespaceID}}", state.namespace_id)


def token_of(token: OperationToken) -> str:
    """As it travels in the header of a callback."""
    return json.dumps({"v": _TOKEN_VERSION, "d": base64.urlsafe_b64encode(token.SerializeToString()).decode()})


def parse_token(text: str) -> OperationToken | None:
    """The operation that waits; None when the text is no token of ours."""
    try:
        found = json.loads(text)
        if found.get("v") != _TOKEN_VERSION:
            return None
        token = OperationToken.FromString(base64.urlsafe_b64decode(found["d"]))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, DecodeError):
        return None
    return token if token.workflow_id and token.request_id else None
