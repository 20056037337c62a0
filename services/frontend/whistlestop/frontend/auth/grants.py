"""Roles in namespaces: what a key or a token grants, and what an RPC requires.

Grants are written `namespace:role`, as in the `permissions` claim of Temporal's default claim mapper; the namespace
`temporal-system` stands for all namespaces and the cluster.
"""

from __future__ import annotations

from dataclasses import field
from enum import IntFlag
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.frontend.registry import Access

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SYSTEM = "temporal-system"


class Role(IntFlag):
    """Roles, which may be combined."""

    NONE = 0
    WORKER = 1
    READ = 2
    WRITE = 4
    ADMIN = 8


_ROLES = {role.name.lower(): role for role in Role if role.name}
_ALLOWING: Mapping[Access, Role] = {
    Access.READ: Role.READ | Role.WRITE | Role.ADMIN,
    Access.WORKER: Role.WORKER | Role.WRITE | Role.ADMIN,
    Access.WRITE: Role.WRITE | Role.ADMIN,
    Access.ADMIN: Role.ADMIN,
}
_READ_BY_WORKERS = frozenset({"DescribeNamespace", "GetWorkflowExecutionHistory"})
"""Read RPCs for workers: they describe their namespace at the start, and page through histories to replay."""


class BadGrant(ValueError):
    """The text is not a grant; the message is one line."""


@dataclass(frozen=True, slots=True)
class Claims:
    """An authenticated caller and its roles."""

    subject: str
    system: Role = Role.NONE
    namespaces: Mapping[str, Role] = field(default_factory=dict)

    def has(self, one_of: Role, namespace: str) -> bool:
        """Return whether the caller has one of these roles in the namespace (empty: the cluster) or in the system."""
        return bool((self.system | self.namespaces.get(namespace, Role.NONE)) & one_of)

    @property
    def sees(self) -> frozenset[str] | None:
        """The namespaces that the caller may see; None means all."""
        return None if self.system else frozenset(name for name, role in self.namespaces.items() if role)


def roles_for(access: Access, method: str = "") -> Role:
    """Return the roles any one of which allows a call of `method` that needs this access."""
    allowing = _ALLOWING[access]
    return allowing | Role.WORKER if method in _READ_BY_WORKERS else allowing


def parse_grant(text: str) -> tuple[str, Role]:
    """Return the namespace and the role of `namespace:role`. Raise BadGrant for any other text."""
    namespace, _, name = text.rpartition(":")
    role = _ROLES.get(name.lower())
    if not namespace or role is None:
        raise BadGrant(f'grant "{text}" is not NAMESPACE:ROLE with a role of {", ".join(_ROLES)}')
    return namespace, role


def claims_of(subject: str, grants: Iterable[tuple[str, Role]]) -> Claims:
    """Return the claims of a caller with these grants."""
    system = Role.NONE
    namespaces: dict[str, Role] = {}
    for namespace, role in grants:
        if namespace == SYSTEM:
            system |= role
        else:
            namespaces[namespace] = namespaces.get(namespace, Role.NONE) | role
    return Claims(subject, system, namespaces)
