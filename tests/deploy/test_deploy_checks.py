"""`deploy aws` refuses in a dry run what could only fail later, and finds its region where other AWS tools find it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from whistlestop.common.dynamic_config import InvalidDynamicConfig
from whistlestop.deploy import checks, template
from whistlestop.deploy.cloud import Cloud
from whistlestop.deploy.run import plan
from whistlestop.deploy.settings import DeployError, Settings
from whistlestop.server.settings.dynamic_file import document_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

URL = "postgresql://user:secret@db.example:5432/name"
DYNAMIC = """
limit.maxIDLength: [{value: 255}]
frontend.enableSchedules:
  - value: true
  - value: false
    constraints: {namespace: orders}
history.acquireShardInterval: [{value: 1s}]
"""
KNOWN: Mapping[str, Mapping[str, object]] = template.load()["Parameters"]


@pytest.mark.parametrize(
    "rate", ["rate(1 minute)", "rate(15 minutes)", "rate(2 hours)", "rate(1 day)", "cron(0/15 * * * ? *)"]
)
def test_rates_that_the_scheduler_takes(rate: str) -> None:
    assert plan(Settings(database_url=URL, sweep_rate=rate), None).complete["SweepRate"] == rate


@pytest.mark.parametrize(
    "rate",
    [
        "rate(15 mins)",
        "rate(0 minutes)",
        "rate(15)",
        "rate(1.5 hours)",
        "every 15 minutes",
        "cron(0 * * * *)",
        "rate(15 minutes) ",
    ],
)
@pytest.mark.parametrize("name", ["SweepRate", "HousekeepingRate"])
def test_rates_that_it_refuses(name: str, rate: str) -> None:
    with pytest.raises(DeployError, match=f"^{name} can't be"):
        plan(Settings(database_url=URL, others={name: rate}), None)


@pytest.mark.parametrize(
    ("others", "complaint"),
    [
        ({"MemorySize": "128"}, "MemorySize can't be 128: it is 256 to 10240"),
        ({"MemorySize": "lots"}, "MemorySize can't be lots: it is a number"),
        ({"LogRetentionDays": "13"}, "LogRetentionDays can't be 13: it is one of 1, 3"),
        ({"LogLevel": "LOUD"}, "LogLevel can't be LOUD: it is one of DEBUG"),
        ({"JwtJwksUrl": "http://x"}, "JwtJwksUrl can't be http://x: it must match"),
        ({"AlarmTopicArn": "arn:aws:sqs:eu-central-1:000000000000:q"}, "it is the ARN of an SNS topic"),
        ({"Wheels": "4"}, "the template has no parameter Wheels; it has DatabaseUrl"),
    ],
)
def test_values_that_the_template_refuses(others: dict[str, str], complaint: str) -> None:
    with pytest.raises(DeployError, match=complaint):
        plan(Settings(database_url=URL, others=others), None)


def test_every_default_of_the_template_is_taken() -> None:
    chosen = {name: str(rules["Default"]) for name, rules in KNOWN.items() if "Default" in rules}
    checks.check_parameters(chosen, KNOWN)


@pytest.mark.parametrize("subnets", ["", "subnet-1", "subnet-1,"])
def test_aurora_takes_two_subnets(subnets: str) -> None:
    with pytest.raises(DeployError, match="two --subnet-ids or more"):
        plan(Settings(create_database="aurora-serverless", vpc_id="vpc-1", subnet_ids=subnets), None)


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.1.1", "db.localhost"],
)
def test_a_database_of_this_machine_is_refused_unless_functions_run_here(host: str) -> None:
    url = f"postgresql://user:secret@{host}:5432/name"
    with pytest.raises(DeployError, match="for a function that is its own machine"):
        checks.check_database(url, on_this_machine=False)
    checks.check_database(url, on_this_machine=True)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql:///name", "names no host"),
        ("postgresql://user@%2Fvar%2Frun/name", "its own machine"),
        ("postgresql://db.example:5432:5432/name", "can't be read"),
        ("postgresql://db.example,localhost/name", "names localhost"),
        ("postgresql://db.example/name?hostaddr=127.0.0.1", "names 127.0.0.1"),
        ("postgresql://db.example/name?nonsense=1", "can't be read"),
    ],
)
def test_urls_that_cannot_work(url: str, complaint: str) -> None:
    with pytest.raises(DeployError, match=complaint) as refused:
        checks.check_database(url, on_this_machine=False)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["1st", "a_b", "", "a" * 41, "ümläut"])
def test_names_that_a_stack_cannot_have(name: str) -> None:
    with pytest.raises(DeployError, match="is not a letter followed by"):
        checks.check_stack_name(name)


def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"there is no .*frontend\.zip"):
        checks.check_bundles(tmp_path, ("frontend",))


@pytest.mark.parametrize(
    ("environ", "given", "found"),
    [
        ({"AWS_REGION": "eu-central-1"}, "", "eu-central-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "", "eu-west-1"),
        ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-west-1"}, "", "eu-central-1"),
        ({"AWS_REGION": "eu-central-1"}, "us-east-1", "us-east-1"),
    ],
)
def test_the_region(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], given: str, found: str) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert Cloud(given).region == found


def test_a_missing_region_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(DeployError, match="give --region, set AWS_REGION, or name one in the profile"):
        Cloud()


def test_a_file_of_dynamic_configuration_becomes_a_parameter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With what is for one namespace first, as in Temporal's files; keys without an effect are warned of."""
    file = tmp_path / "dynamic.yaml"
    file.write_text(DYNAMIC)
    document = document_of(str(file))
    assert Settings(dynamic_config=document).parameters()["DynamicConfig"] == document
    assert json.loads(document) == {
        "limit.maxidlength": [{"value": 255}],
        "frontend.enableschedules": [
            {"value": False, "constraints": {"namespace": "orders"}}, {"value": True},
        ],
        "history.acquireshardinterval": [{"value": "1s"}],
    }  # fmt: skip
    assert "history.acquireShardInterval changes nothing here" in caplog.text
    file.write_text(document)
    assert document_of(str(file)) == document


def test_dynamic_configuration_that_is_wrong_or_too_long(tmp_path: Path) -> None:
    file = tmp_path / "dynamic.yaml"
    file.write_text("limit.maxIDLength: [{value: long}]")
    with pytest.raises(InvalidDynamicConfig, match="can't be"):
        document_of(str(file))
    with pytest.raises(DeployError, match="functions take 2000"):
        Settings(dynamic_config="x" * 2001).parameters()
