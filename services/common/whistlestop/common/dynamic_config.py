"""Temporal's dynamic configuration: values by key, and how they get into the settings of a service.

Keys are compared without regard to case, as in Temporal. Which field a key sets is in the services' own tables
(`dynamic_keys`); what else Temporal knows, and why it has no effect here, is the server's to tell.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import field, fields, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.retry_defaults import RetryDefaults, RetryIntervals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

log = logging.getLogger(__name__)

SettingsT = TypeVar("SettingsT")
_KEY = re.compile(r"[A-Za-z0-9_.\-]+")
ONE_VALUE = frozenset((
    "callback.allowedaddresses", "history.workflowtaskcompletionbuffernamespaceratio",
    "history.workflowtaskcompletionbuffersizelimit", "limit.endpointdescriptionmaxsize", "worker.batcherconcurrency",
    "worker.batcherrps",
))  # fmt: skip
"""Keys that may differ between namespaces in Temporal, and have a single value here. So have all keys of matching."""
ALLOWED_ADDRESSES = (
    "callback.allowedaddresses", "component.callbacks.allowedaddresses",
    "workercontroller.compute_providers.webhook.allowed_addresses",
)  # fmt: skip
CONSTRAINTS = frozenset((
    "namespace", "namespaceid", "taskqueuename", "tasktype", "historytasktype", "shardid", "destination",
    "chasmtasktype",
))  # fmt: skip
"""The constraints that Temporal knows, in lower case."""


class InvalidDynamicConfig(ValueError):
    """A value is not `key=JSON` or has the wrong type, or a document of values cannot be read."""


@dataclass(frozen=True, slots=True)
class DynamicConfig:
    """The configured values, under keys in lower case."""

    values: Mapping[str, object]
    namespaces: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Values for single namespaces, by namespace name."""
    sources: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Where each value was set, by namespace (or empty) and key."""

    @classmethod
    def parse(cls, texts: Iterable[str], source: str = "--dynamic-config-value") -> Self:
        """Parse `key=JSON` texts. Raises InvalidDynamicConfig naming the key and the error."""
        values = dict(_pairs(texts))
        return cls(values, sources={("", key): source for key in values})

    @classmethod
    def of_document(cls, given: object, where: str, source: str, is_by_namespace: Callable[[str], bool | None]) -> Self:
        """Return the configuration in a document of Temporal's form: lists of values by key.

        `is_by_namespace` tells whether a key in lower case may differ between namespaces; None if the key is not
        supported. `where` names the document in errors, `source` in `sources`. Raises InvalidDynamicConfig.
        """
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise InvalidDynamicConfig(f"{where}: expected keys, each with a list of values")
        values: dict[str, object] = {}
        namespaces: dict[str, dict[str, object]] = {}
        sources: dict[tuple[str, str], str] = {}
        for key, entries in given.items():
            if not isinstance(key, str):
                raise InvalidDynamicConfig(f"{where}: the key {key!r} is no text")
            for constraints, value in _entries(where, key, entries):
                namespace = _namespace(where, key, constraints, is_by_namespace=is_by_namespace(key.lower()))
                if namespace is None:
                    continue
                of_namespace = namespaces.setdefault(namespace, {}) if namespace else values
                of_namespace.setdefault(key.lower(), value)
                sources[namespace, key.lower()] = source
        return cls(values, {name: of_name for name, of_name in namespaces.items() if of_name}, sources)

    def overridden_by(self, other: DynamicConfig) -> Self:
        """Return a copy in which the values of `other` replace those of the same keys, in all namespaces."""
        namespaces = {
            name: {key: value for key, value in values.items() if key not in other.values}
            for name, values in self.namespaces.items()
        }
        return type(self)(
            {**self.values, **other.values},
            {name: values for name, values in namespaces.items() if values},
            {**self.sources, **other.sources},
        )

    def document(self) -> dict[str, list[dict[str, object]]]:
        """Return the configuration as a document of Temporal's form; the reverse of `of_document`."""
        found: dict[str, list[dict[str, object]]] = {key: [{"value": value}] for key, value in self.values.items()}
        for name, values in self.namespaces.items():
            for key, value in values.items():
                found.setdefault(key, []).insert(0, {"value": value, "constraints": {"namespace": name}})
        return found

    def get(self, key: str, default: object = None) -> object:
        """Return the value of a key in any case, or `default`."""
        return self.values.get(key.lower(), default)

    def apply(self, settings: SettingsT, keys: Mapping[str, str]) -> SettingsT:
        """Return a copy of `settings` (a dataclass) with the configured values of the fields in `keys`.

        Raises InvalidDynamicConfig for a value of the wrong type.
        """
        changed = _changed(settings, keys, self.values)
        if not hasattr(changed, "by_namespace"):
            return changed
        common = replace(changed, by_namespace={})  # type: ignore[type-var]
        own = {name: _changed(common, keys, values) for name, values in self.namespaces.items()}
        by_namespace = {name: each for name, each in own.items() if each is not common}
        return replace(common, by_namespace=by_namespace)  # type: ignore[type-var]


