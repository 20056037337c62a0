"""A minimal AWS client on the standard library, with boto3's method names.

boto3 is not used here because importing it and making one client took 135 of the 310 ms of CPU of a cold start, and
the functions make only six kinds of calls. `client(service)` returns an object with the same methods as boto3's
client of that service, so callers accept either. Deployment and the bridge use boto3.

Requests that AWS throttled, that failed with a server error, or whose connection broke are retried, three attempts in
all; any other failure is raised as AwsError. A request that timed out is not retried. Calls block: coroutines make
them in threads.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import io
import json
import os
import random
import re
import time
from dataclasses import field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.timing.backoff import backoff
from whistlestop.net.http.blocking import Connections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from whistlestop.net.http.client import Answer

TRIES = 3
INVOKE_S = 75.0
"""A little longer than our functions may run."""
CALL_S = 10.0
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.2, 5.0
_THROTTLED = 429
_SERVERS_FAULT = 500
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_NO_CREDENTIALS = (
    "no AWS credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile (AWS_PROFILE), or "
    "set AWS_EC2_METADATA_DISABLED=false to use the role of an EC2 instance"
)
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


class AwsError(Exception):
    """AWS refused the request, or could not be reached (code `Unreachable` or `TimedOut`)."""

    def __init__(self, code: str, message: str, status: int = 0) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True)
class Credentials:
    """An AWS access key; `token` is set for temporary credentials."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)


