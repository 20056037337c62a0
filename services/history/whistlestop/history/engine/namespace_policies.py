"""The policies of namespaces, which the engine reads once for each transition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whistlestop.history.core.transition.namespace_policy import NamespacePolicy

if TYPE_CHECKING:
    from whistlestop.storage.deployments import Deployments
    from whistlestop.storage.namespaces import Namespace, NamespaceCache

_MOST = 10_000


class NamespacePolicies:
    """Policies by namespace. One is made anew when its namespace or the deployments of it were read anew."""

    def __init__(
        self, namespaces: NamespaceCache, deployments: Deployments, *, retains_closed_runs: bool = False
    ) -> None:
        self._namespaces = namespaces
        self.deployments = deployments
        self._retains_closed_runs = retains_closed_runs
        """Whether closed runs are retained for ever, whatever the namespace says."""
        self._known: dict[str, tuple[Namespace | None, NamespacePolicy]] = {}

    async def of(self, namespace_id: str) -> NamespacePolicy:
        """Return the policy of a namespace; one of nothing but its deployments if it is unknown. Raise StorageError."""
        namespace = await self._namespaces.by_id(namespace_id)
        deployments = await self.deployments.cached(namespace_id)
        known = self._known.get(namespace_id)
        if known is not None and known[0] is namespace and known[1].deployments is deployments:
            return known[1]
        if namespace is None:
            policy = NamespacePolicy(deployments=deployments)
        else:
            retention_ns = 0 if self._retains_closed_runs else namespace.retention_ns
            policy = NamespacePolicy(
                retention_ns, namespace.workflow_rules, namespace.custom_search_attributes, deployments
            )
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[namespace_id] = (namespace, policy)
        return policy
