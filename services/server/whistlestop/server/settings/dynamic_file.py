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
from pathlib import Path

from whistlestop.common.dynamic_config import InvalidDynamicConfig
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.server.settings.dynamic_config import DynamicConfig, is_by_namespace

MAX_BYTES = 1 << 20


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
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise InvalidDynamicConfig(f"--dynamic-config-file {self.path}: {error.strerror}") from error
        if len(data) > MAX_BYTES:
            raise InvalidDynamicConfig(f"--dynamic-config-file {self.path} has more than {MAX_BYTES} bytes")
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
    return DynamicConfig.of_document(given, where, path, is_by_namespace)


def document_of(path: str) -> str:
    """Return the file as JSON, as functions take it; warn of keys that change nothing. Raises InvalidDynamicConfig."""
    found = DynamicSource(path, DynamicConfig({})).read()
    found.warn()
    return json.dumps(found.document(), separators=(",", ":"))
