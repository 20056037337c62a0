"""The functions' settings: what is refused and how, and that the stack's environments and the docs name the same ones."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from whistlestop.deploy import template
from whistlestop.functions.settings import (
    BY_FUNCTION,
    PREFIX,
    BadSettings,
    FrontendSettings,
    HistorySettings,
    MatchingSettings,
    read,
    table,
)

ROOT = Path(__file__).resolve().parents[2]
BY_HAND = {
    "SQLITE_PATH", "HISTORY_URL", "MATCHING_URL", "TIME_SKIPPING", "JWT_KEY", "JWT_KEY_FILE", "JWT_PERMISSIONS_CLAIM",
}  # fmt: skip
"""What the stack does not set: other transports, tests, and what an operator adds to the function."""
SECRET = "postgresql://me:hush@host/db"
MATCHING = {f"{PREFIX}DATABASE_URL": SECRET, f"{PREFIX}HISTORY_FUNCTION": "stack-history"}


@pytest.mark.parametrize("function", BY_FUNCTION)
def test_the_stack_sets_exactly_the_settings_of_the_function(function: str) -> None:
    """Nothing else, and nothing less. (Terraform's environment is compared with the template's by its own test.)"""
    stack = template.load()
    own = stack["Resources"][f"{function.capitalize()}Function"]["Properties"]["Environment"]["Variables"]
    given = {*stack["Globals"]["Function"]["Environment"]["Variables"], *own}
    known = {PREFIX + each.name.upper() for each in fields(BY_FUNCTION[function])}
    known |= {PREFIX + each.metadata["old_name"] for each in fields(BY_FUNCTION[function]) if each.metadata["old_name"]}
    by_hand = {PREFIX + name for name in BY_HAND}
    assert given == known - by_hand


def test_defaults_and_types() -> None:
    settings = read(MatchingSettings, {**MATCHING, f"{PREFIX}LOG_LEVEL": "debug", f"{PREFIX}METRICS": ""})
    assert (settings.log_level, settings.metrics, settings.tracing) == ("DEBUG", "off", "PassThrough")
    frontend = {**MATCHING, f"{PREFIX}MATCHING_URL": "http://127.0.0.1:1", f"{PREFIX}ALLOW_ANONYMOUS": "True"}
    assert read(FrontendSettings, frontend).allow_anonymous is True
    assert read(FrontendSettings, frontend).jwt_permissions_claim == "permissions"


def test_all_problems_are_reported_at_once_without_values() -> None:
    wrong = {
        f"{PREFIX}DATABASE_URL": "mysql://me:hush@host/db", f"{PREFIX}TIME_SKIPPING": "hush",
        f"{PREFIX}LOG_LEVEL": "hush", f"{PREFIX}HISTORY_FUNCTION": "stack-history",
    }  # fmt: skip
    with pytest.raises(BadSettings) as raised:
        read(FrontendSettings, wrong)
    lines = str(raised.value).splitlines()
    assert [line.partition(":")[0].removeprefix(PREFIX) for line in lines] == [
        "LOG_LEVEL", "DATABASE_URL", "TIME_SKIPPING", "MATCHING_FUNCTION",
    ]  # fmt: skip
    assert "hush" not in str(raised.value)


def test_settings_that_depend_on_each_other_are_checked() -> None:
    given = {f"{PREFIX}MATCHING_FUNCTION": "m", f"{PREFIX}WAKE_UP_QUEUE_URL": "https://sqs/q"}
    with pytest.raises(BadSettings) as raised:
        read(HistorySettings, {**given, f"{PREFIX}DATABASE_HOST": "aurora"})
    assert [line.partition(":")[0].removeprefix(PREFIX) for line in str(raised.value).splitlines()] == [
        "DATABASE_SECRET", "WAKE_UP_QUEUE_ARN", "WAKE_UP_SCHEDULE_GROUP", "WAKE_UP_ROLE_ARN",
    ]  # fmt: skip
    with pytest.raises(BadSettings, match="DATABASE_URL: no database is named"):
        read(HistorySettings, given)


OLD_NAMES = {
    "WAKE_QUEUE_URL": "https://sqs/q", "WAKE_QUEUE_ARN": "arn:q", "WAKE_SCHEDULE_GROUP": "g", "WAKE_ROLE_ARN": "arn:r",
    "WORKER_WAKE_PREFIX": "p-",
}  # fmt: skip


def test_the_names_of_release_0_1_0_are_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    given = {f"{PREFIX}MATCHING_FUNCTION": "m", f"{PREFIX}DATABASE_URL": SECRET}
    old = {PREFIX + name: value for name, value in OLD_NAMES.items()}
    settings = read(HistorySettings, {**given, **old})
    assert (
        settings.wake_up_queue_url, settings.wake_up_queue_arn, settings.wake_up_schedule_group,
        settings.wake_up_role_arn, settings.notification_queue_prefix,
    ) == tuple(OLD_NAMES.values())  # fmt: skip
    assert [record.message.split()[3] for record in caplog.records] == list(old)
    assert "WHISTLESTOP_WAKE_UP_QUEUE_URL" in caplog.records[0].message


def test_a_new_name_has_precedence_and_then_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """The stack sets both, for a rollback."""
    both = {f"{PREFIX}WORKER_WAKE_PREFIX": "old-", f"{PREFIX}NOTIFICATION_QUEUE_PREFIX": "new-"}
    settings = read(MatchingSettings, {**MATCHING, **both})
    assert settings.notification_queue_prefix == "new-"
    assert caplog.records == []


def test_secrets_are_not_printed() -> None:
    given = {
        **MATCHING, f"{PREFIX}MATCHING_FUNCTION": "m", f"{PREFIX}JWT_KEY": "hush" * 8, f"{PREFIX}API_KEYS": "hush.json",
    }  # fmt: skip
    assert "hush" not in repr(read(FrontendSettings, given))


def test_the_docs_have_the_table() -> None:
    assert table() in (ROOT / "docs" / "operations.md").read_text("utf-8")
