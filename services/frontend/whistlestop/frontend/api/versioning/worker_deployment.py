"""Worker deployments in requests of workers and clients: names, build ids, and overrides of a workflow's version."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1.deployment_pb2 import WorkerVersioningMode
from temporalio.api.enums.v1.workflow_pb2 import VersioningBehavior
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from whistlestop.common.errors import invalid_argument
from whistlestop.common.rpcs.workflow_service import WorkflowService
from whistlestop.frontend.api.rules import validates

if TYPE_CHECKING:
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentOptions
    from temporalio.api.workflow.v1.message_pb2 import VersioningOverride

    from whistlestop.frontend.api.rules import Rules
    from whistlestop.storage.namespaces import Namespace

_NAME, _BUILD = "WorkerDeploymentName", "BuildID"
# The real server names an internal workflow by both parts; this is the length of its id's prefix.
_PREFIX_LENGTH = 39
_NAME_MARKS = re.compile("[.:]")
"""Separators of name and build id in the textual form of a version."""


def check_deployment_options(options: WorkerDeploymentOptions, rules: Rules) -> None:
    """Check that a versioned worker names its deployment and its build id. Raise INVALID_ARGUMENT."""
    if options.worker_versioning_mode != WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED:
        return
    if not options.deployment_name or not options.build_id:
        raise invalid_argument("Deployment name and build id must be set together.")
    check_version(options.deployment_name, options.build_id, rules)


def check_version(deployment_name: str, build_id: str, rules: Rules) -> None:
    """Check both parts of a deployment version. Raise INVALID_ARGUMENT."""
    check_deployment_name(deployment_name, rules)
    check_build_id(build_id, rules)


def check_deployment_name(deployment_name: str, rules: Rules) -> None:
    """Check the name of a deployment, which need not exist. Raise INVALID_ARGUMENT."""
    _check_part(_NAME, deployment_name, rules)
    for mark in (".", ":"):
        if mark in deployment_name:
            raise invalid_argument(f"worker deployment name cannot contain '{mark}'")
    _check_start(_NAME, deployment_name)


def check_build_id(build_id: str, rules: Rules) -> None:
    """Check the build id of a version, which need not exist. Raise INVALID_ARGUMENT."""
    _check_part(_BUILD, build_id, rules)
    _check_start(_BUILD, build_id)


def _check_part(field: str, value: str, rules: Rules) -> None:
    if not value:
        raise invalid_argument(f"{field} cannot be empty")
    if len(value.encode()) > (rules.config.max_id_length - _PREFIX_LENGTH) // 2:
        raise invalid_argument(f"size of {field} larger than the maximum allowed")


def _check_start(field: str, value: str) -> None:
    if value.startswith("__"):
        raise invalid_argument(f"{field} cannot start with '__'")


def check_override(override: VersioningOverride, task_queue: str) -> None:
    """Check the form of an override. Whether its version exists is checked before the call goes on.

    Raise INVALID_ARGUMENT.
    """
    kind = override.WhichOneof("override")
    if kind == "auto_upgrade":
        if not override.auto_upgrade:
            raise invalid_argument("auto-upgrade override must be true")
    elif kind == "pinned":
        if not override.pinned.HasField("version"):
            raise invalid_argument("must provide version if override is pinned.")
        if not override.pinned.behavior:
            raise invalid_argument("must specify pinned override behavior if override is pinned.")
    elif kind == "one_time":
        if not override.one_time.HasField("target_deployment_version"):
            raise invalid_argument("must provide target deployment version if override is one-time.")
    else:
        _check_older_override(override, task_queue)


def _check_older_override(override: VersioningOverride, task_queue: str) -> None:
    """Check the deprecated form, with a behavior and a version string."""
    if override.behavior == VersioningBehavior.VERSIONING_BEHAVIOR_PINNED:
        if override.HasField("deployment"):
            return
        if not override.pinned_version:
            raise invalid_argument("must provide deployment (deprecated) or pinned version if behavior is 'PINNED'")
        _, separator, _ = override.pinned_version.partition(".")
        if not separator:
            raise invalid_argument(
                f"invalid version string {json.dumps(override.pinned_version)}, "
                'expected format is "<deployment_name>.<build_id>"'
            )
        return
    if override.behavior == VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE:
        if override.HasField("deployment"):
            raise invalid_argument("only provide deployment if behavior is 'PINNED'")
        if override.pinned_version:
            raise invalid_argument("only provide pinned version if behavior is 'PINNED'")
    elif not override.behavior:
        raise invalid_argument("override behavior is required")
    else:
        raise invalid_argument(f"override behavior {override.behavior} not recognized")


# ---- the RPCs of deployments ----------------------------------------------------------------------------------------


@validates(
    WorkflowService.DeleteWorkerDeployment,
    WorkflowService.DescribeWorkerDeployment,
    WorkflowService.SetWorkerDeploymentManager,
)
def _check_deployment(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check the name of a deployment that may or may not exist."""
    if isinstance(request, service_pb.SetWorkerDeploymentManagerRequest) and not request.identity:
        raise invalid_argument("Identity is required")
    check_deployment_name(request.deployment_name, rules)


