"""The Terraform module is the template in other words: the two are compared, so that neither is changed alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest

from whistlestop.bridge import sqs
from whistlestop.deploy import template
from whistlestop.deploy.target import FUNCTIONS

MODULE = Path(__file__).resolve().parents[2] / "infra" / "terraform"
OWN_VARIABLES = {"name", "bundles"}
KINDS = {"String": "string", "Number": "number", "CommaDelimitedList": "list(string)"}
WITH_COMMAS = {"WorkerFunctionArns", "WorkerRoleArns"}
"""Lists that the template takes as one text: LocalStack can't delete a stack with a condition on a list."""
ADDRESSES = {
    **{f"{name.capitalize()}Function": "aws_lambda_function.function" for name in FUNCTIONS},
    **{f"{name.capitalize()}Logs": "aws_cloudwatch_log_group.function" for name in FUNCTIONS},
    **{f"{name.capitalize()}Role": "aws_iam_role.function" for name in FUNCTIONS},
    **{f"{name.capitalize()}Fails": "aws_cloudwatch_metric_alarm.fails" for name in FUNCTIONS},
    "FrontendUrl": "aws_lambda_function_url.frontend", "OpenUrl": "aws_lambda_permission.open_url",
    "OpenFunctionByUrl": "aws_lambda_permission.open_function_by_url", "WakeQueue": "aws_sqs_queue.wakes",
    "FailedWakes": "aws_sqs_queue.failed_wakes", "WakeGroup": "aws_scheduler_schedule_group.wakes",
    "Sweep": "aws_scheduler_schedule.sweep", "Housekeeping": "aws_scheduler_schedule.housekeeping",
    "SchedulerRole": "aws_iam_role.scheduler", "WorkerPolicy": "aws_iam_policy.worker",
    "WakesFail": "aws_cloudwatch_metric_alarm.wakes_fail",
    "HistoryThrottled": "aws_cloudwatch_metric_alarm.history_throttled", "DsqlCluster": "aws_dsql_cluster.database",
    "AuroraCluster": "aws_rds_cluster.aurora", "AuroraInstance": "aws_rds_cluster_instance.aurora",
    "AuroraSubnets": "aws_db_subnet_group.aurora", "AuroraAccessGroup": "aws_security_group.aurora",
}  # fmt: skip
"""Each resource of the template, and what it is here."""
INLINE = {
    "aws_iam_role_policy.function", "aws_iam_role_policy.scheduler", "aws_lambda_event_source_mapping.wakes",
    "terraform_data.one_database",
}  # fmt: skip
"""What the template says within other resources."""


def _unquoted(value: Any) -> Any:
    """The parser keeps quotes around strings, and notes of its own beside blocks."""
    if isinstance(value, dict):
        return {
            _unquoted(key): _unquoted(each)
            for key, each in value.items()
            if key not in {"__is_block__", "__comments__"}
        }
    if isinstance(value, list):
        return [_unquoted(each) for each in value]
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        return json.loads(value) if "${" not in value else value[1:-1]
    return value


@pytest.fixture(scope="module")
def module() -> dict[str, list[dict[str, Any]]]:
    read: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(MODULE.glob("*.tf")):
        for kind, blocks in _unquoted(hcl2.loads(path.read_text("utf-8"))).items():
            if isinstance(blocks, list):
                read.setdefault(kind, []).extend(blocks)
    return read


