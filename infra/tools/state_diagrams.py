"""Draw the state machines of docs/architecture.md from the tables of their transitions."""

from __future__ import annotations

import sys
from pathlib import Path

from whistlestop.history.core.activity import machine
from whistlestop.history.core.nexus import machine as nexus_machine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"


def activity() -> str:
    """Return the diagram of a standalone activity."""
    initial = {machine.INITIAL: "[*]"}
    names = initial | {
        status: machine.A.Status.Name(status).title().replace("_", "")
        for status in {*machine.TRANSITIONS.values(), *machine.TERMINAL}
    }
    arrows = [
        (names[status], str(event), names[following]) for (status, event), following in machine.TRANSITIONS.items()
    ]
    return diagram(arrows, sorted(names[status] for status in machine.TERMINAL))


def operation() -> str:
    """Return the diagram of a Nexus operation."""
    table = nexus_machine.TRANSITIONS
    arrows = [("[*]", "schedule", str(nexus_machine.State.SCHEDULED))]
    arrows += [(str(state), str(event), str(following)) for (state, event), following in table.items()]
    return diagram(arrows, sorted({str(state) for state in table.values()} - {str(state) for state, _ in table}))


def diagram(arrows: list[tuple[str, str, str]], last: list[str]) -> str:
    """Return a Mermaid diagram with one arrow for each pair of states."""
    events: dict[tuple[str, str], list[str]] = {}
    for state, event, following in arrows:
        events.setdefault((state, following), []).append(event)
    lines = [f"    {state} --> {following}: {', '.join(names)}" for (state, following), names in events.items()]
    lines += [f"    {state} --> [*]" for state in last]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


DIAGRAMS = {"a standalone activity": activity, "a Nexus operation": operation}


def rendered(page: str) -> str:
    """Return the page with new diagrams."""
    for what, draw in DIAGRAMS.items():
        begin, end = f"<!-- states of {what}: begin -->", f"<!-- states of {what}: end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n{draw()}\n{end}{after}"
    return page


def main() -> int:
    """Rewrite the page; with `--check`, only return whether it is outdated (exit code 1)."""
    page = PAGE.read_text()
    fresh = rendered(page)
    if "--check" in sys.argv:
        return int(fresh != page)
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
