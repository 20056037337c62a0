"""Temporal's dynamic configuration: `--dynamic-config-value key=JSON`, and the settings that its keys change.

Keys are compared without regard to case, as in Temporal. All keys of Temporal, and why some of them have no effect
here, are listed in `temporal_settings`: a warning is logged at the start for such a key, and for an unknown one.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

log = logging.getLogger(__name__)

SettingsT = TypeVar("SettingsT")
_KEY = re.compile(r"[A-Za-z0-9_.\-]+")

LIMIT_KEYS: Mapping[str, str] = {
    "limit.blobsize.error": "blob_size_error",
    "limit.blobsize.warn": "blob_size_warn",
    "limit.memosize.error": "memo_size_error",
    "limit.memosize.warn": "memo_size_warn",
    "limit.historysize.error": "history_size_error",
    "limit.historysize.warn": "history_size_warn",
    "limit.historysize.suggestcontinueasnew": "history_size_suggest_continue_as_new",
    "limit.historycount.error": "history_count_error",
    "limit.historycount.warn": "history_count_warn",
    "limit.historycount.suggestcontinueasnew": "history_count_suggest_continue_as_new",
    "limit.mutablestatesize.error": "mutable_state_size_error",
    "limit.mutablestatesize.warn": "mutable_state_size_warn",
    "limit.mutablestateactivityfailuresize.error": "activity_failure_size_error",
    "limit.numpendingactivities.error": "pending_activities",
    "limit.numpendingchildexecutions.error": "pending_children",
    "limit.numpendingsignals.error": "pending_signals",
    "limit.numpendingcancelrequests.error": "pending_cancels",
    "limit.maxidlength": "id_length",
    "frontend.searchattributesnumberofkeyslimit": "search_attribute_count",
    "frontend.searchattributessizeofvaluelimit": "search_attribute_value_size",
    "frontend.searchattributestotalsizelimit": "search_attributes_total_size",
    "history.maximumsignalsperexecution": "signals_per_execution",
    "history.maximumbufferedeventsbatch": "buffered_events",
    "system.numconsecutiveworkflowtaskproblemstotriggersearchattribute": "workflow_task_problems",
    "history.maximumbufferedeventssizeinbytes": "buffered_bytes",
    "history.maxinflightupdates": "in_flight_updates",
    "history.maxinflightupdatepayloads": "in_flight_updates_bytes",
    "history.maxtotalupdates": "total_updates",
    "history.maxtotalupdates.suggestcontinueasnewthreshold": "total_updates_suggest_continue_as_new_percent",
    "history.longpollexpirationinterval": "long_poll_ns",
    "activity.longpolltimeout": "activity_long_poll_ns",
    "activity.longpollbuffer": "activity_long_poll_buffer_ns",
    "nexusoperation.longpolltimeout": "nexus_long_poll_ns",
    "nexusoperation.longpollbuffer": "nexus_long_poll_buffer_ns",
    "history.maxbufferedquerycount": "buffered_queries",
    "chasm.maxlinkspercomponent": "links_per_execution",
    "callback.maxperexecution": "callbacks_per_execution",
    "system.maxcallbacksperworkflow": "callbacks_per_execution",
    "history.enableworkflowtaskcompletionpagination": "completion_pages",
    "history.workflowtaskcompletionbuffersizelimit": "completion_pages_size",
    "history.workflowtaskcompletionbuffertotalsizelimit": "completion_pages_total_size",
    "history.workflowtaskcompletionbuffernamespaceratio": "completion_pages_namespace_ratio",
    "history.historymaxautoresetpoints": "auto_reset_points",
    "history.workflowtaskheartbeattimeout": "workflow_task_heartbeat_timeout_ns",
    "history.workflowtaskretrymaxinterval": "workflow_task_retry_max_ns",
    "history.workflowidreuseminimalinterval": "continue_as_new_min_interval_ns",
    "history.defaultworkflowtasktimeout": "workflow_task_timeout_ns",
    "component.nexusoperations.limit.operation.concurrency": "nexus_pending_operations",
    "component.nexusoperations.limit.service.name.length": "nexus_service_length",
    "component.nexusoperations.limit.operation.name.length": "nexus_operation_length",
    "component.nexusoperations.limit.header.size": "nexus_header_size",
    "component.nexusoperations.limit.operation.token.length": "nexus_operation_token_length",
    "component.nexusoperations.limit.request.timeout.min": "nexus_min_request_timeout_ns",
    "component.nexusoperations.request.timeout": "nexus_request_timeout_ns",
    "component.nexusoperations.retrypolicy.initialinterval": "nexus_retry_initial_ns",
    "component.nexusoperations.retrypolicy.maxinterval": "nexus_retry_max_ns",
    "component.nexusoperations.callback.endpoint.template": "nexus_callback_url",
    "callback.retrypolicy.initialinterval": "callback_retry_initial_ns",
    "callback.retrypolicy.maxinterval": "callback_retry_max_ns",
    "component.callbacks.retrypolicy.initialinterval": "callback_retry_initial_ns",
    "component.callbacks.retrypolicy.maxinterval": "callback_retry_max_ns",
    "system.enablesendtargetversionchanged": "send_target_version_changed",
    "history.enableversionreactivationsignals": "version_reactivation",
    "matching.wv.versiondrainagestatusvisibilitygraceperiod": "version_drainage_grace_ns",
    "matching.wv.versiondrainagestatusrefreshinterval": "version_drainage_refresh_ns",
    "system.enableactivityeagerexecution": "eager_activities",
    "limit.historymaxpagesize": "task_history_page",
    "matching.historymaxpagesize": "query_history_page",
    "frontend.sendrawworkflowhistory": "send_raw_history",
    "history.enablechasmsignalbacklinks": "signal_backlinks",
    "system.enablecrossnamespacecommands": "cross_namespace_commands",
    "component.nexusoperations.usesystemcallbackurl": "nexus_system_callback_url",
    "nexusoperation.usesystemcallbackurl": "nexus_system_callback_url",
    "nexusoperation.callback.endpoint.template": "nexus_callback_url",
    "nexusoperation.request.timeout": "nexus_request_timeout_ns",
    "nexusoperation.limit.request.timeout.min": "nexus_min_request_timeout_ns",
    "nexusoperation.limit.operation.concurrencyperworkflow.max": "nexus_pending_operations",
    "nexusoperation.limit.service.name.length": "nexus_service_length",
    "nexusoperation.limit.operation.name.length": "nexus_operation_length",
    "nexusoperation.limit.operation.token.length": "nexus_operation_token_length",
    "nexusoperation.limit.header.size": "nexus_header_size",
    "system.enableeagerworkflowstart": "eager_workflow_start",
    "system.enablecancelactivityworkercommand": "cancel_activity_worker_command",
}
"""Key (in lower case) -> field of whistlestop.history.core.limits.Limits."""

FRONTEND_KEYS: Mapping[str, str] = {
    "limit.blobsize.error": "blob_size_limit_error",
    "limit.blobsize.warn": "blob_size_limit_warn",
    "limit.memosize.error": "memo_size_limit_error",
    "limit.memosize.warn": "memo_size_limit_warn",
    "limit.maxidlength": "max_id_length",
    "frontend.searchattributesnumberofkeyslimit": "search_attributes_number_of_keys_limit",
    "frontend.searchattributessizeofvaluelimit": "search_attributes_size_of_value_limit",
    "frontend.searchattributestotalsizelimit": "search_attributes_total_size_limit",
    "frontend.httpallowedhosts": "http_allowed_hosts",
    "frontend.visibilitymaxpagesize": "visibility_max_page_size",
    "frontend.historymaxpagesize": "history_max_page_size",
    "limit.workerbuildidsize": "worker_build_id_size_limit",
    "frontend.workerversioningdataapis": "worker_versioning_data_apis",
    "frontend.workerversioningruleapis": "worker_versioning_rule_apis",
    "frontend.workerversioningworkflowapis": "worker_versioning_workflow_apis",
    "limit.versioncompatiblesetlimitperqueue": "version_sets_per_queue",
    "limit.versionbuildidlimitperqueue": "build_ids_per_queue",
    "limit.taskqueuesperbuildid": "task_queues_per_build_id",
    "limit.wv.assignmentrulelimitperqueue": "assignment_rules_per_queue",
    "limit.wv.redirectrulelimitperqueue": "redirect_rules_per_queue",
    "limit.wv.redirectrulemaxupstreambuildidsperqueue": "redirect_upstream_build_ids",
    "matching.wv.deletedruleretentiontime": "deleted_rule_retention_s",
    "limit.reachabilityquerybuildids": "reachability_build_ids",
    "limit.reachabilitytaskqueuescan": "reachability_task_queues",
    "frontend.reachabilityquerysetdurationsincedefault": "reachability_since_default_s",
    "matching.wv.reachabilitybuildidvisibilitygraceperiod": "reachability_rule_grace_s",
    "matching.maxdeployments": "max_deployments",
    "matching.maxversionsindeployment": "max_versions_in_deployment",
    "matching.wv.versiondrainagestatusvisibilitygraceperiod": "version_drainage_grace_s",
    "matching.wv.versiondrainagestatusrefreshinterval": "version_drainage_refresh_s",
    "frontend.maxbadbinaries": "max_bad_binaries",
    "frontend.maxlinksperrequest": "max_links_per_request",
    "frontend.linkmaxsize": "link_max_size",
    "callback.allowedaddresses": "callback_allowed_addresses",
    "component.callbacks.allowedaddresses": "callback_allowed_addresses",
    "callback.maxperexecution": "max_callbacks_per_execution",
    "frontend.callbackurlmaxlength": "callback_url_max_length",
    "frontend.callbackheadermaxlength": "callback_header_max_size",
    "system.namespaceminretentionlocal": "min_retention_s",
    "worker.protectednamespaces": "protected_namespaces",
    "frontend.deletenamespacenamespacedeletedelay": "namespace_delete_delay_s",
    "frontend.allowdeletenamespaceifnexusendpointtarget": "delete_namespaces_of_endpoints",
    "matching.maxfairnesskeyweightoverrides": "max_fairness_weight_overrides",
    "limit.usermetadatasummarysize": "user_metadata_summary_size",
    "limit.usermetadatadetailssize": "user_metadata_details_size",
    "nexusoperation.limit.operation.token.length": "nexus_operation_token_max_length",
    "component.nexusoperations.limit.operation.token.length": "nexus_operation_token_max_length",
    "frontend.maxconcurrentbatchoperationpernamespace": "max_concurrent_batch_operations",
    "frontend.workflowrulesapisenabled": "workflow_rules_enabled",
    "frontend.enableschedules": "schedules_enabled",
    "frontend.enablebatcher": "batch_enabled",
    "frontend.enablebatchoperationsforstandaloneactivities": "batch_of_activities_enabled",
    "frontend.enableupdateworkflowexecution": "updates_enabled",
    "frontend.enableupdateworkflowexecutionasyncaccepted": "async_updates_enabled",
    "history.enableupdatecallbacks": "update_callbacks_enabled",
    "frontend.workerheartbeatsenabled": "worker_heartbeats_enabled",
    "frontend.enablecancelworkerpollsonshutdown": "cancel_polls_on_shutdown",
    "frontend.workflowpauseenabled": "workflow_pause_enabled",
    "activity.enablestandalone": "standalone_activities_enabled",
    "activity.startdelayenabled": "activity_start_delay_enabled",
    "activity.enablecallbacks": "activity_callbacks_enabled",
    "history.enablestandaloneactivityoperatorcommands": "activity_operator_commands_enabled",
    "nexusoperation.enablestandalone": "standalone_nexus_enabled",
    "system.enabledeploymentversions": "deployments_enabled",
    "system.disallowquery": "queries_disallowed",
    "frontend.disablelistvisibilitybyfilter": "list_by_filter_disabled",
    "system.enableeagerworkflowstart": "eager_workflow_start",
    "system.numconsecutiveworkflowtaskproblemstotriggersearchattribute": "workflow_task_problems",
    "frontend.pollerautoscalingautoenroll": "poller_autoscaling_auto_enroll",
    "frontend.workercommandsenabled": "worker_commands_enabled",
    "history.enableworkflowtaskcompletionpagination": "completion_pages",
    "history.workflowtaskcompletionbuffersizelimit": "workflow_task_completion_size_limit_error",
    "frontend.maxworkflowrulespernamespace": "max_workflow_rules",
    "worker.batcherrps": "batch_operations_per_s",
    "worker.batcherconcurrency": "batch_concurrency",
    "frontend.workflowtimeskippingenabled": "time_skipping_enabled",
    "frontend.workflowtimeskippingmaxskippersession": "time_skipping_max_session_skips",
    "limit.endpointnamemaxlength": "endpoint_name_max_length",
    "limit.endpointexternalurlmaxlength": "endpoint_url_max_length",
    "limit.endpointdescriptionmaxsize": "endpoint_description_max_size",
}
"""Key (in lower case) -> field of whistlestop.frontend.config.FrontendConfig."""

MATCHING_KEYS: Mapping[str, str] = {
    "matching.longpollexpirationinterval": "long_poll_s",
    "matching.maxfairnesskeyweightoverrides": "fairness_overrides",
    "limit.maxidlength": "max_id_length",
    "matching.pollerhistoryttl": "poller_ttl_s",
    "matching.maxdeployments": "max_deployments",
    "matching.maxversionsindeployment": "max_versions",
    "matching.maxtaskqueuesindeploymentversion": "max_queues_in_version",
    "matching.maxversionsintaskqueue": "max_versions_of_queue",
    "workercontroller.compute_providers.aws.require_role_and_external_id": "push_require_role",
    "workercontroller.compute_providers.webhook.allowed_addresses": "push_webhook_addresses",
}
"""Key (in lower case) -> field of whistlestop.matching.config.MatchingConfig."""


def _limits() -> Any:
    from whistlestop.history.core.limits import Limits

    return Limits


def _frontend() -> Any:
    from whistlestop.frontend.config import FrontendConfig

    return FrontendConfig


def _matching() -> Any:
    from whistlestop.matching.config import MatchingConfig

    return MatchingConfig


SECTIONS: tuple[tuple[Callable[[], Any], Mapping[str, str]], ...] = (
    (_limits, LIMIT_KEYS), (_frontend, FRONTEND_KEYS), (_matching, MATCHING_KEYS),
)  # fmt: skip
"""The dataclasses that are configured, each imported when needed, and the fields of their keys."""
HONOURED = frozenset(key for _, keys in SECTIONS for key in keys)
OF_THE_SERVER = frozenset((
    "callback.allowedaddresses", "history.workflowtaskcompletionbuffernamespaceratio",
    "history.workflowtaskcompletionbuffersizelimit", "limit.endpointdescriptionmaxsize", "worker.batcherconcurrency",
    "worker.batcherrps",
))  # fmt: skip
"""Keys that may differ between namespaces in Temporal, and have a single value here. So have all keys of matching."""


@cache
def by_namespace() -> frozenset[str]:
    """Return the keys whose values may differ between namespaces."""
    from whistlestop.server.temporal_settings import settings

    there = {setting.key.lower() for setting in settings() if setting.scope != "Global"}
    return frozenset(there.intersection((*LIMIT_KEYS, *FRONTEND_KEYS)) - OF_THE_SERVER - MATCHING_KEYS.keys())


class InvalidDynamicConfig(ValueError):
    """A value is not `key=JSON` or has the wrong type, or the file of `--dynamic-config-file` cannot be read."""


@dataclass(frozen=True, slots=True)
class DynamicConfig:
    """The configured values, under keys in lower case."""

    values: Mapping[str, object]
    namespaces: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Values for single namespaces, by namespace name."""
    sources: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Where each value was set, by namespace (or empty) and key."""

    @classmethod
    def parse(cls, texts: Iterable[str], source: str = "--dynamic-config-value") -> DynamicConfig:
        """Parse `key=JSON` texts. Raises InvalidDynamicConfig naming the key and the error."""
        values = dict(_pairs(texts))
        return cls(values, sources={("", key): source for key in values})

    def overridden_by(self, other: DynamicConfig) -> DynamicConfig:
        """Return a copy in which the values of `other` replace those of the same keys, in all namespaces."""
        namespaces = {
            name: {key: value for key, value in values.items() if key not in other.values}
            for name, values in self.namespaces.items()
        }
        return DynamicConfig(
            {**self.values, **other.values},
            {name: values for name, values in namespaces.items() if values},
            {**self.sources, **other.sources},
        )

    def get(self, key: str, default: object = None) -> object:
        """Return the value of a key in any case, or `default`."""
        return self.values.get(key.lower(), default)

    def apply(self, settings: SettingsT, keys: Mapping[str, str]) -> SettingsT:
        """Return a copy of `settings` (a dataclass) with the configured values of the fields in `keys`.

        Raises InvalidDynamicConfig for a value of the wrong type.
        """
        changed = _changed(settings, keys, self.values)
        if not hasattr(changed, "by_namespace"):
            return changed
        common = replace(changed, by_namespace={})  # type: ignore[type-var]
        own = {name: _changed(common, keys, values) for name, values in self.namespaces.items()}
        by_namespace = {name: each for name, each in own.items() if each is not common}
        return replace(common, by_namespace=by_namespace)  # type: ignore[type-var]

    def check(self) -> None:
        """Raise InvalidDynamicConfig if a supported key has a value of the wrong type."""
        for settings, keys in SECTIONS:
            self.apply(settings()(), keys)

    def warn(self) -> None:
        """Log which keys have no effect here, and why; none that asks for what is so in any case."""
        for key, value in self.values.items():
            if key not in HONOURED and (reason := _why_not(key, value)):
                log.warning("%s", reason)


def _changed(settings: SettingsT, keys: Mapping[str, str], values: Mapping[str, object]) -> SettingsT:
    names = {each.name for each in fields(settings)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        name = keys.get(key)
        if name is not None and name in names:
            changes[name] = _converted(key, name, value, getattr(settings, name))
    return replace(settings, **changes) if changes else settings  # type: ignore[type-var]


_SO_ANYWAY = {"always": True, "never": False}
"""What holds whatever a key says, by the reason why it is not honoured. SDKs pass such keys to each server."""


def _why_not(key: str, value: object) -> str:
    from whistlestop.server.temporal_settings import REASONS, RELEASE, settings

    known = {setting.key.lower(): setting for setting in settings()}
    setting = known.get(key)
    if setting is not None:
        if setting.why in _SO_ANYWAY and value is _SO_ANYWAY[setting.why]:
            return ""
        return f"dynamic configuration key {setting.key} changes nothing here: {REASONS[setting.why]}"
    from difflib import get_close_matches

    close = get_close_matches(key, known, n=1, cutoff=0.8)
    meant = f"; {known[close[0]].key} may be meant" if close else ""
    return f"dynamic configuration key {key} changes nothing: Temporal {RELEASE} does not know it{meant}"


def _pairs(texts: Iterable[str]) -> Iterator[tuple[str, object]]:
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not _KEY.fullmatch(key):
            raise InvalidDynamicConfig(f'invalid dynamic config value "{text}": expected KEY=JSON')
        try:
            yield key.lower(), json.loads(value)
        except ValueError as error:
            raise InvalidDynamicConfig(f'invalid JSON value for dynamic config key "{key}": {error}') from error


_LISTS = ("http_allowed_hosts", "protected_namespaces")


def _converted(key: str, name: str, value: object, present: object) -> object:
    """Convert a value to the field's type: durations to the field's unit, numbers to numbers."""
    if value is None and present is None:
        return None
    if is_span(name) and isinstance(value, str):
        seconds = duration_s(key, value)
        return round(seconds * 1_000_000_000) if name.endswith("_ns") else seconds
    if name in ("callback_allowed_addresses", "push_webhook_addresses"):
        return _addresses(key, value)
    if name in _LISTS and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    if isinstance(present, str) and isinstance(value, str):
        return value
    if isinstance(present, bool):
        if isinstance(value, bool):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if name.endswith("_ns"):
            return round(value * 1_000_000_000)
        if name.endswith("_percent"):
            return round(value * 100)
        return float(value) if isinstance(present, float) else int(value)
    raise InvalidDynamicConfig(f'dynamic config key "{key}" can\'t be {json.dumps(value)}')


def is_span(name: str) -> bool:
    """Return whether the field holds a duration, in nanoseconds or seconds."""
    return name.endswith(("_ns", "_s")) and not name.endswith("_per_s")


def as_given(name: str, value: object) -> object:
    """Return the value of a field as it would be configured: the reverse of `apply`."""
    if isinstance(value, bool):
        return value
    if name.endswith("_percent") and isinstance(value, int):
        return value / 100
    if is_span(name) and isinstance(value, int | float):
        return _span(value / 10**9 if name.endswith("_ns") else value)
    if name in ("callback_allowed_addresses", "push_webhook_addresses") and isinstance(value, tuple):
        return [{"Pattern": pattern, "AllowInsecure": insecure} for pattern, insecure in value]
    return list(value) if isinstance(value, tuple) else value


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds % length == 0 and (seconds or unit == "s"):
            return f"{int(seconds) // length}{unit}"
    return f"{round(seconds * 1000)}ms"


def _addresses(key: str, value: object) -> tuple[tuple[str, bool], ...]:
    """Parse patterns of hosts, and whether plain HTTP is allowed: `[{"Pattern": "*", "AllowInsecure": true}]`."""
    found = []
    entries: list[Any] = value if isinstance(value, list) else [value]
    for entry in entries:
        pattern = entry.get("Pattern") if isinstance(entry, dict) else None
        if not isinstance(pattern, str) or not pattern:
            raise InvalidDynamicConfig(f'dynamic config key "{key}" needs entries with a "Pattern"')
        found.append((pattern, entry.get("AllowInsecure") is True))
    return tuple(found)


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def duration_s(what: str, text: str) -> float:
    """Parse a Go duration (`1h30m`, `250ms`) into seconds. Raises InvalidDynamicConfig naming `what`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)", text)
    if text != "0" and (not parts or "".join(number + unit for number, unit in parts) != text):
        raise InvalidDynamicConfig(f'"{text}" is not a duration such as 10s or 1m30s (dynamic config key "{what}")')
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