@pytest.fixture(scope="module")
def resources(module: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {
        f"{kind}.{name}": body
        for block in module["resource"]
        for kind, named in block.items()
        for name, body in named.items()
    }


@pytest.fixture(scope="module")
def local(module: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {name: value for block in module["locals"] for name, value in block.items()}


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return template.load()


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def test_every_resource_is_there(stack: dict[str, Any], resources: dict[str, Any]) -> None:
    assert set(stack["Resources"]) == set(ADDRESSES)
    assert set(resources) == {*ADDRESSES.values(), *INLINE}


def test_every_parameter_is_a_variable(stack: dict[str, Any], module: dict[str, list[dict[str, Any]]]) -> None:
    """With the same default, the same values allowed, and the same secrecy."""
    variables = {name: body for block in module["variable"] for name, body in block.items()}
    assert set(variables) - OWN_VARIABLES == {_snake(name) for name in stack["Parameters"]}
    for name, parameter in stack["Parameters"].items():
        variable = variables[_snake(name)]
        kind = variable["type"].removeprefix("${").removesuffix("}")
        assert kind == ("list(string)" if name in WITH_COMMAS else KINDS[parameter["Type"]]), name
        assert variable["default"] == ([] if kind == "list(string)" else parameter["Default"]), name
        assert str(variable.get("sensitive", False)).lower() == str(parameter.get("NoEcho", False)).lower(), name
        condition = str(variable.get("validation", [{}])[0].get("condition", ""))
        for allowed in parameter.get("AllowedValues", ()):
            assert re.search(rf'["\[ ]{re.escape(str(allowed))}["\], ]', condition), (name, allowed)
        if "AllowedPattern" in parameter:
            assert json.dumps(parameter["AllowedPattern"]) in condition, name


def test_the_environment_is_the_same(stack: dict[str, Any], local: dict[str, Any]) -> None:
    of_all = stack["Globals"]["Function"]["Environment"]["Variables"]
    assert set(local["environment_of_all"]) == set(of_all)
    for function in FUNCTIONS:
        properties = stack["Resources"][f"{function.capitalize()}Function"]["Properties"]
        assert set(local["environment"][function]) == set(properties["Environment"]["Variables"]), function


def _actions_of_the_template(role: dict[str, Any]) -> list[tuple[str, ...]]:
    found = []
    for policy in role["Properties"]["Policies"]:
        inner = policy["Fn::If"][1] if "Fn::If" in policy else policy
        for statement in inner["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            found.append(tuple(sorted([actions] if isinstance(actions, str) else actions)))
    return sorted(found)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_may_do_the_same(stack: dict[str, Any], local: dict[str, Any], function: str) -> None:
    logs = ("logs:CreateLogStream", "logs:PutLogEvents")
    statements = [*local["statements_of_all"], *local["statements"][function]]
    here = sorted([logs, *(tuple(sorted(statement["actions"])) for statement in statements)])
    assert here == _actions_of_the_template(stack["Resources"][f"{function.capitalize()}Role"])


def test_workers_may_do_the_same_and_what_a_bridge_does(stack: dict[str, Any], resources: dict[str, Any]) -> None:
    """Each call that the bridge makes to SQS is allowed, and none that it does not make."""
    statements = stack["Resources"]["WorkerPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    there = {
        action
        for each in statements
        for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    }
    assert set(re.findall(r'"((?:sqs|lambda):\w+)"', resources["aws_iam_policy.worker"]["policy"])) == there
    called = re.findall(r"self\._sqs\.(\w+)\(", Path(sqs.__file__).read_text("utf-8"))
    # IAM knows a batch by the name of what it is a batch of.
    made = {"sqs:" + name.removesuffix("_batch").title().replace("_", "") for name in called}
    assert {action for action in there if action.startswith("sqs:")} == made


@pytest.mark.parametrize(
    ("address", "field", "expected"),
    [
        ("aws_lambda_function.function", "timeout", ("HistoryFunction", None)),
        ("aws_sqs_queue.wakes", "visibility_timeout_seconds", ("WakeQueue", "VisibilityTimeout")),
        ("aws_sqs_queue.wakes", "message_retention_seconds", ("WakeQueue", "MessageRetentionPeriod")),
        ("aws_sqs_queue.failed_wakes", "message_retention_seconds", ("FailedWakes", "MessageRetentionPeriod")),
        *(
            (address, field, (name, theirs))
            for address, name in [
                ("aws_cloudwatch_metric_alarm.wakes_fail", "WakesFail"), ("aws_cloudwatch_metric_alarm.fails", "HistoryFails"),
                ("aws_cloudwatch_metric_alarm.history_throttled", "HistoryThrottled"),
            ]
            for field, theirs in [
                ("metric_name", "MetricName"), ("namespace", "Namespace"), ("statistic", "Statistic"), ("period", "Period"),
                ("threshold", "Threshold"), ("comparison_operator", "ComparisonOperator"),
            ]
        ),
    ],
)  # fmt: skip
def test_numbers_are_the_same(
    stack: dict[str, Any], resources: dict[str, Any], address: str, field: str, expected: tuple[str, str | None]
) -> None:
    name, theirs = expected
    of = stack["Globals"]["Function"]["Timeout"] if theirs is None else stack["Resources"][name]["Properties"][theirs]
    assert resources[address][field] == of


def test_logs_are_the_same(stack: dict[str, Any], resources: dict[str, Any]) -> None:
    (here,) = resources["aws_lambda_function.function"]["logging_config"]
    for function in FUNCTIONS:
        there = stack["Resources"][f"{function.capitalize()}Function"]["Properties"]["LoggingConfig"]
        assert (here["log_format"], here["system_log_level"]) == (there["LogFormat"], there["SystemLogLevel"])


def test_every_output_is_there(stack: dict[str, Any], module: dict[str, list[dict[str, Any]]]) -> None:
    assert {name for block in module["output"] for name in block} == {_snake(name) for name in stack["Outputs"]}


def _terraform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("terraform") or shutil.which("tofu")
    if binary is None:
        pytest.skip("neither terraform nor tofu is on the path")
    # Where no registry is reached, that is to be known in seconds.
    environ = {
        **os.environ,
        "TF_REGISTRY_CLIENT_TIMEOUT": "4",
        "TF_REGISTRY_DISCOVERY_RETRY": "0",
        "CHECKPOINT_DISABLE": "1",
    }
    return subprocess.run(
        [binary, *arguments, "-no-color"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environ,
    )


def test_terraform_finds_it_well_formed() -> None:
    done = _terraform(MODULE, "fmt", "-check", "-diff")
    assert done.returncode == 0, done.stdout + done.stderr


def test_terraform_finds_it_valid(tmp_path: Path) -> None:
    """Against the provider's schema, where the provider can be had."""
    shutil.copytree(MODULE, tmp_path / "module", ignore=shutil.ignore_patterns(".terraform*"))
    made = _terraform(tmp_path / "module", "init", "-backend=false", "-input=false")
    if made.returncode != 0:
        pytest.skip("the provider hashicorp/aws can't be had here: the module is compared, and not validated")
    done = _terraform(tmp_path / "module", "validate")
    assert done.returncode == 0, done.stdout + done.stderr
