"""Each database option of the template is one command, and what is open or unverified is asked for by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.server.test_start import Authority
from whistlestop.deploy import run, template
from whistlestop.deploy.settings import DeployError, Settings

AURORA: dict[str, Any] = {"create_database": "aurora-serverless", "vpc_id": "vpc-1", "subnet_ids": "subnet-1,subnet-2"}
STATEFUL = {
    "DsqlCluster": "AWS::DSQL::Cluster", "AuroraCluster": "AWS::RDS::DBCluster", "AuroraInstance": "AWS::RDS::DBInstance",
    "AuroraSubnets": "AWS::RDS::DBSubnetGroup", "AuroraAccessGroup": "AWS::EC2::SecurityGroup",
    "WakeQueue": "AWS::SQS::Queue", "FailedWakes": "AWS::SQS::Queue", "WakeGroup": "AWS::Scheduler::ScheduleGroup",
}  # fmt: skip
"""Logical ids of release 0.1.0: under another one, an update would make a new resource and delete the data."""


@pytest.fixture
def ca(tmp_path: Path) -> str:
    return str(Authority(tmp_path).path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"database_url": "postgresql://u:p@db.example/x"}, {"DatabaseUrlParameter": "/whistlestop/database-url"}),
        ({"database_url": "postgresql://u:p@db.example/x", "plain_url": True}, {"DatabaseUrl": "postgresql://u:p@db.example/x"}),
        ({"database_url": "ssm:/a/url"}, {"DatabaseUrlParameter": "/a/url"}),
        ({"database_url": "secretsmanager:arn:aws:secretsmanager:r:1:secret:s"}, {"DatabaseUrlSecretArn": "arn:aws:secretsmanager:r:1:secret:s"}),
        ({"create_database": "dsql"}, {"CreateDatabase": "dsql"}),
        ({**AURORA, "client_cidr": "0.0.0.0/0", "others": {"DatabaseTls": "require"}}, {"AuroraClientCidr": "0.0.0.0/0"}),
        ({"database_url": "postgresql://db.example/x", "database_user": "app"}, {"DatabaseUser": "app"}),
    ],
)  # fmt: skip
def test_each_option_is_one_command(given: dict[str, Any], expected: dict[str, str]) -> None:
    made = run.plan(Settings(**given), None)
    assert {name: made.complete[name] for name in expected} == expected
    assert made.complete["DatabaseTls"] == given.get("others", {}).get("DatabaseTls", "verify-full")


def test_aurora_with_amazons_authorities_and_a_user(ca: str) -> None:
    settings = Settings(**AURORA, client_cidr="203.0.113.0/24", database_ca=ca, database_user="app")
    made = run.plan(settings, None)
    assert made.complete["DatabaseCaParameter"] == settings.ca_parameter() == "/whistlestop/database-ca"
    assert made.complete["DatabaseTls"] == "verify-full"
    assert settings.authorities() == Path(ca).read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (AURORA, "takes --client-cidr"),
        ({**AURORA, "client_cidr": "0.0.0.0/0"}, "give --database-ca"),
        ({**AURORA, "client_cidr": "everybody"}, "AuroraClientCidr can't be everybody"),
        ({"create_database": "dsql", "others": {"DatabaseTls": "disable"}}, "DatabaseTls can't be disable"),
        ({"create_database": "dsql", "database_user": "a;b"}, "DatabaseUser can't be a;b"),
    ],
)
def test_an_open_database_port_needs_an_explicit_parameter(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DeployError, match=said):
        run.plan(Settings(**given), None)


@pytest.mark.parametrize(
    ("text", "said"), [("", "no certificates"), ("-----BEGIN CERTIFICATE-----" + "x" * 9000, "region alone")]
)
def test_authorities_that_cannot_be_kept_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(DeployError, match=said):
        Settings(database_ca=str(tmp_path / "ca.pem")).authorities()
    with pytest.raises(DeployError, match="No such file"):
        Settings(database_ca=str(tmp_path / "none.pem")).authorities()


def test_the_template_has_the_same_rules() -> None:
    """CloudFormation itself refuses an open port that nobody named, and a certificate that nobody would verify."""
    stack = template.load()
    assert stack["Parameters"]["AuroraClientCidr"]["Default"] == ""
    assert stack["Parameters"]["DatabaseTls"]["Default"] == "verify-full"
    shown = [str(each["Assert"]) for each in stack["Rules"]["AuroraHasANetwork"]["Assertions"]]
    assert any("AuroraClientCidr" in each for each in shown)
    assert any("DatabaseCaParameter" in each and "DatabaseTls" in each for each in shown)


def test_stateful_resources_keep_their_names() -> None:
    resources = template.load()["Resources"]
    assert {name: resources[name]["Type"] for name in STATEFUL} == STATEFUL
    for name in ("DsqlCluster", "AuroraCluster"):
        assert resources[name]["UpdateReplacePolicy"] in {"Retain", "Snapshot"}


def test_concurrency_is_reserved_only_if_configured() -> None:
    """By default nothing is: a new account has ten executions in all, and AWS refuses to reserve the last of them."""
    stack = template.load()
    for function in ("Frontend", "History", "Matching"):
        assert stack["Parameters"][f"{function}Concurrency"]["Default"] == -1
        reserved = stack["Resources"][f"{function}Function"]["Properties"]["ReservedConcurrentExecutions"]
        assert reserved == {"Fn::If": [f"Limits{function}", {"Ref": f"{function}Concurrency"}, {"Ref": "AWS::NoValue"}]}


def test_with_a_user_no_function_reads_the_administrators_password() -> None:
    """The role of each function may sign in as that user, and the secret of the cluster is left alone."""
    stack = template.load()
    assert stack["Conditions"]["HasAuroraPassword"] == {
        "Fn::And": [{"Condition": "HasAurora"}, {"Fn::Not": [{"Condition": "HasUser"}]}]
    }
    assert stack["Resources"]["AuroraCluster"]["Properties"]["EnableIAMDatabaseAuthentication"] is True
    for function in ("Frontend", "History", "Matching"):
        policies = stack["Resources"][f"{function}Role"]["Properties"]["Policies"]
        found = {
            each["Fn::If"][0]: each["Fn::If"][1]["PolicyDocument"]["Statement"][0]
            for each in policies
            if "Fn::If" in each
        }
        assert "MasterUserSecret" in str(found["HasAuroraPassword"])
        assert found["HasUser"]["Action"] == "rds-db:connect"
        assert "HasAurora" not in found
