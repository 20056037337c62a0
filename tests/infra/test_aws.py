"""Our own calls to AWS: signed as botocore signs, tried again when that may help, and refused with AWS's words."""

from __future__ import annotations

import datetime as dt
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import boto3  # type: ignore[import-untyped]  # carries no types
import botocore.auth  # type: ignore[import-untyped]  # as above
import botocore.awsrequest  # type: ignore[import-untyped]  # as above
import botocore.credentials  # type: ignore[import-untyped]  # as above
import pytest

from whistlestop.net import aws
from whistlestop.net.aws import Aws, AwsError, Credentials

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = "eu-central-1"
KEY = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session-token")


@dataclass(slots=True)
class Endpoint:
    """Answers what it is told to, in order, and notes what came."""

    url: str
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    calls: list[Aws] = field(default_factory=list)

    def aws(self) -> Aws:
        self.calls.append(Aws(REGION, lambda: KEY, {"AWS_ENDPOINT_URL": self.url}))
        return self.calls[-1]


@contextmanager
def _listening() -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            status, headers, answer = made.answers.pop(0)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            return None

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        made = Endpoint(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield made
        for calls in made.calls:
            calls.close()
        server.shutdown()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.delenv("_X_AMZN_TRACE_ID", raising=False)
    monkeypatch.setattr("whistlestop.net.aws._FIRST_PAUSE_S", 0.001)
    with _listening() as made:
        yield made


def _as_botocore_signs(endpoint: Endpoint, service: str) -> str:
    """The authorization that botocore gives to the request that came last, at the time that it says."""
    path, headers, body = endpoint.seen[-1]
    kept = {
        name: headers[name] for name in headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    }
    for added in ("host", "x-amz-date", "x-amz-security-token"):
        kept.pop(added)
    request = botocore.awsrequest.AWSRequest("POST", endpoint.url + path, kept, body)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = botocore.auth.SigV4Auth(
        botocore.credentials.Credentials(KEY.access_key, KEY.secret_key, KEY.token), service, REGION
    )
    request.headers["X-Amz-Date"] = headers["x-amz-date"]
    request.headers["X-Amz-Security-Token"] = KEY.token
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    return headers["authorization"].split("Signature=")[0] + f"Signature={signature}"


def test_an_invocation(endpoint: Endpoint) -> None:
    """By ARN, whose colons are quoted on the way and twice in the signature."""
    endpoint.answers.append((200, {"X-Amz-Function-Error": "Unhandled"}, b'{"a": 1}'))
    arn = "arn:aws:lambda:eu-central-1:123456789012:function:history"
    said = aws.client("lambda", endpoint.aws()).invoke(FunctionName=arn, Payload=b"{}")
    assert (said["StatusCode"], said["FunctionError"], said["Payload"].read()) == (200, "Unhandled", b'{"a": 1}')
    path, headers, body = endpoint.seen[0]
    assert (path, body) == (
        "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Ahistory/invocations",
        b"{}",
    )
    assert headers["x-amz-invocation-type"] == "RequestResponse"
    assert headers["authorization"] == _as_botocore_signs(endpoint, "lambda")


@pytest.mark.parametrize(
    ("service", "method", "fields"),
    [
        ("sqs", "send_message", {"QueueUrl": "http://q/1/wakes", "DelaySeconds": 4, "MessageBody": "späť"}),
        ("ssm", "get_parameter", {"Name": "/whistlestop/url", "WithDecryption": True}),
        ("secretsmanager", "get_secret_value", {"SecretId": "database"}),
        ("scheduler", "create_schedule", {
            "Name": "wake-20260101T0000", "GroupName": "wakes", "ScheduleExpression": "at(2026-01-01T00:00:00)",
            "FlexibleTimeWindow": {"Mode": "OFF"}, "ActionAfterCompletion": "DELETE", "ScheduleExpressionTimezone": "UTC",
            "Target": {"Arn": "arn:aws:sqs:r:1:q", "RoleArn": "arn:aws:iam::1:role/wakes-role", "Input": "{}"},
        }),
    ],
)  # fmt: skip
def test_the_request_is_boto3s(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, service: str, method: str, fields: dict[str, Any]
) -> None:
    """Path, target, content type and fields are what boto3 sends for the same call, and the signature is right."""
    endpoint.answers += [(200, {}, b"{}"), (200, {}, b"{}")]
    getattr(aws.client(service, endpoint.aws()), method)(**fields)
    assert endpoint.seen[-1][1]["authorization"] == _as_botocore_signs(endpoint, service)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    theirs = boto3.client(
        service, endpoint_url=endpoint.url, region_name=REGION, aws_access_key_id="key", aws_secret_access_key="secret"
    )
    getattr(theirs, method)(**fields)
    theirs.close()
    (our_path, our_headers, our_body), (path, headers, body) = endpoint.seen
    expected, sent = json.loads(body), json.loads(our_body)
    expected.pop("ClientToken", None)  # boto3 makes one up; ours are named by their minute
    assert (our_path, our_headers.get("x-amz-target"), sent) == (path, headers.get("x-amz-target"), expected)
    assert our_headers["content-type"] == headers["content-type"]


def test_a_token_of_dsql_is_as_botocore_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    host = "cluster.dsql.eu-central-1.on.aws"
    at = dt.datetime(2026, 3, 4, 5, 6, 7, tzinfo=dt.UTC)
    monkeypatch.setattr("whistlestop.net.aws._now", lambda: at)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: at.replace(tzinfo=None))
    client = boto3.client(
        "dsql", region_name=REGION, aws_access_key_id=KEY.access_key, aws_secret_access_key=KEY.secret_key,
        aws_session_token=KEY.token,
    )  # fmt: skip
    expected = client.generate_db_connect_admin_auth_token(host, REGION, 3600)
    token = Aws(REGION, lambda: KEY, {}).dsql_token(host, 3600)
    assert sorted(token.split("?")[1].split("&")) == sorted(expected.split("?")[1].split("&"))


