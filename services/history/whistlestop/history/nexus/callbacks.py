"""The token by which a completion callback identifies the operation that waits for it."""

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
