"""Which keys of Temporal's dynamic configuration the server supports, and what it says of the others.

All keys of Temporal, and why some of them have no effect here, are listed in `temporal_settings`: a warning is logged
at the start for such a key, and for an unknown one.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from whistlestop.common import dynamic_config
from whistlestop.common.dynamic_config import ONE_VALUE
from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
from whistlestop.history.dynamic_keys import LIMIT_KEYS
from whistlestop.matching.dynamic_keys import MATCHING_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)


def _limits() -> Any:
    from whistlestop.history.core.limits import Limits

    return Limits


def _frontend() -> Any:
    from whistlestop.frontend.config import FrontendConfig

    return FrontendConfig


def _matching() -> Any:
    from whistlestop.matching.config import MatchingConfig

    return MatchingConfig


SECTIONS: tuple[tuple[Callable[[], Any], Mapping[str, str]], ...] = (
    (_limits, LIMIT_KEYS), (_frontend, FRONTEND_KEYS), (_matching, MATCHING_KEYS),
)  # fmt: skip
"""The dataclasses that are configured, each imported when needed, and the fields of their keys."""
HONOURED = frozenset(key for _, keys in SECTIONS for key in keys)


@cache
def by_namespace() -> frozenset[str]:
    """Return the keys whose values may differ between namespaces."""
    from whistlestop.server.settings.temporal_settings import settings

    there = {setting.key.lower() for setting in settings() if setting.scope != "Global"}
    return frozenset(there.intersection((*LIMIT_KEYS, *FRONTEND_KEYS)) - ONE_VALUE - MATCHING_KEYS.keys())


def is_by_namespace(key: str) -> bool | None:
    """Return whether the key, in lower case, may differ between namespaces; None if it is not supported."""
    return key in by_namespace() if key in HONOURED else None


class DynamicConfig(dynamic_config.DynamicConfig):
    """The configuration of a server, which tells of keys without an effect."""

    __slots__ = ()

    def check(self) -> None:
        """Raise InvalidDynamicConfig if a supported key has a value of the wrong type."""
        for settings, keys in SECTIONS:
            self.apply(settings()(), keys)

    def warn(self) -> None:
        """Log which keys have no effect here, and why; none that asks for what is so in any case."""
        for key, value in self.values.items():
            if key not in HONOURED and (reason := _why_not(key, value)):
                log.warning("%s", reason)


_SO_ANYWAY = {"always": True, "never": False}
"""What holds whatever a key says, by the reason why it is not honoured. SDKs pass such keys to each server."""


def _why_not(key: str, value: object) -> str:
    from whistlestop.server.settings.temporal_settings import REASONS, RELEASE, settings

    known = {setting.key.lower(): setting for setting in settings()}
    setting = known.get(key)
    if setting is not None:
        if setting.why in _SO_ANYWAY and value is _SO_ANYWAY[setting.why]:
            return ""
        return f"dynamic configuration key {setting.key} changes nothing here: {REASONS[setting.why]}"
    from difflib import get_close_matches

    close = get_close_matches(key, known, n=1, cutoff=0.8)
    suggestion = f"; {known[close[0]].key} may be meant" if close else ""
    return f"dynamic configuration key {key} changes nothing: Temporal {RELEASE} does not know it{suggestion}"
