"""`--dynamic-config-file`: dynamic configuration in Temporal's YAML, with constraints.

    limit.maxIDLength:
      - value: 255
    frontend.enableSchedules:
      - value: false
        constraints: {namespace: orders}
      - value: true

Each key has a list of values. A value without constraints applies everywhere; one for a namespace takes precedence.
Of several values with the same constraints the first applies, as in Temporal. Other constraints concern parts that
this server does not have (partitions of task queues, shards, destinations): such values are ignored with a warning.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.server.dynamic_config import HONOURED, DynamicConfig, InvalidDynamicConfig, by_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 20
CONSTRAINTS = frozenset((
    "namespace", "namespaceid", "taskqueuename", "tasktype", "historytasktype", "shardid", "destination",
    "chasmtasktype",
))  # fmt: skip
"""The constraints that Temporal knows, in lower case."""


@dataclass(frozen=True, slots=True)
class DynamicSource:
    """A file, and the flags that override it."""

    path: str
    flags: DynamicConfig

    def read(self) -> DynamicConfig:
        """Return the current configuration. Raises InvalidDynamicConfig naming the file and the error."""
        found = parse(self._text(), self.path).overridden_by(self.flags)
        try:
            found.check()
        except InvalidDynamicConfig as error:
            raise InvalidDynamicConfig(f"--dynamic-config-file {self.path}: {error}") from None
        return found

    def stamp(self) -> tuple[int, ...]:
        """Return values that change with the file; empty when it cannot be found."""
        try:
            status = Path(self.path).stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _text(self) -> str:
        try:
            with Path(self.path).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise InvalidDynamicConfig(f"--dynamic-config-file {self.path}: {error.strerror}") from error
        if len(data) > MOST_BYTES:
            raise InvalidDynamicConfig(f"--dynamic-config-file {self.path} has more than {MOST_BYTES} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise InvalidDynamicConfig(f"--dynamic-config-file {self.path} is not UTF-8: {error.reason}") from error


def parse(text: str, path: str) -> DynamicConfig:
    """Parse a file, including unsupported keys. Raises InvalidDynamicConfig."""
    import yaml

    where = f"--dynamic-config-file {path}"
    try:
        given = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidDynamicConfig(f"{where} is not YAML: {' '.join(str(error).split())}") from None
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
            namespace = _namespace(where, key, constraints)
            if namespace is None:
                continue
            of_namespace = namespaces.setdefault(namespace, {}) if namespace else values
            of_namespace.setdefault(key.lower(), value)
            sources[namespace, key.lower()] = path
    return DynamicConfig(values, {name: of_name for name, of_name in namespaces.items() if of_name}, sources)


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


def _namespace(where: str, key: str, constraints: Mapping[str, object]) -> str | None:
    """Return the namespace that a value is for, empty for all; None if the value is to be ignored."""
    for name in constraints.keys() - CONSTRAINTS:
        raise InvalidDynamicConfig(f'{where}: "{name}" of the key "{key}" is no constraint')
    namespace = constraints.get("namespace", "")
    if not isinstance(namespace, str):
        raise InvalidDynamicConfig(f'{where}: the namespace of the key "{key}" is no text')
    others = constraints.keys() - {"namespace"}
    if key.lower() not in HONOURED:
        return ""  # `DynamicConfig.warn` reports the key itself
    if others or (namespace and key.lower() not in by_namespace()):
        names = ", ".join(sorted(others or {"namespace"}))
        log.warning("dynamic configuration key %s is not told apart by %s: that value is passed over", key, names)
        return None
    return namespace
