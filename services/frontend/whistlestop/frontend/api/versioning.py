"""What workers and clients say of worker deployments: names, build ids, and overrides of a workflow's version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from temporalio.api.enums.v1.deployment_pb2 import WorkerVersioningMode
from temporalio.api.enums.v1.workflow_pb2 import VersioningBehavior

from whistlestop.common.errors import invalid_argument

if TYPE_CHECKING:
    from temporalio.api.deployment.v1.message_pb2 import WorkerDeploymentOptions
    from temporalio.api.workflow.v1.message_pb2 import VersioningOverride

    from whistlestop.frontend.api.rules import Rules

_NAME, _BUILD = "WorkerDeploymentName", "BuildID"
# Both parts together name a workflow of the real server's; this is what its prefix takes of an id's length.
_PREFIX_LENGTH = 39


def check_deployment_options(options: WorkerDeploymentOptions, rules: Rules) -> None:
    """A versioned worker names its deployment and its build."""
    if options.worker_versioning_mode != WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED:
        return
    if not options.deployment_name or not options.build_id:
        raise invalid_argument("Deployment name and build id must be set together.")
    check_version(options.deployment_name, options.build_id, rules)


def check_version(deployment_name: str, build_id: str, rules: Rules) -> None:
    """Both parts of a deployment version."""
    _check_part(_NAME, deployment_name, rules)
    for mark in (".", ":"):
        if mark in deployment_name:
            raise invalid_argument(f"worker deployment name cannot contain '{mark}'")
    _check_start(_NAME, deployment_name)
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
    """The form of a start's override; whether its version is there is looked up before the call goes on."""
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
    """The form of before, with a behavior and a version string."""
    if override.behavior == VersioningBehavior.VERSIONING_BEHAVIOR_PINNED:
        if override.HasField("deployment"):
            return
        if not override.pinned_version:
            raise invalid_argument(
                "must provide deployment (deprecated) or pinned version if behavior is 'PINNED'"
            )
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
