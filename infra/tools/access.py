"""Generate the table of docs/security.md that says which role may call which RPC.

The table is not derived from rules in this file: `AccessControl` is asked about each RPC and role.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from whistlestop.common.clock import SystemClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import ServiceError
from whistlestop.frontend.auth.access import AccessControl
from whistlestop.frontend.auth.config import AuthConfig
from whistlestop.frontend.auth.grants import SYSTEM, Role
from whistlestop.frontend.auth.keys import ApiKey, hash_of, new_key, render
from whistlestop.frontend.own_rpcs import OWN_REGISTRY
from whistlestop.frontend.registry import REGISTRY, RpcSpec

if TYPE_CHECKING:
    from whistlestop.storage.namespaces import NamespaceCache

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- who may do what: begin -->", "<!-- who may do what: end -->"
NAMESPACE = "orders"
ROLES = ("read", "worker", "write", "admin")
"""As written in grants; `table` asserts that `Role` has the same ones."""
_NOBODY = "no role"


class Callers:
    """An API key for each role in each place, and an `AccessControl` that knows them."""

    def __init__(self) -> None:
        grants = [f"{place}:{role}" for place in (NAMESPACE, SYSTEM) for role in ROLES]
        self._secrets = {grant: new_key() for grant in [*grants, "elsewhere:admin"]}
        keys = [ApiKey(grant, hash_of(secret), (grant,)) for grant, secret in self._secrets.items()]
        # Only task tokens need a namespace cache, and no request in this file has one.
        namespaces = cast("NamespaceCache", None)
        self._control = AccessControl(AuthConfig(render(keys)), namespaces, SystemClock())

    async def may(self, spec: RpcSpec, grant: str, field: str = "") -> bool:
        """Return whether a caller with this grant may make the call in the namespace, with `field` set if given."""
        request = spec.request_type()
        if field:
            getattr(request, field).SetInParent()
        if spec.namespaced:
            request.namespace = NAMESPACE  # type: ignore[attr-defined]  # `namespaced` says that it is there
        headers = {"authorization": f"Bearer {self._secrets[grant]}"} if grant else {}
        try:
            await self._control.admit(spec, request, CallContext(headers=headers))
        except ServiceError:
            return False
        return True

    async def row(self, spec: RpcSpec, field: str = "") -> tuple[str, str]:
        """Return who may call: by a role in the request's namespace, and by a role in `temporal-system`."""
        if await self.may(spec, "", field):
            return "everybody", "everybody"
        if await self.may(spec, "elsewhere:admin", field):
            return "any role in any namespace", "any role"
        return (
            _joined([role for role in ROLES if await self.may(spec, f"{NAMESPACE}:{role}", field)]),
            _joined([role for role in ROLES if await self.may(spec, f"{SYSTEM}:{role}", field)]),
        )


def _joined(roles: list[str]) -> str:
    return ", ".join(f"`{role}`" for role in roles) or _NOBODY


async def table() -> str:
    """Return the table, with one row for all RPCs that the same callers may make."""
    assert {f"{role.name}".lower() for role in Role if role} == set(ROLES)
    callers = Callers()
    groups: dict[tuple[str, str], list[str]] = {}
    for spec in dict.fromkeys((REGISTRY | OWN_REGISTRY).values()):
        groups.setdefault(await callers.row(spec), []).append(spec.method)
        for field in spec.admin_fields:
            groups.setdefault(await callers.row(spec, field), []).append(f"{spec.method} with a {field}")
    lines = ["| role in the namespace | or role in `temporal-system` | RPCs |", "|---|---|---|"]
    for (inside, system), methods in sorted(groups.items(), key=lambda each: (each[0][0].count("`"), each[0])):
        lines.append(f"| {inside} | {system} | {', '.join(sorted(methods))} |")
    return "\n".join(lines)


def rendered(page: str) -> str:
    """Return the page with a new table."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{asyncio.run(table())}\n{END}{after}"


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
