"""The dynamic configuration keys of Temporal's server, and how each is treated here.

The keys, their scopes, types and defaults are facts of Temporal 1.32 in `temporal_settings.tsv`, which
`infra/tools/temporal_settings.py` updates. Its last column is ours: why a key is not supported, as one of `REASONS`;
empty for a supported key. `dynamic_config` defines which keys are supported: a test compares the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FILE = Path(__file__).with_name("temporal_settings.tsv")
COLUMNS = ("key", "scope", "type", "default", "why not")
RELEASE = "1.32"

REASONS: Mapping[str, str] = {
    "always": "the feature that it enables is always enabled here",
    "never": "the feature that it enables does not exist here",
    "archival": "there is no archival",
    "replication": "this is a single cluster without replication",
    "rates": "request rates are not limited; what one caller may hold or request at a time is",
    "database": "the database is used in another way, with a connection pool of fixed size",
    "shards": "there are no shards with task queues: background work is found by scanning ranges of rows",
    "caches": "caches are bounded in another way, and correctness does not depend on them",
    "membership": "processes find each other in the database",
    "partitions": "a task queue has no partitions",
    "matching": "tasks are matched to polls in another way",
    "workers": "the server does this without internal workers that could be configured",
    "scanners": "there is nothing to scavenge: related rows are written and deleted in one transaction",
    "visibility": "lists are read from the same database as runs, and are exact when a transaction has committed",
    "health": "/healthz reports the health; there are no thresholds",
    "metrics": "the metrics are different, and their labels are bounded",
    "logs": "the log is configured in another way (--log-level)",
    "connections": "connections are limited by the server's own fixed limits",
    "bounded": "the limit is fixed",
    "versioning": "deployments are a single row, without internal workflows or caches",
    "admin": "the administrative service is not offered",
    "unused": "the server of Temporal does not use it either",
}
"""Why a key is not supported."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A key."""

    key: str
    scope: str
    """What its constraints may name: `Global` none, `Namespace` a namespace, `TaskQueue` a task queue, …"""
    kind: str
    default: str
    """As it would be configured; empty for a structure."""
    why: str
    """One of `REASONS`, or empty."""


def settings() -> list[Setting]:
    """Return all keys, sorted by name."""
    lines = FILE.read_text("utf-8").splitlines()[1:]
    return [Setting(*line.split("\t")) for line in lines]


def write(found: Iterable[Setting]) -> None:
    """Replace the file by one with these settings. Raise OSError."""
    lines = [f"{each.key}\t{each.scope}\t{each.kind}\t{each.default}\t{each.why}" for each in found]
    FILE.write_text("\n".join(["\t".join(COLUMNS), *lines, ""]), "utf-8")
