"""Start workers in AWS Lambda, each by an asynchronous invocation without a payload, as Temporal's controller does.

The function runs a worker until its time is nearly over, as the SDK's `contrib.aws.lambda_worker` does. Invocations use
our own AWS client; boto3 is only imported where a role has to be assumed first.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from whistlestop.matching.push.provider import ProviderError

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.matching.push.provider import Details, Work

_SESSION = "whistlestop-push"
_RENEW_S = 60.0
_SECTIONS = 6
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_ROLE = re.compile(r"role/.+")
_TIMEOUT_S = 10


def _sections(arn: str) -> list[str]:
    if not arn.startswith("arn:"):
        raise ProviderError("arn: invalid prefix")
    parts = arn.split(":", _SECTIONS - 1)
    if len(parts) < _SECTIONS:
        raise ProviderError("arn: not enough sections")
    return parts


class AwsLambda:
    """The provider `aws-lambda`.

    Details: `arn`; `role` and `role_external_id` to invoke the function as another role.
    """

    backlog_per_worker = 10

    def __init__(self, client: Callable[..., Any] | None = None, *, require_role: bool = False) -> None:
        """Create the provider; `client` creates clients as boto3.client does."""
        self._client = client or _our_client
        self._require_role = require_role
        self._lambdas: dict[tuple[str, str, str], tuple[float, float, Any]] = {}

    def check(self, details: Details) -> None:
        """Raise ProviderError for details that are invalid."""
        for name in ("role", "role_external_id") if self._require_role else ():
            if not _text(details, name):
                raise ProviderError(f'AWS Lambda compute provider requires "{name}" to be configured')
        try:
            self._target(details)
        except ProviderError as error:
            raise ProviderError(f"cannot connect to the compute provider: {error}") from error

    async def validate(self, details: Details) -> None:
        """Ask Lambda for a dry run, which needs no other permission than an invocation. Raise ProviderError."""
        self.check(details)
        arn, region, role = self._target(details)
        external_id = _text(details, "role_external_id")
        try:
            function = await asyncio.to_thread(self._lambda, region, role, external_id)
        except ProviderError as error:
            raise ProviderError(f"cannot connect to the compute provider: {error}") from error
        except _errors() as error:
            raise ProviderError(f"cannot connect to the compute provider: {error}") from error
        try:
            await asyncio.to_thread(function.invoke, FunctionName=arn, InvocationType="DryRun", Payload=b"")
        except _errors() as error:
            raise ProviderError(f"cannot access the compute resource: {error}") from error
        if role and external_id:
            await self._check_enforced(region, role)

    async def start(self, details: Details, work: Work, count: int) -> int:
        """Invoke the function `count` times; return how many invocations succeeded.

        Raise ProviderError when none did.
        """
        arn, region, role = self._target(details)
        try:
            function = await asyncio.to_thread(self._lambda, region, role, _text(details, "role_external_id"))
        except _errors() as error:
            raise ProviderError(f"failed to invoke lambda: {error}") from error
        asked = {"FunctionName": arn, "InvocationType": "Event", "Payload": b""}
        calls = (asyncio.to_thread(function.invoke, **asked) for _ in range(count))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        for failure in failures:
            if not isinstance(failure, _errors()):
                raise failure
        if len(failures) == count:
            raise ProviderError(f"failed to invoke lambda: {failures[0]}")
        return count - len(failures)

    def _target(self, details: Details) -> tuple[str, str, str]:
        arn = _text(details, "arn")
        if not arn:
            raise ProviderError("AWS Lambda Function ARN not found or invalid")
        region = _sections(arn)[3]
        if not region:
            raise ProviderError(f"region not found in ARN: {arn}")
        if not _REGION.fullmatch(region):
            raise ProviderError(f"region not valid in ARN: {arn}")
        role = _text(details, "role")
        if role:
            service, resource = _sections(role)[2], _sections(role)[5]
            if service != "iam":
                raise ProviderError(f"role ARN must be an IAM resource: {role}")
            if not _ROLE.fullmatch(resource):
                raise ProviderError(f"role ARN must reference a role: {role}")
        return arn, region, role

    def _lambda(self, region: str, role: str, external_id: str) -> Any:
        """Return a client, cached while its credentials are valid. Raise ProviderError if the role can't be assumed.

        Their lifetime is checked by the wall clock, which AWS uses, and by the steady one.
        """
        key = (region, role, external_id)
        until_s, steady_s, client = self._lambdas.get(key, (0.0, 0.0, None))
        if client is not None and time.time() < until_s and time.monotonic() < steady_s:
            return client
        if not role:
            client = self._client("lambda", region_name=region)
            self._lambdas[key] = (float("inf"), float("inf"), client)
            return client
        named = {"ExternalId": external_id} if external_id else {}
        sts = self._client("sts", region_name=region)
        try:
            keys = sts.assume_role(RoleArn=role, RoleSessionName=_SESSION, **named)["Credentials"]
        except _errors() as error:
            raise ProviderError(f"failed to assume role {role}: {_sts_error(error)}") from error
        client = self._client(
            "lambda", region_name=region, aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"], aws_session_token=keys["SessionToken"],
        )  # fmt: skip
        until_s = keys["Expiration"].timestamp() - _RENEW_S
        self._lambdas[key] = (until_s, time.monotonic() + until_s - time.time(), client)
        return client

    async def _check_enforced(self, region: str, role: str) -> None:
        """Raise ProviderError if the role can be assumed without the external id.

        Then anyone who knows the role's name could let this server use it.
        """
        # On a thread, too: the first call imports a lot.
        sts = await asyncio.to_thread(self._client, "sts", region_name=region)
        try:
            await asyncio.to_thread(sts.assume_role, RoleArn=role, RoleSessionName=_SESSION)
        except _errors() as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
            if code == "AccessDenied":
                return
            problem = f"unable to verify external ID enforcement for role {role}: {_sts_error(error)}"
            raise ProviderError(problem) from error
        raise ProviderError(
            f"trust credential not enforced on the role: role {role} does not require the configured external ID; "
            "update the role's trust policy to enforce the aws:ExternalId condition"
        )


def _text(details: Details, name: str) -> str:
    value = details.get(name)
    return value if isinstance(value, str) else ""


def _our_client(service: str, *, region_name: str, **keys: str) -> Any:
    from whistlestop.net import aws

    if service != "lambda":
        import boto3  # type: ignore[import-untyped]  # carries no types
        from botocore.config import Config  # type: ignore[import-untyped]  # carries no types

        config = Config(connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, retries={"max_attempts": 2})
        session = boto3.session.Session(botocore_session=aws.find_session(for_caller=True))
        return session.client(service, config=config, region_name=region_name)
    found = aws.from_environment(for_caller=True) if not keys else None
    given = aws.Credentials(
        keys.get("aws_access_key_id", ""), keys.get("aws_secret_access_key", ""), keys.get("aws_session_token", "")
    )
    return aws.LambdaCalls(aws.Aws(region_name, found.credentials if found is not None else lambda: given))


def _sts_error(error: Exception) -> str:
    """Describe a failed AssumeRole in the words of AWS's SDK for Go, which Temporal's server uses."""
    response: dict[str, Any] = getattr(error, "response", {})
    if response:
        about, answer = response.get("ResponseMetadata", {}), response.get("Error", {})
        status, request_id = about.get("HTTPStatusCode", 0), about.get("RequestId", "")
        problem = f"https response error StatusCode: {status}, RequestID: {request_id}, "
        problem += f"api error {answer.get('Code', '')}: {answer.get('Message', '')}"
    elif type(error).__name__ == "NoCredentialsError":
        problem = f"get identity: get credentials: failed to refresh cached credentials, {error}"
    else:
        problem = str(error)
    return f"operation error STS: AssumeRole, {problem}"


def _errors() -> tuple[type[Exception], ...]:
    """Return the errors that clients raise: ours, and boto3's if it is imported."""
    from whistlestop.net.aws import AwsError

    if "botocore.exceptions" not in sys.modules:
        return (AwsError,)
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]  # carries no types

    return (AwsError, BotoCoreError, ClientError)