@dataclass(slots=True)
class Aws:
    """An account and region. `credentials` is called for each request, since credentials may be renewed."""

    region: str
    credentials: Callable[[], Credentials]
    endpoints: Mapping[str, str] = field(default_factory=lambda: os.environ)
    """Where AWS_ENDPOINT_URL_<SERVICE> and AWS_ENDPOINT_URL are looked up."""
    _connections: dict[str, Connections] = field(default_factory=dict)

    def call(
        self, service: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float = CALL_S
    ) -> Answer:
        """POST a signed request and return the answer. Raises AwsError unless the status is a success."""
        url = self._endpoint(service)
        connections = self._connections.get(service)
        if connections is None:
            connections = self._connections[service] = Connections(url)
        for attempt in range(1, TRIES + 1):
            signed = self._signed(service, urlsplit(url).netloc, path, body, headers)
            try:
                answer = connections.post(path, body, signed, timeout_s)
            except TimeoutError:
                raise AwsError("TimedOut", f"{service} did not answer within {timeout_s:g} s") from None
            except OSError as error:
                problem = AwsError("Unreachable", f"{service}: {error!r}")
            else:
                if answer.status < 300:
                    return answer
                problem = _refusal(answer)
                if answer.status < _SERVERS_FAULT and answer.status != _THROTTLED and not _is_throttled(problem.code):
                    raise problem
            if attempt == TRIES:
                raise problem
            time.sleep(backoff(_FIRST_PAUSE_S, attempt, _MAX_PAUSE_S) * random.random())  # noqa: S311 - spreads tries, keeps no secret
        raise AssertionError

    def json(self, service: str, target: str, version: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Call a service by its JSON protocol (version 1.0 or 1.1) and return the parsed answer. Raises AwsError."""
        headers = {"content-type": f"application/x-amz-json-{version}", "x-amz-target": target}
        answer = self.call(service, "/", json.dumps(payload).encode(), headers)
        return dict(json.loads(answer.body or b"{}"))

    def dsql_token(self, host: str, expires_s: int) -> str:
        """Return a password for the user `admin` of an Aurora DSQL cluster, valid for `expires_s` seconds."""
        return self._signed_url("dsql", host, {"Action": "DbConnectAdmin"}, expires_s)

    def rds_token(self, host: str, port: int, user: str, expires_s: int) -> str:
        """Return a password for a user of RDS or Aurora, valid for `expires_s` seconds.

        IAM has to let this role connect as that user (`rds-db:connect`).
        """
        return self._signed_url("rds-db", f"{host}:{port}", {"Action": "connect", "DBUser": user}, expires_s)

    def _signed_url(self, service: str, host: str, asked: Mapping[str, str], expires_s: int) -> str:
        """Return a presigned URL without its scheme, which serves as a password for `expires_s` seconds."""
        now, credentials = _now(), self.credentials()
        scope = f"{now:%Y%m%d}/{self.region}/{service}/aws4_request"
        query = {
            **asked, "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{credentials.access_key}/{scope}", "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}",
            "X-Amz-Expires": str(expires_s), "X-Amz-SignedHeaders": "host",
        }  # fmt: skip
        if credentials.token:
            query["X-Amz-Security-Token"] = credentials.token
        ordered = "&".join(f"{_quoted(name)}={_quoted(query[name])}" for name in sorted(query))
        request = f"GET\n/\n{ordered}\nhost:{host}\n\nhost\n{_EMPTY_SHA256}"
        return f"{host}/?{ordered}&X-Amz-Signature={_signature(credentials, now, scope, request)}"

    def close(self) -> None:
        """Close the connections that are kept open."""
        for connections in self._connections.values():
            connections.close()

    def _endpoint(self, service: str) -> str:
        # A region may come from a caller's ARN, and must not be able to name another domain.
        if not _REGION.fullmatch(self.region):
            raise AwsError("InvalidRegion", f"{self.region!r} is not the name of a region")
        given = self.endpoints.get(f"AWS_ENDPOINT_URL_{service.upper()}") or self.endpoints.get("AWS_ENDPOINT_URL")
        suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return (given or f"https://{service}.{self.region}.{suffix}").rstrip("/")

    def _signed(self, service: str, host: str, path: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        """Return `headers` (names in lower case) with a version 4 signature added."""
        complete = signed(self.credentials(), _now(), self.region, service, host, path, body, headers)
        # Lambda and X-Ray trace a call across functions by this header.
        if trace := os.environ.get("_X_AMZN_TRACE_ID"):
            complete["x-amzn-trace-id"] = trace
        return complete


def signed(
    credentials: Credentials,
    now: dt.datetime,
    region: str,
    service: str,
    host: str,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
) -> dict[str, str]:
    """Return the headers of a POST request, `host` among them, with a version 4 signature added.

    `headers` has names in lower case; `path` is percent-encoded.
    """
    complete = {**headers, "host": host, "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}"}
    if credentials.token:
        complete["x-amz-security-token"] = credentials.token
    names = sorted(complete)
    listed, signed_names = "".join(f"{name}:{complete[name].strip()}\n" for name in names), ";".join(names)
    # The path is quoted already; the signature covers it quoted once more, as all services but S3 require.
    digest = hashlib.sha256(body).hexdigest()
    request = f"POST\n{quote(path, safe='/-_.~')}\n\n{listed}\n{signed_names}\n{digest}"
    scope = f"{now:%Y%m%d}/{region}/{service}/aws4_request"
    complete["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={signed_names}, "
        f"Signature={_signature(credentials, now, scope, request)}"
    )
    return complete


class LambdaCalls:
    """The used methods of boto3's client of Lambda."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def invoke(self, **fields: Any) -> dict[str, Any]:
        """Call Lambda's Invoke with these fields. Raise AwsError."""
        path = f"/2015-03-31/functions/{quote(fields['FunctionName'], safe='')}/invocations"
        kind = fields.get("InvocationType", "RequestResponse")
        headers = {"content-type": "application/json", "x-amz-invocation-type": kind}
        answer = self._aws.call("lambda", path, fields.get("Payload", b""), headers, INVOKE_S)
        said: dict[str, Any] = {"StatusCode": answer.status, "Payload": io.BytesIO(answer.body)}
        if failed := answer.headers.get("x-amz-function-error"):
            said["FunctionError"] = failed
        return said


class SqsCalls:
    """The used methods of boto3's client of SQS."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def send_message(self, **fields: Any) -> dict[str, Any]:
        """Call SQS's SendMessage with these fields. Raise AwsError."""
        return self._aws.json("sqs", "AmazonSQS.SendMessage", "1.0", fields)


class SchedulerCalls:
    """The used methods of boto3's client of EventBridge Scheduler.

    A name that is already taken raises AwsError with the code ConflictException.
    """

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def create_schedule(self, **fields: Any) -> dict[str, Any]:
        """Call EventBridge Scheduler's CreateSchedule with these fields. Raise AwsError."""
        path = f"/schedules/{quote(fields.pop('Name'), safe='')}"
        answer = self._aws.call("scheduler", path, json.dumps(fields).encode(), {"content-type": "application/json"})
        return dict(json.loads(answer.body))


class SsmCalls:
    """The used methods of boto3's client of Systems Manager."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def get_parameter(self, **fields: Any) -> dict[str, Any]:
        """Call Systems Manager's GetParameter with these fields. Raise AwsError."""
        return self._aws.json("ssm", "AmazonSSM.GetParameter", "1.1", fields)


class SecretsCalls:
    """The used methods of boto3's client of Secrets Manager."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    def get_secret_value(self, **fields: Any) -> dict[str, Any]:
        """Call Secrets Manager's GetSecretValue with these fields. Raise AwsError."""
        return self._aws.json("secretsmanager", "secretsmanager.GetSecretValue", "1.1", fields)


_CALLS: dict[str, type[Any]] = {
    "lambda": LambdaCalls, "sqs": SqsCalls, "scheduler": SchedulerCalls, "ssm": SsmCalls,
    "secretsmanager": SecretsCalls,
}  # fmt: skip


def client(service: str, aws: Aws | None = None) -> Any:
    """Return a client of a service ("lambda", "sqs", …), by default with the credentials of the environment.

    Raise AwsError without them.
    """
    return _CALLS[service](aws or from_environment())


def from_environment(environ: Mapping[str, str] = os.environ, *, for_caller: bool = False) -> Aws:
    """Return the account and region that the environment names. Raises AwsError when there are no credentials.

    Lambda sets the keys as environment variables. Where they are not (SnapStart, a developer's machine), botocore
    looks for credentials. `for_caller` is explained in `find_session`.
    """
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
    if environ.get("AWS_ACCESS_KEY_ID"):
        kept = Credentials(
            environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], environ.get("AWS_SESSION_TOKEN", "")
        )
        return Aws(region, lambda: kept, environ)
    session = find_session(environ, for_caller=for_caller)
    found = session.get_credentials()
    if found is None:
        raise AwsError("NoCredentials", _NO_CREDENTIALS)

    def fresh() -> Credentials:
        return frozen(found.get_frozen_credentials())

    return Aws(region or session.get_config_variable("region") or "", fresh, environ)


