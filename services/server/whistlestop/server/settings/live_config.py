"""Dynamic configuration that is read again while the server runs, when its file has changed.

The services hold their settings in frozen dataclasses; here the values in these are replaced in place, so that every
holder sees the new values. Settings that are used only at the start (`AT_THE_START`) keep their values.
"""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from whistlestop.common.dynamic_config import InvalidDynamicConfig, allowed_addresses
from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
from whistlestop.history.dynamic_keys import LIMIT_KEYS
from whistlestop.matching.dynamic_keys import MATCHING_KEYS
from whistlestop.net.tasks.loops import Loop
from whistlestop.server.settings.dynamic_config import HONOURED, DynamicConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from whistlestop.common.clock import Clock
    from whistlestop.server.assembly import Services
    from whistlestop.server.settings.dynamic_file import DynamicSource

log = logging.getLogger(__name__)

EVERY_S = 10.0
AT_THE_START = frozenset(("frontend.httpallowedhosts", "workercontroller.compute_providers.webhook.allowed_addresses"))
"""Keys that are read only once, to construct a listener and the client of webhooks."""


class LiveConfig:
    """Checks regularly whether the file has changed."""

    def __init__(
        self, source: DynamicSource, current: DynamicConfig, clock: Clock, take: Callable[[DynamicConfig], None]
    ) -> None:
        self._source = source
        self._current = current
        self._clock = clock
        self._take = take
        self._stamp = source.stamp()
        self._loop = Loop("dynamic configuration", clock)

    async def run(self) -> None:
        """Check until cancelled."""
        await self._loop.run(self._turn)

    async def _turn(self) -> None:
        await self._clock.sleep(EVERY_S)
        self.reload_if_changed()

    def reload_if_changed(self) -> bool:
        """Apply the file if it has changed. Return False when nothing changed or it cannot be read."""
        stamp = self._source.stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            read = self._source.read()
        except InvalidDynamicConfig as error:
            log.error("%s: the previous values stay in force", error)  # noqa: TRY400 - the message suffices
            return False
        fresh = _with_values_of_the_start(read, self._current)
        changed = _changes(self._current, fresh)
        for key in changed:
            if key not in HONOURED and key not in self._current.values:
                DynamicConfig({key: None}).warn()
        self._current = fresh
        if changed:
            log.info("dynamic configuration has changed: %s", ", ".join(changed))
            self._take(fresh)
        return bool(changed)


def _with_values_of_the_start(read: DynamicConfig, before: DynamicConfig) -> DynamicConfig:
    kept = {key: value for key, value in before.values.items() if key in AT_THE_START}
    if any(read.values.get(key) != before.values.get(key) for key in AT_THE_START):
        log.warning(
            "dynamic configuration keys that are only read at the start keep their values: %s",
            ", ".join(sorted(key for key in AT_THE_START if read.values.get(key) != before.values.get(key))),
        )
    others = {key: value for key, value in read.values.items() if key not in AT_THE_START}
    return replace(read, values=others | kept)


def _changes(before: DynamicConfig, after: DynamicConfig) -> list[str]:
    """Return the keys whose values differ, for all namespaces or for one."""
    found = {
        key
        for old, new in (
            (before.values, after.values),
            *((before.namespaces.get(name, {}), after.namespaces.get(name, {}))
              for name in before.namespaces.keys() | after.namespaces.keys()),
        )
        for key in old.keys() | new.keys()
        if key not in old or key not in new or old[key] != new[key]
    }  # fmt: skip
    return sorted(found)


def reconfigure(services: Services, dynamic: DynamicConfig) -> None:
    """Apply `dynamic` to the services of this process; settings that it does not name get their defaults."""
    if services.history is not None:
        _renew(services.history.ports.limits, dynamic, LIMIT_KEYS)
    if services.matching is not None:
        _renew(services.matching.config, dynamic, MATCHING_KEYS)
    _renew(services.frontend.ports.config, dynamic, FRONTEND_KEYS)
    services.frontend.configured()
    services.engine.outbound.allow(allowed_addresses(dynamic))


def _renew(settings: Any, dynamic: DynamicConfig, keys: Mapping[str, str]) -> None:
    defaults = type(settings)()
    by_default = {name: getattr(defaults, name) for name in set(keys.values())}
    fresh = dynamic.apply(replace(settings, **by_default), keys)
    for field in fields(settings):
        object.__setattr__(settings, field.name, getattr(fresh, field.name))
