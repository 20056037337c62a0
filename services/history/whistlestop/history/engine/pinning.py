"""Runs that a client pins to a version that had no work."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from whistlestop.common.errors import ServiceError
from whistlestop.common.versioning import drainage
from whistlestop.common.versioning.deployments import find_version_info, version_string
from whistlestop.storage.errors import StorageError

if TYPE_CHECKING:
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo

    from whistlestop.common.clock import Clock
    from whistlestop.common.proto.deployment_pb2 import NamespaceDeployments
    from whistlestop.common.versioning.deployments import Version
    from whistlestop.storage.deployments import Deployments

log = logging.getLogger(__name__)


async def reactivate(deployments: Deployments, clock: Clock, namespace_id: str, version: Version) -> None:
    """Mark an INACTIVE or DRAINED version as draining again, because a run has been pinned to it.

    Raise StorageError.
    """

    def find(known: NamespaceDeployments) -> WorkerDeploymentVersionInfo | None:
        info = find_version_info(known, version)
        return info if info is not None and drainage.is_idle(info) else None

    def change(known: NamespaceDeployments) -> None:
        if (info := find(known)) is not None:
            drainage.begin(info, clock.now_ns())

    try:
        if find(await deployments.cached(namespace_id)) is not None:
            await deployments.change(namespace_id, change)
    except (ServiceError, StorageError) as error:
        # The run is pinned already, so its caller must not see this; the version is only shown as idle.
        log.warning("version %s could not be marked as draining: %s", version_string(version), error)
