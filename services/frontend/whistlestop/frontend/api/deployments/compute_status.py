"""The status of the targets that start a version's workers, for descriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.api.deployment.v1 import message_pb2 as deployment_pb

from whistlestop.common.proto.deployment_pb2 import PushRow
from whistlestop.common.versioning.deployments import push_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentVersionInfo

    from whistlestop.common.context import CallContext
    from whistlestop.common.proto.deployment_pb2 import DeploymentData
    from whistlestop.frontend.ports import FrontendPorts


async def compute_status(
    frontend: FrontendPorts, context: CallContext, data: DeploymentData, infos: Iterable[WorkerDeploymentVersionInfo]
) -> dict[str, deployment_pb.ComputeStatus]:
    """Return, by build id, the result of the last check of the targets, or of the last start of workers.

    Raise StorageError.
    """
    statuses = {}
    for info in infos:
        build_id = info.deployment_version.build_id
        if build_id not in data.notes or not data.notes[build_id].HasField("compute_status"):
            continue
        status = deployment_pb.ComputeStatus()
        status.CopyFrom(data.notes[build_id].compute_status)
        statuses[build_id] = status
        if not info.compute_config.scaling_groups:
            continue
        record = await frontend.store.get_task_queue(context.namespace_id, push_row(info.deployment_version), 0)
        row = PushRow() if record is None else PushRow.FromString(record.data)
        checked = status.provider_validation
        errors = []
        for name, group in sorted(row.groups.items()):
            if name not in info.compute_config.scaling_groups:
                continue
            if group.error:
                errors.append(f"{name}: {group.error} (failures in a row: {group.failures})")
            if group.checked_ns > checked.last_check_time.ToNanoseconds():
                checked.last_check_time.FromNanoseconds(group.checked_ns)
        checked.error_message = "; ".join(errors)
    return statuses
