"""The real template, built and deployed by SAM onto LocalStack, and called through its Function URL only."""

from __future__ import annotations

import asyncio
import base64
import http.client
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]  # carries no types
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]  # carries no types
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]  # carries no types
from botocore.credentials import Credentials  # type: ignore[import-untyped]  # carries no types
from infra.localstack.environment import ensure
from infra.localstack.server import REGION

from tests.functions.client import Cloud
from tests.patience import PATIENCE_S
from whistlestop.deploy.target import here

if TYPE_CHECKING:
    from infra.localstack.server import LocalStack

INFRA = Path(__file__).resolve().parents[2] / "infra"
_CALL_S = PATIENCE_S


def sam(*arguments: str, environ: dict[str, str], folder: Path = INFRA) -> str:
    """Run the SAM command line beside the template; what it printed."""
    done = subprocess.run(
        [str(ensure("sam") / "sam"), *arguments], cwd=folder, env={**os.environ, "SAM_CLI_TELEMETRY": "0", **environ},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@dataclass(frozen=True)
class Stack:
    """A deployed stack."""

    name: str
    server: LocalStack

    def client(self, service: str) -> Any:
        return boto3.client(
            service, endpoint_url=self.server.url, region_name=REGION, aws_access_key_id="test",
            aws_secret_access_key="test",
        )  # fmt: skip

    @cached_property
    def outputs(self) -> dict[str, str]:
        (described,) = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        return {each["OutputKey"]: each["OutputValue"] for each in described["Outputs"]}

    def resources(self) -> dict[str, tuple[str, str]]:
        """Type and physical id by logical id."""
        pages = self.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=self.name)
        return {
            each["LogicalResourceId"]: (each["ResourceType"], each["PhysicalResourceId"])
            for page in pages
            for each in page["StackResourceSummaries"]
        }

    def one_time_schedules(self) -> list[str]:
        listed = self.client("scheduler").list_schedules(GroupName=self.outputs["WakeScheduleGroup"])["Schedules"]
        return [each["Name"] for each in listed]

    def delete(self) -> None:
        sam("delete", "--stack-name", self.name, "--no-prompts", "--region", REGION, environ=self.server.client_environ)


def deploy(name: str, server: LocalStack, build: Path, *, folder: Path = INFRA, **parameters: str) -> Stack:
    """Build the bundles of the template in `folder` for this interpreter, and deploy."""
    target = here()
    environ = {
        **server.client_environ,
        "PYTHON": sys.executable,
        "WHISTLESTOP_RUNTIME": target.runtime,
        "WHISTLESTOP_ARCHITECTURE": target.architecture,
    }
    chosen = {"PythonRuntime": target.runtime, "Architecture": target.architecture, **parameters}
    overrides = [f'{key}="{value}"' for key, value in chosen.items()]
    sam(
        "build", "--build-dir", str(build), "--config-file", str(INFRA / "samconfig.toml"), environ=environ, folder=folder,
    )  # fmt: skip
    sam(
        "deploy", "--template-file", str(build / "template.yaml"), "--config-file", str(INFRA / "samconfig.toml"),
        "--stack-name", name, "--no-progressbar", "--parameter-overrides", *overrides, environ=environ,
    )  # fmt: skip
    return Stack(name, server)


@dataclass(slots=True)
class Deployed(Cloud):
    """The stack as a client and a worker see it: signed HTTP requests to its Function URL."""

    endpoint: str = ""
    port: int = 0

    async def invoke(self, function: str, event: dict[str, Any]) -> dict[str, Any]:
        """The request of which a Function URL would make `event`."""
        assert function == "frontend", "nothing else can be called from outside"
        return await asyncio.to_thread(self._request, event)

    def _request(self, event: dict[str, Any]) -> dict[str, Any]:
        host = urlsplit(self.endpoint).netloc
        body = base64.b64decode(event["body"])
        headers = {
            name: event["headers"][name] for name in ("content-type", "connect-protocol-version", "connect-timeout-ms")
            if name in event["headers"]
        }  # fmt: skip
        request = AWSRequest("POST", f"http://{host}{event['rawPath']}", {**headers, "host": host}, body)
        SigV4Auth(Credentials("test", "test"), "lambda", REGION).add_auth(request)
        # The URL's host name needs a DNS that this machine may not have.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_CALL_S)
        try:
            connection.request("POST", event["rawPath"], body, dict(request.headers.items()))
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        return {
            "statusCode": response.status,
            "headers": {name.lower(): value for name, value in response.getheaders()},
            "body": base64.b64encode(answer).decode(),
            "isBase64Encoded": True,
        }