@pytest.mark.parametrize(
    "answer", [(500, {}, b""), (429, {}, b"{}"), (400, {}, b'{"__type": "com.amazon#ThrottlingException"}')]
)
def test_transient_errors_are_retried(endpoint: Endpoint, answer: tuple[int, dict[str, str], bytes]) -> None:
    endpoint.answers += [answer, answer, (200, {}, b'{"Parameter": {}}')]
    assert aws.client("ssm", endpoint.aws()).get_parameter(Name="x") == {"Parameter": {}}
    assert len(endpoint.seen) == 3


def test_an_action_is_tried_three_times(endpoint: Endpoint) -> None:
    endpoint.answers += [(503, {}, b"")] * 3
    with pytest.raises(AwsError, match="UnknownError") as raised:
        aws.client("sqs", endpoint.aws()).send_message(QueueUrl="q", MessageBody="m")
    assert (raised.value.status, len(endpoint.seen)) == (503, 3)


def test_a_refusal_is_not(endpoint: Endpoint) -> None:
    """Its name may be in a header or in the body."""
    endpoint.answers += [
        (409, {"x-amzn-errortype": "ConflictException:http://internal"}, b'{"Message": "taken"}'),
        (400, {}, b'{"__type": "AccessDenied", "message": "no"}'),
    ]
    calls = endpoint.aws()
    with pytest.raises(AwsError, match="taken") as raised:
        aws.client("scheduler", calls).create_schedule(Name="n")
    assert raised.value.code == "ConflictException"
    with pytest.raises(AwsError, match="AccessDenied: no"):
        aws.client("ssm", calls).get_parameter(Name="n")
    assert len(endpoint.seen) == 2


def test_no_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whistlestop.net.aws._FIRST_PAUSE_S", 0.001)
    calls = Aws(REGION, lambda: KEY, {"AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:9"})
    with pytest.raises(AwsError, match="Unreachable") as raised:
        aws.client("sqs", calls).send_message(QueueUrl="q", MessageBody="m")
    assert raised.value.code == "Unreachable"


def test_a_call_carries_the_trace(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-5759e988-bd862e3fe1be46a994272793")
    endpoint.answers.append((200, {}, b"{}"))
    aws.client("sqs", endpoint.aws()).send_message(QueueUrl="q", MessageBody="m")
    assert endpoint.seen[0][1]["x-amzn-trace-id"] == "Root=1-5759e988-bd862e3fe1be46a994272793"


def test_the_functions_own_environment() -> None:
    made = aws.from_environment(
        {
            "AWS_REGION": "cn-north-1",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "key",
            "AWS_SESSION_TOKEN": "t",
        }
    )
    assert made.credentials() == Credentials("id", "key", "t")
    assert made._endpoint("sqs") == "https://sqs.cn-north-1.amazonaws.com.cn"
    assert "secret_key" not in repr(made.credentials())