def _changed(settings: SettingsT, keys: Mapping[str, str], values: Mapping[str, object]) -> SettingsT:
    names = {each.name for each in fields(settings)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = keys.get(key)
        if name is not None and name in names:
            changes[name] = _converted(key, name, value, getattr(settings, name))
    return replace(settings, **changes) if changes else settings  # type: ignore[type-var]


def _pairs(texts: Iterable[str]) -> Iterator[tuple[str, object]]:
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not _KEY.fullmatch(key):
            raise InvalidDynamicConfig(f'invalid dynamic config value "{text}": expected KEY=JSON')
        try:
            yield key.lower(), json.loads(value)
        except ValueError as error:
            raise InvalidDynamicConfig(f'invalid JSON value for dynamic config key "{key}": {error}') from error


_ADDRESSES = ("callback_allowed_addresses", "push_webhook_addresses")
_IN_LOWER_CASE = ("nexus_disallowed_headers", "nexus_dropped_headers", "disabled_schedule_validations")
_LISTS = ("http_allowed_hosts", "protected_namespaces", *_IN_LOWER_CASE)


def _converted(key: str, name: str, value: object, present: object) -> object:
    """Convert a value to the field's type: durations to the field's unit, numbers to numbers."""
    if value is None and present is None:
        return None
    if name in _ADDRESSES:
        return _addresses(key, value)
    if isinstance(present, RetryDefaults):
        return _retry_defaults(key, value)
    if isinstance(present, RetryIntervals):
        return _retry_intervals(key, value)
    if name in _LISTS and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(each.lower() for each in value) if name in _IN_LOWER_CASE else tuple(value)
    if isinstance(present, str) and isinstance(value, str):
        return value
    if isinstance(present, bool) and isinstance(value, bool):
        return value
    number = None if isinstance(present, bool) else _number(key, name, value)
    if number is None:
        raise InvalidDynamicConfig(f'dynamic config key "{key}" can\'t be {json.dumps(value)}')
    return float(number) if isinstance(present, float) else int(number)


def _number(key: str, name: str, value: object) -> float | None:
    """Return a number, or a duration, in the field's unit; None for any other value."""
    if is_span(name) and isinstance(value, str):
        value = duration_s(key, value)
    elif not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if name.endswith("_ns"):
        return round(value * 1_000_000_000)
    return round(value * 100) if name.endswith("_percent") else value


_RETRY_FIELDS = {
    "initialintervalinseconds": "initial_interval_ns", "maximumintervalcoefficient": "maximum_interval_factor",
    "backoffcoefficient": "backoff_coefficient", "maximumattempts": "maximum_attempts",
}  # fmt: skip


def _retry_defaults(key: str, value: object) -> RetryDefaults:
    """Parse `{"InitialIntervalInSeconds": 1, "MaximumIntervalCoefficient": 100 …}`; what is missing has its default."""
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and name.lower() in _RETRY_FIELDS and _is_number(each) for name, each in value.items()
    ):
        raise InvalidDynamicConfig(
            f'dynamic config key "{key}" can\'t be {json.dumps(value)}: InitialIntervalInSeconds, '
            "MaximumIntervalCoefficient, BackoffCoefficient and MaximumAttempts have numbers"
        )
    given: dict[str, Any] = {}
    for name, each in value.items():
        field_name = _RETRY_FIELDS[name.lower()]
        if field_name == "initial_interval_ns":
            given[field_name] = round(each * 1_000_000_000)
        else:
            given[field_name] = float(each) if field_name == "backoff_coefficient" else int(each)
    return RetryDefaults(**given)


_INTERVAL_FIELDS = {"initialinterval": "initial_ns", "maxinterval": "maximum_ns"}


def _retry_intervals(key: str, value: object) -> RetryIntervals:
    """Parse `{"InitialInterval": "1s", "MaxInterval": "1h"}`; what is missing has its default."""
    given: dict[str, int] = {}
    for name, each in value.items() if isinstance(value, dict) else [("", None)]:
        field_name = _INTERVAL_FIELDS.get(name.lower()) if isinstance(name, str) else None
        interval_ns = _number(key, field_name, each) if field_name else None
        if not field_name or not interval_ns or interval_ns <= 0:
            raise InvalidDynamicConfig(
                f'dynamic config key "{key}" can\'t be {json.dumps(value)}: '
                "InitialInterval and MaxInterval are positive durations"
            )
        given[field_name] = int(interval_ns)
    return RetryIntervals(**given)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def is_span(name: str) -> bool:
    """Return whether the field holds a duration, in nanoseconds or seconds."""
    return name.endswith(("_ns", "_s")) and not name.endswith("_per_s")