@validates(WorkflowService.CreateWorkerDeployment)
def _check_new_deployment(
    request: service_pb.CreateWorkerDeploymentRequest, namespace: Namespace | None, rules: Rules
) -> None:
    if not request.deployment_name:
        raise invalid_argument("deployment name cannot be empty")
    check_deployment_name(request.deployment_name, rules)


@validates(WorkflowService.CreateWorkerDeploymentVersion)
def _check_new_version(
    request: service_pb.CreateWorkerDeploymentVersionRequest, namespace: Namespace | None, rules: Rules
) -> None:
    version = request.deployment_version
    if not version.deployment_name:
        raise invalid_argument("deployment name cannot be empty")
    if not version.build_id:
        raise invalid_argument("build ID cannot be empty")
    check_version(version.deployment_name, version.build_id, rules)


@validates(WorkflowService.DeleteWorkerDeploymentVersion, WorkflowService.DescribeWorkerDeploymentVersion)
def _check_named_version(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check the name of a version that may or may not exist. For a deletion, the deployment is looked up first."""
    name, build_id = request.deployment_version.deployment_name, request.deployment_version.build_id
    given = request.HasField("deployment_version")
    if not given:
        name, _, build_id = request.version.partition(".")
    if not (given or request.version) and isinstance(request, service_pb.DescribeWorkerDeploymentVersionRequest):
        raise invalid_argument("deployment version cannot be empty")
    if not name or not build_id:
        version_name = request.version or (f"{name}.{build_id}" if given else "")
        raise invalid_argument(
            f'invalid version string "{version_name}", expected format is "<deployment_name>.<build_id>"'
        )
    name = _NAME_MARKS.split(name)[0]
    _check_part(_NAME, name, rules)
    _check_start(_NAME, name)
    if isinstance(request, service_pb.DescribeWorkerDeploymentVersionRequest):
        check_build_id(build_id, rules)


@validates(WorkflowService.SetWorkerDeploymentCurrentVersion, WorkflowService.SetWorkerDeploymentRampingVersion)
def _check_routed(request: Any, namespace: Namespace | None, rules: Rules) -> None:
    """Check the version to become current or ramping. Whether its build id exists is checked later."""
    name, build_id = request.deployment_name, request.build_id
    if not name and isinstance(request, service_pb.SetWorkerDeploymentRampingVersionRequest) and build_id:
        raise invalid_argument(f"invalid version string: deployment name is empty in version string .{build_id}")
    if not name:
        raise invalid_argument("deployment name cannot be empty")
    if build_id and _NAME_MARKS.search(name):
        raise invalid_argument(f"invalid version string '{name}.{build_id}' does not match deployment name '{name}'")
    check_deployment_name(name, rules)
