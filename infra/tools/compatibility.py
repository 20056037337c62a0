"""Generate the tables of docs/compatibility.md from the registry and the table of command handlers."""

from __future__ import annotations

import sys
from pathlib import Path

from temporalio.api.enums.v1 import command_type_pb2 as ct

from whistlestop.common.errors import Code
from whistlestop.frontend.registry import AS_TEMPORAL, REGISTRY, RpcSpec, Served
from whistlestop.history.core.command_handlers import HANDLERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"


def tables() -> str:
    """Return tables of all RPCs and command types, and how each is handled."""
    served = [spec for spec in REGISTRY.values() if spec.served is not Served.UNIMPLEMENTED]
    lines = [
        f"Served: {len(served)} of {len(REGISTRY)} RPCs, {len(HANDLERS)} of {len(ct.CommandType.keys()) - 1} commands.",
        "",
        "### RPCs",
        "",
        "| RPC | answered by |",
        "|---|---|",
    ]
    for spec in sorted(REGISTRY.values(), key=lambda spec: (spec.service, spec.method)):
        name = f"{spec.service.rpartition('.')[2]}.{spec.method}"
        reason = spec.feature.value if spec.feature is not None else ""
        lines.append(
            f"| {name} | {f'{_code(spec)}: {reason}' if spec.served is Served.UNIMPLEMENTED else spec.served.value} |"
        )
    lines += ["", "### Commands", "", "| command | |", "|---|---|"]
    for name, number in sorted(ct.CommandType.items()):
        if number:
            lines.append(f"| {name} | {'yes' if number in HANDLERS else 'not yet'} |")
    return "\n".join(lines)


def _code(spec: RpcSpec) -> str:
    code, _ = AS_TEMPORAL.get(spec.feature, (Code.UNIMPLEMENTED, "")) if spec.feature else (Code.UNIMPLEMENTED, "")
    return code.name


def rendered(page: str) -> str:
    """Return the page with new tables."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def main() -> int:
    """Rewrite the page; with `--check`, only return whether it is outdated (exit code 1)."""
    page = PAGE.read_text()
    fresh = rendered(page)
    if "--check" in sys.argv:
        return int(page != fresh)
    PAGE.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
