"""Counts of the bridge's calls, each of which is a billed invocation if the target is a function."""

from __future__ import annotations

import warnings
from collections import Counter

PROBE, POLL, WAIT, HEARTBEAT, OTHER = "probe", "poll", "wait", "heartbeat", "call"
KINDS = (PROBE, POLL, WAIT, HEARTBEAT, OTHER)


class _ByKind(Counter[str]):
    """Counts by kind. Probes had another kind in release 0.1.0."""

    def __getitem__(self, kind: str) -> int:
        if kind == "look":
            warnings.warn('the kind "look" is called "probe" now', DeprecationWarning, stacklevel=2)
            kind = PROBE
        return super().__getitem__(kind)


class Counters:
    """Counters that only grow. `calls` is by kind: checks, polls, waits of clients, heartbeats, the rest."""

    def __init__(self) -> None:
        self.calls: Counter[str] = _ByKind()
        self.failures: Counter[str] = Counter()
        self.tasks = 0
        """Tasks handed to workers."""
        self.sqs = 0
        """Requests to a notification queue, which are not calls to the target."""
        self.bytes_out = 0
        self.bytes_in = 0

    @property
    def total(self) -> int:
        """Calls of all kinds."""
        return self.calls.total()

    def line(self, before: Counters | None = None) -> str:
        """Return a log line with the changes since `before`."""
        fields = {f"{kind}s": self.calls[kind] - (before.calls[kind] if before else 0) for kind in KINDS}
        fields["failed"] = self.failures.total() - (before.failures.total() if before else 0)
        fields["tasks"] = self.tasks - (before.tasks if before else 0)
        if self.sqs:
            fields["sqs"] = self.sqs - (before.sqs if before else 0)
        fields["calls_total"] = self.total
        return " ".join(f"{name}={value}" for name, value in fields.items())

    def copy(self) -> Counters:
        """Return a copy of the current values."""
        made = Counters()
        made.calls.update(self.calls)
        made.failures.update(self.failures)
        made.sqs, made.tasks, made.bytes_out, made.bytes_in = self.sqs, self.tasks, self.bytes_out, self.bytes_in
        return made
