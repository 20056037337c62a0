"""Temporal's dynamic configuration keys: each is honoured, or there is a reason that is said at the start."""

from __future__ import annotations

import dataclasses
import logging

import pytest
from infra.tools import settings_page

from whistlestop.common.dynamic_config import InvalidDynamicConfig, as_given
from whistlestop.frontend.config import FrontendConfig
from whistlestop.frontend.dynamic_keys import FRONTEND_KEYS
from whistlestop.history.core.limits import Limits
from whistlestop.history.dynamic_keys import LIMIT_KEYS
from whistlestop.server.settings.dynamic_config import HONOURED, SECTIONS, DynamicConfig, is_by_namespace
from whistlestop.server.settings.temporal_settings import REASONS, settings

OTHERS = {
    "component.callbacks.allowedaddresses",  # of earlier releases
    "workercontroller.compute_providers.aws.require_role_and_external_id",  # of the worker controller, a server apart
    "workercontroller.compute_providers.webhook.allowed_addresses",  # ours
}
"""Keys that are honoured and are none of Temporal's server."""
DIFFERENT = {
    # What is on here and off there; see docs/compatibility.md.
    "activity.enableCallbacks", "frontend.enableBatchOperationsForStandaloneActivities",
    "frontend.enableCancelWorkerPollsOnShutdown", "frontend.WorkflowPauseEnabled", "frontend.workflowRulesAPIsEnabled",
    "history.enableStandaloneActivityOperatorCommands", "history.enableUpdateCallbacks",
    "nexusoperation.enableStandalone",
    # Limits of the older implementation of operations are of the newer one, too.
    "nexusoperation.limit.operation.concurrencyPerWorkflow.max",
    # The same limit as callback.maxPerExecution, whose default is the larger one.
    "system.maxCallbacksPerWorkflow",
    # No template, in other words.
    "component.nexusoperations.callback.endpoint.template",
}  # fmt: skip
"""Honoured keys whose default is another one here, on purpose."""


UNKNOWN = "changes nothing: Temporal 1.32 does not know it"
MEANT = "frontend.namespaceRPS.visibility may be meant"


def test_every_honoured_key_is_one_of_temporals() -> None:
    assert HONOURED - {setting.key.lower() for setting in settings()} == OTHERS


def test_every_honoured_key_is_of_a_field() -> None:
    """A name that is no field's would be taken and lead to nothing."""
    for settings_of, keys in SECTIONS:
        assert set(keys.values()) <= {field.name for field in dataclasses.fields(settings_of()())}


def test_every_other_key_has_a_reason() -> None:
    """And every reason is some key's. `python infra/tools/settings_page.py` takes those of honoured keys away."""
    whys = {setting.key: setting.why for setting in settings()}
    assert {key for key, why in whys.items() if not why} == {key for key in whys if key.lower() in HONOURED}
    assert set(whys.values()) - {""} == set(REASONS)


def test_defaults_are_temporals() -> None:
    honoured = [setting for setting in settings() if not setting.why and setting.default]
    assert {each.key for each in honoured if settings_page.default_here(each) != each.default} == DIFFERENT


def test_the_page_is_up_to_date() -> None:
    """`python infra/tools/settings_page.py` would change nothing."""
    assert settings_page.PAGE.read_text("utf-8") == settings_page.page()


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ("frontend.ENABLEschedules=true", []),
        ("limit.maxIDLength=100", []),
        (
            "history.acquireShardInterval=1",
            [f"dynamic configuration key history.acquireShardInterval changes nothing here: {REASONS['shards']}"],
        ),
        ("history.enableChasm=true", []),
        (
            "history.acquireShardInterval=null",
            [f"dynamic configuration key history.acquireShardInterval changes nothing here: {REASONS['shards']}"],
        ),
        ("frontend.enableServerVersionCheck=false", []),
        (
            "frontend.enableServerVersionCheck=true",
            [f"dynamic configuration key frontend.enableServerVersionCheck changes nothing here: {REASONS['never']}"],
        ),
        (
            "HISTORY.enableChasm=false",
            [f"dynamic configuration key history.enableChasm changes nothing here: {REASONS['always']}"],
        ),
        (
            "frontend.namespaceRPs.visibilty=1",
            [
                f"dynamic configuration key frontend.namespacerps.visibilty {UNKNOWN}; {MEANT}",
            ],
        ),
        ("a.b=1", [f"dynamic configuration key a.b {UNKNOWN}"]),
    ],
)
def test_keys_without_an_effect_are_warned_of(given: str, warned: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        DynamicConfig.parse([given]).warn()
    assert [record.getMessage() for record in caplog.records] == warned


@pytest.mark.parametrize(
    ("value", "intervals"),
    [
        ("{}", (1, 3600)),
        ('{"InitialInterval": "250ms"}', (0.25, 3600)),
        ('{"initialinterval": 2, "MAXINTERVAL": "1m30s"}', (2, 90)),
    ],
)
def test_retry_policies_of_standalone_operations(value: str, intervals: tuple[float, float]) -> None:
    given = DynamicConfig.parse((f"nexusoperation.retryPolicy={value}",))
    given.check()
    found = given.apply(Limits(), LIMIT_KEYS).nexus_execution_retry
    assert (found.initial_ns / 10**9, found.maximum_ns / 10**9) == intervals
    shown = as_given("nexus_execution_retry", found)
    assert (
        DynamicConfig({"nexusoperation.retrypolicy": shown}).apply(Limits(), LIMIT_KEYS).nexus_execution_retry == found
    )


@pytest.mark.parametrize(
    "value",
    ["1", "null", "[]", '{"InitialInterval": "x"}', '{"InitialInterval": 0}', '{"MaxInterval": true}', '{"Max": 1}'],
)
def test_retry_policies_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(InvalidDynamicConfig, match=r"nexusoperation\.retrypolicy"):
        DynamicConfig.parse((f"nexusoperation.retryPolicy={value}",)).check()


def test_schedule_validations_are_disabled_by_namespace_whatever_their_case() -> None:
    document = {
        "frontend.disabledScheduleValidations": [
            {"value": ["Versioning-Override"], "constraints": {"namespace": "orders"}},
            {"value": []},
        ]
    }
    given = DynamicConfig.of_document(document, "file", "file", is_by_namespace)
    config = given.apply(FrontendConfig(), FRONTEND_KEYS)
    assert config.disabled_schedule_validations == ()
    assert config.of("orders").disabled_schedule_validations == ("versioning-override",)
