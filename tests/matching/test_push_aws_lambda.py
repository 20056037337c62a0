"""Workers in AWS Lambda, against moto: what is asked, by which role, and what is said when it fails."""

from __future__ import annotations

import io
import json
import os
import zipfile
from typing import TYPE_CHECKING, Any

import boto3  # type: ignore[import-untyped]  # carries no types
import pytest
from botocore.stub import Stubber  # type: ignore[import-untyped]  # carries no types
from moto import mock_aws

from whistlestop.common.context import CallContext
from whistlestop.common.versioning.deployments import Version
from whistlestop.matching.push.aws_lambda import AwsLambda
from whistlestop.matching.push.provider import ProviderError, Work
from whistlestop.net import aws as aws_calls
from whistlestop.net.aws import AwsError, LambdaCalls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORK = Work(CallContext(namespace_id="n"), Version(deployment_name="d", build_id="1"), "default")
REGION = "eu-central-1"
ROLE = "arn:aws:iam::123456789012:role/invoker"


class Aws:
    """moto, and a note of every call that is made through it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.made: list[tuple[str, dict[str, Any]]] = []
        self.trust_anyone = False

    def client(self, service: str, **given: Any) -> Any:
        self.made.append((service, given))
        client = boto3.client(service, **given)
        client.meta.events.register(f"before-parameter-build.{service}.*", self._note)
        return client

    def _note(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.calls.append((model.name, dict(params)))


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with mock_aws(config={"lambda": {"use_docker": False}}):
        yield Aws()


@pytest.fixture
def arn(aws: Aws) -> str:
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*"}]}
    role = boto3.client("iam").create_role(RoleName="worker", AssumeRolePolicyDocument=json.dumps(trust))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("handler.py", "def handler(event, context): pass")
    made = boto3.client("lambda", region_name=REGION).create_function(
        FunctionName="worker", Role=role["Role"]["Arn"], Runtime="python3.11", Handler="handler.handler",
        Code={"ZipFile": packed.getvalue()},
    )  # fmt: skip
    return str(made["FunctionArn"])


async def test_a_worker_is_an_asynchronous_invocation_without_a_payload(aws: Aws, arn: str) -> None:
    provider = AwsLambda(aws.client)
    assert await provider.start({"arn": arn}, WORK, 3) == 3
    assert aws.calls == [("Invoke", {"FunctionName": arn, "InvocationType": "Event", "Payload": b""})] * 3
    assert aws.made == [("lambda", {"region_name": REGION})], "one client, in the function's region"


async def test_validation_is_a_dry_run(aws: Aws, arn: str) -> None:
    await AwsLambda(aws.client).validate({"arn": arn})
    assert aws.calls == [("Invoke", {"FunctionName": arn, "InvocationType": "DryRun", "Payload": b""})]


async def test_a_function_that_is_not_there_can_t_be_started(aws: Aws, arn: str) -> None:
    function = aws.client("lambda", region_name=REGION)
    stub = Stubber(function)
    stub.add_client_error("invoke", "ResourceNotFoundException", "Function not found", 404)
    with stub, pytest.raises(ProviderError, match=r"^failed to invoke lambda: .*ResourceNotFoundException"):
        await AwsLambda(lambda *_, **__: function).start({"arn": arn}, WORK, 1)


async def test_a_function_that_may_not_be_invoked_is_refused(aws: Aws, arn: str) -> None:
    function = aws.client("lambda", region_name=REGION)
    stub = Stubber(function)
    stub.add_client_error("invoke", "AccessDeniedException", "no identity-based policy allows it", 403)
    with stub, pytest.raises(ProviderError, match=r"^cannot access the compute resource: .*AccessDenied.*policy"):
        await AwsLambda(lambda *_, **__: function).validate({"arn": arn})


async def test_starts_refused_by_lambda_are_not_counted(aws: Aws, arn: str) -> None:
    function = aws.client("lambda", region_name=REGION)
    stub = Stubber(function)
    stub.add_response("invoke", {"StatusCode": 202})
    stub.add_client_error("invoke", "TooManyRequestsException", "slow down", 429)
    with stub:
        assert await AwsLambda(lambda *_, **__: function).start({"arn": arn}, WORK, 2) == 1


async def test_a_role_is_assumed_with_its_external_id_and_kept(aws: Aws, arn: str) -> None:
    provider = AwsLambda(aws.client)
    details = {"arn": arn, "role": ROLE, "role_external_id": "x-1"}
    await provider.start(details, WORK, 1)
    await provider.start(details, WORK, 1)
    names = [name for name, _ in aws.calls]
    assert names == ["AssumeRole", "Invoke", "Invoke"]
    assert aws.calls[0][1] == {"RoleArn": ROLE, "RoleSessionName": "whistlestop-push", "ExternalId": "x-1"}
    assert aws.made[1][1]["aws_session_token"], "invoked with the role's credentials"


async def test_a_role_that_anyone_may_assume_is_refused(aws: Aws, arn: str) -> None:
    """moto lets every AssumeRole pass, so the one without the external id does, too."""
    with pytest.raises(ProviderError, match=r"^trust credential not enforced on the role: role .* does not require"):
        await AwsLambda(aws.client).validate({"arn": arn, "role": ROLE, "role_external_id": "x-1"})


@pytest.mark.parametrize("validates", [True, False])
async def test_a_role_that_cannot_be_assumed_is_reported_in_the_words_of_aws_for_go(
    aws: Aws, arn: str, validates: bool
) -> None:
    sts = aws.client("sts", region_name=REGION)
    stub = Stubber(sts)
    stub.add_client_error("assume_role", "AccessDenied", "not yours", 403, response_meta={"RequestId": "r-1"})
    provider = AwsLambda(lambda *_, **__: sts)
    details = {"arn": arn, "role": ROLE}
    with stub, pytest.raises(ProviderError) as refused:
        await (provider.validate(details) if validates else provider.start(details, WORK, 1))
    assert str(refused.value) == (
        f"{'cannot connect to the compute provider: ' if validates else ''}"
        f"failed to assume role {ROLE}: operation error STS: AssumeRole, "
        "https response error StatusCode: 403, RequestID: r-1, api error AccessDenied: not yours"
    )


async def test_a_role_whose_external_id_can_t_be_checked(aws: Aws, arn: str) -> None:
    sts = aws.client("sts", region_name=REGION)
    stub = Stubber(sts)
    stub.add_client_error("assume_role", "Throttling", "slow down", 400, response_meta={"RequestId": "r-1"})
    with stub, pytest.raises(ProviderError) as refused:
        await AwsLambda(lambda *_, **__: sts)._check_enforced(REGION, ROLE)
    assert str(refused.value) == (
        f"unable to verify external ID enforcement for role {ROLE}: operation error STS: AssumeRole, "
        "https response error StatusCode: 400, RequestID: r-1, api error Throttling: slow down"
    )


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({}, "cannot connect to the compute provider: AWS Lambda Function ARN not found or invalid"),
        ({"arn": "foo"}, "cannot connect to the compute provider: arn: invalid prefix"),
        ({"arn": "arn:aws:lambda"}, "cannot connect to the compute provider: arn: not enough sections"),
        (
            {"arn": "arn:aws:lambda::1:function:w"},
            "cannot connect to the compute provider: region not found in ARN: arn:aws:lambda::1:function:w",
        ),
        (
            {"arn": "arn:aws:lambda:r:1:function:w", "role": "arn:aws:s3:::foo"},
            "cannot connect to the compute provider: role ARN must be an IAM resource: arn:aws:s3:::foo",
        ),
        (
            {"arn": "arn:aws:lambda:r:1:function:w", "role": "arn:aws:iam::1:user/foo"},
            "cannot connect to the compute provider: role ARN must reference a role: arn:aws:iam::1:user/foo",
        ),
    ],
)
async def test_details_that_can_t_be_right_are_refused_in_temporal_s_words(details: dict[str, str], said: str) -> None:
    with pytest.raises(ProviderError) as refused:
        await AwsLambda(lambda *_, **__: None).validate(details)
    assert str(refused.value) == said


def test_a_required_role_needs_an_external_id() -> None:
    provider = AwsLambda(require_role=True)
    arn = "arn:aws:lambda:r:1:function:w"
    with pytest.raises(ProviderError, match=r'^AWS Lambda compute provider requires "role" to be configured$'):
        provider.check({"arn": arn})
    with pytest.raises(ProviderError, match=r'^AWS Lambda compute provider requires "role_external_id" to be'):
        provider.check({"arn": arn, "role": ROLE})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A machine without credentials, and every connection that is tried from it. None is made."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    tried: list[str] = []

    def connect(address: tuple[str, int], *args: Any, **kwargs: Any) -> Any:
        tried.append(address[0])
        raise OSError("no network in this test")

    monkeypatch.setattr("botocore.awsrequest.AWSHTTPConnection._new_conn", lambda self: connect((self.host, self.port)))
    monkeypatch.setattr("socket.create_connection", connect)
    return tried


@pytest.mark.parametrize("role", [{}, {"role": ROLE, "role_external_id": "outside"}], ids=["own", "assumed"])
async def test_no_caller_makes_the_server_ask_a_metadata_address(asked: list[str], role: dict[str, str]) -> None:
    """With nothing configured, there are no credentials, and that is said at once."""
    arn = f"arn:aws:lambda:{REGION}:123456789012:function:worker"
    with pytest.raises(ProviderError, match=r"^cannot connect to the compute provider: .*credentials") as refused:
        await AwsLambda().validate({"arn": arn, **role})
    assumed = f"failed to assume role {ROLE}: operation error STS: AssumeRole, get identity: get credentials: "
    assert (assumed in str(refused.value)) == bool(role)
    assert asked == []


async def test_an_operator_may_allow_the_metadata_service(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")
    arn = f"arn:aws:lambda:{REGION}:123456789012:function:worker"
    with pytest.raises(ProviderError, match="credentials"):
        await AwsLambda().validate({"arn": arn})
    assert set(asked) == {"169.254.169.254"}


@pytest.mark.parametrize(
    "region", ["attacker.example/", "x.attacker.example:443/", "a#", "a@b", "eu_central", "EU", "a b", "-"]
)
async def test_a_region_leads_to_no_other_domain(
    asked: list[str], region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(ProviderError, match="region not valid in ARN"):
        await AwsLambda().validate({"arn": f"arn:aws:lambda:{region}:123456789012:function:worker"})
    with pytest.raises(AwsError, match="is not the name of a region"):
        LambdaCalls(aws_calls.Aws(region, lambda: aws_calls.Credentials("k", "s"), {})).invoke(FunctionName="f")
    assert asked == []
