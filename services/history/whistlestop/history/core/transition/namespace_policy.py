"""What a transition has to know of the namespace of its run."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.versioning.deployments import EMPTY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from temporalio.api.rules.v1 import message_pb2 as rules_pb

    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.storage.visibility import AttributeType


@dataclass(frozen=True, slots=True)
class NamespacePolicy:
    """The settings of one namespace, as read for one transition. The defaults are those of an unknown namespace."""

    retention_ns: int = 0
    """How long closed runs are retained, in nanoseconds; 0: for ever, or unknown."""
    rules: Sequence[rules_pb.WorkflowRule] = ()
    """The workflow rules."""
    search_attributes: Mapping[str, AttributeType] = field(default_factory=dict)
    """The types of the custom search attributes."""
    deployments: NamespaceDeployments = field(default_factory=lambda: EMPTY)
    """The worker deployments. Do not modify them."""


UNKNOWN = NamespacePolicy()
