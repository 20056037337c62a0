"""The template is what CloudFormation takes, and says what the project promises of it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from infra.localstack.environment import ensure

from tests.infra.stack import INFRA, sam
from whistlestop.deploy import template as template_of_deploy
from whistlestop.deploy.bundle import DEFAULT
from whistlestop.deploy.target import FUNCTIONS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.timeout(600)]

TEMPLATE = INFRA / "template.yaml"
WORKER = INFRA / "worker" / "template.yaml"


class _Loader(yaml.SafeLoader):
    """Short forms such as `!Ref` become {"!Ref": …}."""


def _short_form(loader: yaml.Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {f"!{tag}": loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {f"!{tag}": loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {f"!{tag}": loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _short_form)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text("utf-8"), _Loader)  # a subclass of the safe loader
    return loaded


@pytest.mark.parametrize("path", [TEMPLATE, WORKER], ids=["server", "worker"])
def test_cfn_lint_finds_nothing(path: Path) -> None:
    done = subprocess.run(
        [str(ensure("sam") / "cfn-lint"), str(path)], capture_output=True, text=True, check=False,
        env={**os.environ, "AWS_DEFAULT_REGION": "eu-central-1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", [TEMPLATE, WORKER], ids=["server", "worker"])
def test_sam_finds_nothing(path: Path) -> None:
    said = sam("validate", "--lint", "--template", str(path), environ={"AWS_DEFAULT_REGION": "eu-central-1"})
    assert "is a valid SAM Template" in said


def test_defaults_are_those_of_the_bundler(template: dict[str, Any]) -> None:
    parameters = template["Parameters"]
    assert (parameters["PythonRuntime"]["Default"], parameters["Architecture"]["Default"]) == (
        DEFAULT.runtime, DEFAULT.architecture,
    )  # fmt: skip


def test_one_function_each_with_a_role_of_its_own(template: dict[str, Any]) -> None:
    functions = {
        name: each["Properties"] for name, each in template["Resources"].items() if each["Type"].endswith("::Function")
    }
    assert sorted(each["Handler"] for each in functions.values()) == [
        f"whistlestop.{function}.lambda_function.handler" for function in sorted(FUNCTIONS)
    ]
    assert len({str(each["Role"]) for each in functions.values()}) == len(functions)


def test_secure_by_default(template: dict[str, Any]) -> None:
    parameters = template["Parameters"]
    assert parameters["AuthMode"]["Default"] == "AWS_IAM"
    assert parameters["DatabaseUrl"]["NoEcho"] is True
    assert parameters["AllowAnonymous"]["Default"] == "false"


def test_a_public_url_requires_authentication(template: dict[str, Any]) -> None:
    """CloudFormation refuses AuthMode=NONE otherwise, and the function is told what the stack was told."""
    rule = template["Rules"]["SomebodyAsks"]
    assert rule["RuleCondition"] == {"!Equals": [{"!Ref": "AuthMode"}, "NONE"]}
    (assertion,) = rule["Assertions"]
    shown = str(assertion["Assert"])
    assert all(name in shown for name in ("ApiKeysSecretArn", "ApiKeys", "JwtJwksUrl", "AllowAnonymous"))
    variables = template["Resources"]["FrontendFunction"]["Properties"]["Environment"]["Variables"]
    assert variables["WHISTLESTOP_AUTH_MODE"] == {"!Ref": "AuthMode"}
    assert variables["WHISTLESTOP_ALLOW_ANONYMOUS"] == {"!Ref": "AllowAnonymous"}


def test_no_role_may_do_anything_to_everything(template: dict[str, Any]) -> None:
    """Every statement names its actions and its resources."""
    seen = 0
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::IAM::Role":
            continue
        for policy in resource["Properties"]["Policies"]:
            inner = policy["!If"][1] if "!If" in policy else policy
            for statement in inner["PolicyDocument"]["Statement"]:
                actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
                assert not [action for action in actions if "*" in action], name
                # Traces have no resources that could be named.
                assert statement["Resource"] != "*" or all(action.startswith("xray:Put") for action in actions), name
                seen += 1
    assert seen > 10


def test_matching_alone_may_invoke_workers_and_only_those_that_are_named(template: dict[str, Any]) -> None:
    for name in ("FrontendRole", "HistoryRole"):
        assert "WorkerFunctionArns" not in str(template["Resources"][name])
    policies = template["Resources"]["MatchingRole"]["Properties"]["Policies"]
    named = {policy["!If"][0]: policy["!If"][1] for policy in policies if "!If" in policy}
    statements = [named[name]["PolicyDocument"]["Statement"] for name in ("HasWorkerFunctions", "HasWorkerRoles")]
    assert statements == [
        [
            {
                "Effect": "Allow",
                "Action": "lambda:InvokeFunction",
                "Resource": {"!Split": [",", {"!Ref": "WorkerFunctionArns"}]},
            }
        ],
        [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": {"!Split": [",", {"!Ref": "WorkerRoleArns"}]}}],
    ]


def test_the_command_can_send_it_within_a_request() -> None:
    """With aliases and short forms written out, which CloudFormation itself does not take."""
    code = {function: f"s3://{'b' * 63}/{'k' * 60}/{function}.zip" for function in FUNCTIONS}
    filled = template_of_deploy.filled(template_of_deploy.load(), code)
    assert len(filled) < template_of_deploy.MAX_BYTES
    for function in FUNCTIONS:
        properties = json.loads(filled)["Resources"][f"{function.capitalize()}Function"]["Properties"]
        assert properties["CodeUri"] == {"Bucket": "b" * 63, "Key": f"{'k' * 60}/{function}.zip"}


def test_names_contain_the_stack_name(template: dict[str, Any]) -> None:
    """A second stack in the account must not collide, schedules included."""
    named = [
        str(properties[key])
        for properties in (each["Properties"] for each in template["Resources"].values())
        for key in ("Name", "FunctionName", "QueueName", "LogGroupName")
        if key in properties and "!Ref" not in str(properties[key])
    ]
    assert len(named) >= 9
    assert [name for name in named if "${AWS::StackName}" not in name] == []
