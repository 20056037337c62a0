"""Compute configs of deployment versions: apply updates and validate.

These functions are pure. What a provider's details mean is left to matching, which starts the workers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from temporalio.api.compute.v1 import config_pb2 as compute_pb
from temporalio.api.enums.v1.task_queue_pb2 import TaskQueueType

from whistlestop.common.errors import invalid_argument
from whistlestop.common.messages.enum_names import enum_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from temporalio.api.common.v1.message_pb2 import Payload
    from temporalio.api.compute.v1.config_pb2 import ComputeConfig, ComputeConfigScalingGroup

PROVIDERS = frozenset(
    {"aws-lambda", "aws-ecs", "subprocess", "k8s", "gcp-cloud-run", "test-invoke", "test-worker-set", "webhook"}
)
"""Types that Temporal knows, and `webhook`, which is ours. Matching reports which of them it supports."""
_SCALERS = frozenset({"no-sync", "rate-based"})
MASK = "***"
"""Replaces a secret in descriptions; in an update it means that the secret is unchanged."""


def updated(
    current: ComputeConfig,
    upserts: Mapping[str, compute_pb.ComputeConfigScalingGroupUpdate],
    removes: Iterable[str],
) -> ComputeConfig:
    """Return the config after an update; it may have no group left. Raises INVALID_ARGUMENT for a bad mask."""
    wanted = compute_pb.ComputeConfig()
    wanted.CopyFrom(current)
    for name, update in sorted(upserts.items()):
        if name not in wanted.scaling_groups:
            wanted.scaling_groups[name].CopyFrom(update.scaling_group)
        for path in update.update_mask.paths if name in current.scaling_groups else ():
            _apply(wanted.scaling_groups[name], update.scaling_group, path)
        _keep_secret(wanted.scaling_groups[name], current.scaling_groups.get(name))
    for name in removes:
        wanted.scaling_groups.pop(name, None)
    return wanted


def _apply(group: ComputeConfigScalingGroup, source: ComputeConfigScalingGroup, path: str) -> None:
    if path in ("scaler.type", "scaler.details") and not source.HasField("scaler"):
        raise invalid_argument(f"{path} set in field mask, but not provided")
    if path == "task_queue_types":
        group.ClearField("task_queue_types")
        group.task_queue_types.extend(source.task_queue_types)
        return
    outer, _, inner = path.partition(".")
    if path in {"provider", "scaler"}:
        _copy(group, source, outer)
    elif path in ("provider.type", "provider.details", "provider.nexus_endpoint", "scaler.type", "scaler.details"):
        _copy(getattr(group, outer), getattr(source, outer), inner)
        getattr(group, outer).SetInParent()
    else:
        raise invalid_argument(f'unsupported field mask path: "{path}"')


def _copy(target: Any, source: Any, name: str) -> None:
    value = getattr(source, name)
    if isinstance(value, str):
        setattr(target, name, value)
    elif source.HasField(name):
        getattr(target, name).CopyFrom(value)
    else:
        target.ClearField(name)


def check(config: ComputeConfig) -> None:
    """Refuse a config that no provider could use. Raises INVALID_ARGUMENT in Temporal's words."""
    if not config.scaling_groups:
        raise invalid_argument("spec must have at least one entry")
    seen: set[int] = set()
    has_catch_all = False
    for name, group in sorted(config.scaling_groups.items()):
        if not name:
            raise invalid_argument("scaling groups without an ID are not supported")
        if not group.task_queue_types:
            if has_catch_all:
                raise invalid_argument(f"entry {name}: only one scaling group can have no task types defined")
            has_catch_all = True
        for kind in group.task_queue_types:
            if kind in seen:
                type_name = enum_name(TaskQueueType, kind).removeprefix("TASK_QUEUE_TYPE_").capitalize()
                raise invalid_argument(f"entry {name}: task type {type_name} appears in more than one entry")
            if not kind:
                raise invalid_argument(f"entry {name}: task type undefined not allowed in compute spec")
            seen.add(kind)
        if group.provider.type not in PROVIDERS:
            raise invalid_argument(f"entry {name}: invalid compute provider type '{group.provider.type}'")
        if group.HasField("scaler") and group.scaler.type not in _SCALERS:
            raise invalid_argument(f"entry {name}: invalid scaling algorithm type '{group.scaler.type}'")


def summary(config: ComputeConfig) -> compute_pb.ComputeConfigSummary:
    """Return each scaling group's task types and provider, as lists show them; empty without groups."""
    short = compute_pb.ComputeConfigSummary()
    for name, group in config.scaling_groups.items():
        short.scaling_groups[name].task_queue_types.extend(group.task_queue_types)
        short.scaling_groups[name].provider_type = group.provider.type
    return short


# ---- secrets ---------------------------------------------------------------------------------------------------------


def _details(payload: Payload) -> dict[str, Any]:
    try:
        found = json.loads(payload.data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def hide_secrets(config: ComputeConfig) -> None:
    """Mask the secrets of a config before it is shown."""
    for group in config.scaling_groups.values():
        details = _details(group.provider.details)
        if "secret" in details:
            group.provider.details.data = json.dumps(details | {"secret": MASK}).encode()


def _keep_secret(group: ComputeConfigScalingGroup, before: ComputeConfigScalingGroup | None) -> None:
    """Restore the secret that a description masked, if the update sends it back masked."""
    details = _details(group.provider.details)
    if before is None or details.get("secret") != MASK:
        return
    kept = _details(before.provider.details).get("secret")
    if kept is not None:
        group.provider.details.data = json.dumps(details | {"secret": kept}).encode()