def frozen(found: Any) -> Credentials:
    """Return botocore's frozen credentials as ours."""
    return Credentials(found.access_key, found.secret_key, found.token or "")


def find_session(environ: Mapping[str, str] = os.environ, *, for_caller: bool = False) -> Any:
    """Return a botocore session, which finds credentials in the environment, profiles and other sources.

    With `for_caller` (a remote caller asked for this), the EC2 metadata service is used only where the operator has
    set AWS_EC2_METADATA_DISABLED=false, because no caller may make a server send requests to a link-local address.
    Container and SSO credentials need explicit settings, without which they are not looked up.
    """
    import botocore.session  # type: ignore[import-untyped]  # carries no types

    session = botocore.session.get_session()
    if for_caller and environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "false":
        session.get_component("credential_provider").remove("iam-role")
    return session


def _refusal(answer: Answer) -> AwsError:
    """Return the error of an answer.

    Services put the error code in a header or in the body, and may surround it with other text.
    """
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    named = answer.headers.get("x-amzn-errortype") or said.get("__type") or said.get("Code") or "UnknownError"
    code = str(named).split(":", 1)[0].rsplit("#", 1)[-1]
    return AwsError(code, str(said.get("message") or said.get("Message") or ""), answer.status)


def _is_throttled(code: str) -> bool:
    return "Throttl" in code or code in {"TooManyRequestsException", "RequestLimitExceeded", "SlowDown"}


def _signature(credentials: Credentials, now: dt.datetime, scope: str, request: str) -> str:
    text = f"AWS4-HMAC-SHA256\n{now:%Y%m%dT%H%M%SZ}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def _now() -> dt.datetime:
    """Return the machine's own time: signatures must carry it, whatever a test's clock says."""
    return dt.datetime.now(dt.UTC)


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")
