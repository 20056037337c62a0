"""Draw the state machines of docs/architecture.md from the tables of their transitions."""

from __future__ import annotations

import sys
from pathlib import Path

from whistlestop.history.core.activity import machine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
BEGIN, END = "<!-- states of a standalone activity: begin -->", "<!-- states of a standalone activity: end -->"


def diagram() -> str:
    """Return the states of a standalone activity as a Mermaid diagram, one arrow for each pair of states."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (status, event), following in machine.TRANSITIONS.items():
        arrows.setdefault((_name(status), _name(following)), []).append(str(event))
    lines = [f"    {status} --> {following}: {', '.join(events)}" for (status, following), events in arrows.items()]
    lines += [f"    {_name(status)} --> [*]" for status in sorted(machine.TERMINAL)]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def _name(status: machine.A.Status.ValueType) -> str:
    if status == machine.INITIAL:
        return "[*]"
    return machine.A.Status.Name(status).title().replace("_", "")


def rendered(page: str) -> str:
    """Return the page with a new diagram."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{diagram()}\n{END}{after}"


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
