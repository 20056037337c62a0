"""One module per small group of RPCs; these tables bring them together by RPC name."""

from __future__ import annotations

from whistlestop.common.search_attributes import UnknownSearchAttribute
from whistlestop.frontend.api import cluster, namespaces, search_attributes, visibility
from whistlestop.frontend.api.rules import Handler, Rules, Validator

HANDLERS: dict[str, Handler] = {
    **cluster.HANDLERS,
    **namespaces.HANDLERS,
    **search_attributes.HANDLERS,
    **visibility.HANDLERS,
}
"""RPCs that the frontend serves itself."""

VALIDATORS: dict[str, Validator] = {}
"""Checks before an RPC is served, whoever serves it."""

__all__ = ["HANDLERS", "VALIDATORS", "Handler", "Rules", "UnknownSearchAttribute", "Validator"]
