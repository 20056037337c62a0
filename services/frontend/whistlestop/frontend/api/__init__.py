"""One module per small group of RPCs; these tables bring them together by RPC name."""

from __future__ import annotations

from whistlestop.frontend.api import (
    batch,
    cluster,
    deployment_compute,
    deployment_routing,
    deployments,
    namespaces,
    nexus_endpoints,
    schedules,
    search_attributes,
    standalone_activities,
    standalone_nexus,
    start_workflow,
    task_queue,
    task_reachability,
    time_skipping,
    update_workflow,
    version_sets,
    versioning,
    versioning_rules,
    visibility,
    worker_tasks,
    workflow_execution,
    workflow_rules,
)
from whistlestop.frontend.api.rules import Handler, Rules, UnknownSearchAttribute, Validator

HANDLERS: dict[str, Handler] = {
    **batch.HANDLERS,
    **cluster.HANDLERS,
    **deployment_compute.HANDLERS,
    **deployment_routing.HANDLERS,
    **deployments.HANDLERS,
    **namespaces.HANDLERS,
    **nexus_endpoints.HANDLERS,
    **schedules.HANDLERS,
    **search_attributes.HANDLERS,
    **standalone_activities.HANDLERS,
    **standalone_nexus.HANDLERS,
    **task_reachability.HANDLERS,
    **version_sets.HANDLERS,
    **versioning_rules.HANDLERS,
    **visibility.HANDLERS,
    **workflow_rules.HANDLERS,
}
"""RPCs that the frontend serves itself."""

AROUND: dict[str, Handler] = {**task_reachability.AROUND, **worker_tasks.AROUND}
"""RPCs of another function for which there is something to do before or after the call."""

VALIDATORS: dict[str, Validator] = {
    **batch.VALIDATORS,
    **schedules.VALIDATORS,
    **standalone_activities.VALIDATORS,
    **standalone_nexus.VALIDATORS,
    **start_workflow.VALIDATORS,
    **task_queue.VALIDATORS,
    **task_reachability.VALIDATORS,
    **time_skipping.VALIDATORS,
    **update_workflow.VALIDATORS,
    **version_sets.VALIDATORS,
    **versioning.VALIDATORS,
    **versioning_rules.VALIDATORS,
    **worker_tasks.VALIDATORS,
    **workflow_execution.VALIDATORS,
}
"""Checks before an RPC is served, whoever serves it."""

__all__ = ["AROUND", "HANDLERS", "VALIDATORS", "Handler", "Rules", "UnknownSearchAttribute", "Validator"]
