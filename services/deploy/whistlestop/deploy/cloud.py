"""CloudFormation, S3 and other AWS services as a deployment needs them, with readable errors."""

from __future__ import annotations

import contextlib
import os
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.deploy.settings import DeployError
from whistlestop.net.aws import Aws, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

POLL_S = 2.0
_LEFTOVERS = {"ROLLBACK_COMPLETE", "REVIEW_IN_PROGRESS", "ROLLBACK_FAILED"}
"""States of a stack that was never created: it has no resources, and cannot be updated."""
_BAD_CREDENTIALS = {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException"}
_NOTHING = ("didn't contain changes", "No updates are to be performed", "no changes")


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Convert exceptions of boto3 to DeployError."""
    from botocore import exceptions  # type: ignore[import-untyped]  # carries no types

    try:
        yield
    except exceptions.NoRegionError:
        raise DeployError("no region is named: give --region, set AWS_REGION, or name one in the profile") from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
        raise DeployError(
            "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give --profile "
            "(`aws configure` makes one)"
        ) from None
    except exceptions.ProfileNotFound as error:
        raise DeployError(str(error)) from None
    except exceptions.EndpointConnectionError as error:
        raise DeployError(f"AWS can't be reached: {error}") from None
    except exceptions.ClientError as error:
        said = error.response["Error"]
        if said["Code"] in _BAD_CREDENTIALS:
            raise DeployError(f"AWS does not take these credentials ({said['Code']}): sign in again") from None
        raise DeployError(f"AWS refused {error.operation_name}: {said['Code']}: {said['Message']}") from None
    except exceptions.BotoCoreError as error:
        raise DeployError(f"{type(error).__name__}: {error}") from None


@dataclass(slots=True)
class Stack:
    """A stack as described by CloudFormation."""

    status: str
    parameters: dict[str, str]
    outputs: dict[str, str]


class Cloud:
    """An account and region. `session` is a boto3 session."""

    def __init__(self, region: str = "", profile: str = "") -> None:
        import boto3  # type: ignore[import-untyped]  # carries no types

        # Unlike Lambda and the other AWS tools, boto3 reads only AWS_DEFAULT_REGION and not AWS_REGION.
        region = region or os.environ.get("AWS_REGION", "")
        with in_words():
            self.session: Any = boto3.session.Session(region_name=region or None, profile_name=profile or None)
            self.cloudformation = self.session.client("cloudformation")
        self.region: str = self.session.region_name

    @cached_property
    def account(self) -> str:
        with in_words():
            return str(self.session.client("sts").get_caller_identity()["Account"])

    @property
    def is_local(self) -> bool:
        """Whether the AWS endpoint is on this machine, as with LocalStack."""
        return urlsplit(self.cloudformation.meta.endpoint_url).hostname in {"127.0.0.1", "::1", "localhost"}

    def aws(self) -> Aws:
        """Return our own AWS client, with the session's credentials."""
        return Aws(self.region, lambda: frozen(self.session.get_credentials().get_frozen_credentials()))

    # ---- the stack ---------------------------------------------------------------------------------------------------

    def stack(self, name: str) -> Stack | None:
        """Return the stack of that name, or None if it does not exist. Raise DeployError."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # as above

        with in_words():
            try:
                (found,) = self.cloudformation.describe_stacks(StackName=name)["Stacks"]
            except ClientError as error:
                if error.response["Error"]["Code"] == "ValidationError":  # it does not exist
                    return None
                raise
        return Stack(
            found["StackStatus"],
            {each["ParameterKey"]: each.get("ParameterValue", "") for each in found.get("Parameters", ())},
            {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", ())},
        )

    def clear_leftover(self, name: str, found: Stack | None, report: Callable[[str], None]) -> Stack | None:
        """Delete a stack whose creation failed. Raises DeployError if an operation on it is in progress.

        Returns the stack if it exists afterwards, else None.
        """
        if found is None or found.status == "DELETE_COMPLETE":
            return None
        if found.status in _LEFTOVERS:
            report(f"the stack {name} was never created ({found.status}): deleting it first")
            self.delete(name, report)
            return None
        if found.status.endswith("_IN_PROGRESS"):
            raise DeployError(f"an operation on the stack {name} is in progress ({found.status}): wait until it ends")
        return found

    def change(
        self,
        name: str,
        template: str,
        parameters: Mapping[str, str],
        found: Stack | None,
        report: Callable[[str], None],
    ) -> bool:
        """Create or update the stack, and wait. Return False if there was nothing to change.

        Raises DeployError with the resources that failed.
        """
        kept = [] if found is None else [key for key in found.parameters if key not in parameters]
        listed: list[dict[str, Any]] = [
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ]
        listed += [{"ParameterKey": key, "UsePreviousValue": True} for key in kept]
        change_set = f"deploy-{time.strftime('%Y%m%d%H%M%S', time.gmtime())}"
        with in_words():
            since = self._newest_event(name) if found else ""
            self.cloudformation.create_change_set(
                StackName=name, ChangeSetName=change_set, ChangeSetType="UPDATE" if found else "CREATE",
                TemplateBody=template, Parameters=listed,
                Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
                Tags=[{"Key": "whistlestop", "Value": name}],
            )  # fmt: skip
            while (made := self._change_set(name, change_set))["Status"] in {"CREATE_PENDING", "CREATE_IN_PROGRESS"}:
                time.sleep(POLL_S / 2)
            if made["Status"] != "CREATE_COMPLETE":
                reason = made.get("StatusReason", "")
                self.cloudformation.delete_change_set(StackName=name, ChangeSetName=change_set)
                if any(words in reason for words in _NOTHING):
                    return False
                if found is None:
                    self.cloudformation.delete_stack(StackName=name)
                raise DeployError(f"CloudFormation does not accept the template: {reason}")
            self.cloudformation.execute_change_set(StackName=name, ChangeSetName=change_set)
        wanted = "UPDATE_COMPLETE" if found else "CREATE_COMPLETE"
        self._wait(name, {wanted, "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"}, since, report)
        return True

    def delete(self, name: str, report: Callable[[str], None]) -> None:
        """Delete the stack, and wait. Raises DeployError with what could not be deleted."""
        with in_words():
            since = self._newest_event(name)
            self.cloudformation.delete_stack(StackName=name)
        self._wait(name, {"DELETE_COMPLETE"}, since, report)

    def resources(self, name: str) -> list[str]:
        """Return the types of the stack's resources. Raise DeployError, also if there is no such stack."""
        with in_words():
            pages = self.cloudformation.get_paginator("list_stack_resources").paginate(StackName=name)
            return [each["ResourceType"] for page in pages for each in page["StackResourceSummaries"]]

    def _change_set(self, stack: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.cloudformation.describe_change_set(StackName=stack, ChangeSetName=name)
        return found

    def _newest_event(self, name: str) -> str:
        events = self.cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        return str(events[0]["EventId"]) if events else ""

    def _wait(self, name: str, wanted: set[str], since: str, report: Callable[[str], None]) -> None:
        """Wait until the stack has a final status, printing its events."""
        seen: set[str] = set()
        failed: list[str] = []
        while True:
            for event in self._events(name, since):
                if event["EventId"] in seen:
                    continue
                seen.add(event["EventId"])
                reason = event.get("ResourceStatusReason", "")
                report(f"  {event['ResourceStatus']:<28} {event['LogicalResourceId']}")
                if event["ResourceStatus"].endswith("FAILED") and "cancelled" not in reason:
                    failed.append(f"{event['LogicalResourceId']} ({event['ResourceType']}): {reason}")
            found = self.stack(name)
            if found is None or found.status in wanted:
                return
            if not found.status.endswith("_IN_PROGRESS"):
                reasons = "\n".join(f"  {line}" for line in failed) or "  CloudFormation gives no reason"
                raise DeployError(f"the stack {name} is in {found.status}. What failed:\n{reasons}")
            time.sleep(POLL_S)

    def _events(self, name: str, since: str) -> list[dict[str, Any]]:
        """Return the events after `since`, oldest first."""
        from botocore.exceptions import ClientError

        fresh: list[dict[str, Any]] = []
        with in_words(), contextlib.suppress(StopIteration):
            try:
                pages = self.cloudformation.get_paginator("describe_stack_events").paginate(StackName=name)
                for page in pages:
                    for event in page["StackEvents"]:
                        if event["EventId"] == since:
                            raise StopIteration
                        fresh.append(event)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ValidationError":  # it is gone
                    raise
        return fresh[::-1]

    # ---- bundles -----------------------------------------------------------------------------------------------------

    def bucket(self, *, create: bool = True) -> str:
        """Return the bucket for bundles, one per account and region, not public; empty if missing and not `create`.

        Raise DeployError.
        """
        from botocore.exceptions import ClientError

        s3, name = self.session.client("s3"), f"whistlestop-deploy-{self.account}-{self.region}"
        with in_words():
            try:
                s3.head_bucket(Bucket=name, ExpectedBucketOwner=self.account)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise DeployError(f"the bucket {name} is not this account's to use: {error}") from error
                if not create:
                    return ""
                where = {} if self.region == "us-east-1" else {"LocationConstraint": self.region}
                s3.create_bucket(Bucket=name, **({"CreateBucketConfiguration": where} if where else {}))
                s3.put_public_access_block(
                    Bucket=name,
                    PublicAccessBlockConfiguration={
                        "BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True,
                        "RestrictPublicBuckets": True,
                    },
                )  # fmt: skip
        return name

    def upload(self, bucket: str, key: str, archive: Path) -> bool:
        """Upload a bundle; return False if it is there already, since keys are named by content. Raise DeployError."""
        from botocore.exceptions import ClientError

        s3 = self.session.client("s3")
        with in_words():
            try:
                s3.head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                s3.upload_file(str(archive), bucket, key)
                return True
        return False

    def prune(self, bucket: str, prefix: str, kept: Iterable[str] = ()) -> None:
        """Delete the objects below `prefix` that are not in `kept`. Raise DeployError."""
        s3, keep = self.session.client("s3"), set(kept)
        with in_words():
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for each in page.get("Contents", ()):
                    if each["Key"] not in keep:
                        s3.delete_object(Bucket=bucket, Key=each["Key"])

    # ---- secrets and databases ---------------------------------------------------------------------------------------

    def keep_secret(self, name: str, value: str) -> None:
        """Store the value as a SecureString parameter, replacing an existing one. Raise DeployError."""
        with in_words():
            self.session.client("ssm").put_parameter(
                Name=name, Value=value, Type="SecureString", Overwrite=True, Tier="Intelligent-Tiering"
            )

    def forget_secret(self, name: str) -> None:
        """Delete the parameter; nothing happens if it does not exist. Raise DeployError."""
        from botocore.exceptions import ClientError

        with in_words():
            try:
                self.session.client("ssm").delete_parameter(Name=name)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ParameterNotFound":
                    raise

    def environment(self, function: str) -> dict[str, str]:
        """Return the environment variables of a function; empty if it has none. Raise DeployError."""
        with in_words():
            found = self.session.client("lambda").get_function_configuration(FunctionName=function)
        return dict(found.get("Environment", {}).get("Variables", {}))

    def delete_dsql(self, identifier: str) -> None:
        """Delete a cluster with all its data. Raise DeployError, also if it does not exist."""
        with in_words():
            self.session.client("dsql").delete_cluster(identifier=identifier)
