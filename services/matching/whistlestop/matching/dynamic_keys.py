"""The keys of dynamic configuration that configure matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MATCHING_KEYS: Mapping[str, str] = {
    "matching.longpollexpirationinterval": "long_poll_s",
    "matching.maxfairnesskeyweightoverrides": "fairness_overrides",
    "limit.maxidlength": "max_id_length",
    "matching.pollerhistoryttl": "poller_ttl_s",
    "matching.workerregistryentryttl": "heartbeat_ttl_s",
    "matching.pollerscalingwaittime": "scale_down_wait_s",
    "matching.pollerscalingminimumbacklog": "scale_up_backlog_age_s",
    "matching.pollerscalingdecisionspersecond": "scale_decisions_per_s",
    "matching.pollerscalingtaskaddtodispatchratio": "scale_up_ratio",
    "matching.maxdeployments": "max_deployments",
    "matching.maxversionsindeployment": "max_versions",
    "matching.maxtaskqueuesindeploymentversion": "max_queues_in_version",
    "matching.maxversionsintaskqueue": "max_versions_of_queue",
    "workercontroller.compute_providers.aws.require_role_and_external_id": "push_require_role",
    "workercontroller.compute_providers.webhook.allowed_addresses": "push_webhook_addresses",
}
"""Key (in lower case) -> field of whistlestop.matching.config.MatchingConfig."""
