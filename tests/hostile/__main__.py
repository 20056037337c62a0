"""Print the table of attacks: `python -m tests.hostile [--only TEXT] [--against PORT PID] [--http]`.

Without arguments, all attacks are made on a server of ours in a process of its own. With `--against`, those on the
gRPC endpoint (with `--http`, those on HTTP/1.1) are made on another server that listens on a port of this machine
(grpc-go or nginx, say): what it used is read from its process, and it has no event loop whose turns could be measured.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hostile import h2_attacks, http_attacks
from tests.hostile.harness import TABLE_HEAD, UNIT_S, Attacker, Cost, Victim
from tests.hostile.victim import unit_s

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAUSE_S = 0.5
"""For what the end of an attack costs, so that the next one is not charged with it."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Foreign:
    """A server that knows nothing of this."""

    def __init__(self, port: int, pid: int) -> None:
        self.ports = {"grpc": port, "http": port}
        self._unit_s = unit_s()
        self._process = Path("/proc") / str(pid)

    @contextmanager
    def watched(self, name: str) -> Iterator[Cost]:
        cost = Cost(name)
        (self._process / "clear_refs").write_text("5", "utf-8")
        began_s, size = self._cpu_s(), self._memory("VmRSS")
        yield cost
        cost.cpu_s = (self._cpu_s() - began_s) * UNIT_S / self._unit_s
        cost.peak = self._memory("VmHWM") - size

    def _cpu_s(self) -> float:
        fields = (self._process / "stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _memory(self, name: str) -> int:
        lines = (self._process / "status").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.hostile", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="attacks whose name has this in it")
    parser.add_argument("--against", nargs=2, type=int, metavar=("PORT", "PID"), help="another server")
    parser.add_argument("--http", action="store_true", help="with --against: it speaks HTTP/1.1")
    asked = parser.parse_args()
    kinds = [("grpc", h2_attacks.ATTACKS), ("http", http_attacks.ATTACKS)]
    victim: Victim | Foreign
    if asked.against:
        victim = Foreign(*asked.against)
        kinds = kinds[1:] if asked.http else kinds[:1]
    else:
        victim = Victim.start()
    print(f"A fixed piece of work takes {unit_s() * 1000:.2f} ms of CPU on this machine.\n\n{TABLE_HEAD}", flush=True)
    try:
        for port, attacks in kinds:
            for name in attacks:
                if asked.only.lower() in name.lower():
                    with victim.watched(name) as cost, Attacker(victim.ports[port], cost) as attacker:
                        attacks[name](attacker)
                    print(cost.row(), flush=True)
                    time.sleep(_PAUSE_S)
    finally:
        if isinstance(victim, Victim):
            victim.stop()


if __name__ == "__main__":
    main()
