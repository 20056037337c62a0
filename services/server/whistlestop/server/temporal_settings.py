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
    "always": "what it switches on is always on here",
    "never": "what it switches on is not there",
    "archival": "there is no archival",
    "replication": "this is a single cluster, which replicates nothing",
    "rates": "requests are not limited by their rate; what one caller may hold or ask for at once is bounded",
    "database": "the database is used in another way; the pool has flags of its own (--database-pool-max)",
    "shards": "there are no shards with queues of tasks: work in the background is found by ranges of rows",
    "caches": "what is remembered is bounded in another way, and is not needed to be right",
    "membership": "processes find each other in the database",
    "partitions": "a task queue has no partitions",
    "matching": "tasks are matched to polls in another way",
    "workers": "the server does this without workers of its own that could be configured",
    "scanners": "nothing has to be scavenged: what belongs together is written and deleted in one transaction",
    "visibility": "lists are read from the database of the runs, and are exact as soon as a transaction is over",
    "health": "health is what /healthz says; there are no thresholds to set",
    "metrics": "the metrics are others, and have bounded labels",
    "logs": "the log is bounded in another way (--log-level)",
    "connections": "connections are kept and closed by the server's own limits",
    "bounded": "it is bounded by a limit that can't be changed",
    "versioning": "deployments are one row, read and written without workflows or caches of their own",
    "admin": "the administrative service is not offered",
    "later": "not yet",
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
    """Replace the file."""
    lines = [f"{each.key}\t{each.scope}\t{each.kind}\t{each.default}\t{each.why}" for each in found]
    FILE.write_text("\n".join(["\t".join(COLUMNS), *lines, ""]), "utf-8")