def as_given(name: str, value: object) -> object:
    """Return the value of a field as it would be configured: the reverse of `apply`."""
    if isinstance(value, bool):
        return value
    if isinstance(value, RetryDefaults):
        return {
            "InitialIntervalInSeconds": value.initial_interval_ns / 1_000_000_000,
            "MaximumIntervalCoefficient": value.maximum_interval_factor,
            "BackoffCoefficient": value.backoff_coefficient,
            "MaximumAttempts": value.maximum_attempts,
        }
    if isinstance(value, RetryIntervals):
        return {"InitialInterval": _span(value.initial_ns / 10**9), "MaxInterval": _span(value.maximum_ns / 10**9)}
    if name.endswith("_percent") and isinstance(value, int):
        return value / 100
    if is_span(name) and isinstance(value, int | float):
        return _span(value / 10**9 if name.endswith("_ns") else value)
    if name in _ADDRESSES and isinstance(value, tuple):
        return [{"Pattern": pattern, "AllowInsecure": insecure} for pattern, insecure in value]
    return list(value) if isinstance(value, tuple) else value


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds % length == 0 and (seconds or unit == "s"):
            return f"{int(seconds) // length}{unit}"
    return f"{round(seconds * 1000)}ms"


def _addresses(key: str, value: object) -> tuple[tuple[str, bool], ...]:
    """Parse patterns of hosts, and whether plain HTTP is allowed: `[{"Pattern": "*", "AllowInsecure": true}]`."""
    found = []
    entries: list[Any] = value if isinstance(value, list) else [value]
    for entry in entries:
        pattern = entry.get("Pattern") if isinstance(entry, dict) else None
        if not isinstance(pattern, str) or not pattern:
            raise InvalidDynamicConfig(f'dynamic config key "{key}" needs entries with a "Pattern"')
        found.append((pattern, entry.get("AllowInsecure") is True))
    return tuple(found)


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def duration_s(what: str, text: str) -> float:
    """Parse a Go duration (`1h30m`, `250ms`) into seconds. Raises InvalidDynamicConfig naming `what`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)", text)
    if text != "0" and (not parts or "".join(number + unit for number, unit in parts) != text):
        raise InvalidDynamicConfig(f'"{text}" is not a duration such as 10s or 1m30s (dynamic config key "{what}")')
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def allowed_addresses(dynamic: DynamicConfig) -> list[str]:
    """Return the patterns of all `allowedAddresses` settings; a host in one of them is allowed for all.

    Raise InvalidDynamicConfig.
    """
    given = ((key, dynamic.values[key]) for key in ALLOWED_ADDRESSES if key in dynamic.values)
    return [pattern for key, value in given for pattern, _ in _addresses(key, value)]


def _entries(where: str, key: str, entries: object) -> Iterator[tuple[Mapping[str, object], object]]:
    if not isinstance(entries, list):
        raise InvalidDynamicConfig(f'{where}: the key "{key}" needs a list of values, each with "value"')
    for entry in entries:
        if not isinstance(entry, dict) or "value" not in entry or entry.keys() - {"value", "constraints"}:
            raise InvalidDynamicConfig(f'{where}: a value of "{key}" is not "value" and perhaps "constraints"')
        constraints: Any = entry.get("constraints") or {}
        if not isinstance(constraints, dict) or not all(isinstance(name, str) for name in constraints):
            raise InvalidDynamicConfig(f'{where}: the constraints of "{key}" are no names with values')
        try:
            json.dumps(entry["value"])
        except (TypeError, ValueError, RecursionError):
            raise InvalidDynamicConfig(f'{where}: the value of "{key}" is neither text nor number') from None
        yield {name.lower(): value for name, value in constraints.items()}, entry["value"]


def _namespace(where: str, key: str, constraints: Mapping[str, object], *, is_by_namespace: bool | None) -> str | None:
    """Return the namespace that a value is for, empty for all; None if the value is to be ignored."""
    for name in constraints.keys() - CONSTRAINTS:
        raise InvalidDynamicConfig(f'{where}: "{name}" of the key "{key}" is no constraint')
    namespace = constraints.get("namespace", "")
    if not isinstance(namespace, str):
        raise InvalidDynamicConfig(f'{where}: the namespace of the key "{key}" is no text')
    others = constraints.keys() - {"namespace"}
    if is_by_namespace is None:
        return ""  # the server warns of the key itself
    if others or (namespace and not is_by_namespace):
        names = ", ".join(sorted(others or {"namespace"}))
        log.warning("dynamic configuration key %s does not take the constraint %s: that value is ignored", key, names)
        return None
    return namespace
