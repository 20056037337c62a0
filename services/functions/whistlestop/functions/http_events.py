"""HTTP requests as Lambda events: Function URLs, API Gateway (REST and HTTP APIs, formats 1.0 and 2.0) and ALB.

How to tell them apart, and what each does to the path and query:

    source               format   recognised by                             path            query
    Function URL         2.0      rawPath, domain name with .lambda-url.    as sent         as sent
    HTTP API             2.0      rawPath, any other domain name            decoded         as sent
    HTTP API             1.0      version 1.0                               decoded         decoded, by name
    REST API             (1.0)    httpMethod, no version                    as sent         decoded, by name
    load balancer        (1.0)    requestContext.elb                        as sent         as sent, by name

A decoded path is encoded again here, but not losslessly: an encoded slash has become a separator, and an HTTP API
cuts a path at an encoded question mark. `Head.path_was_decoded` lets the caller mention this when it finds no such
path.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_FUNCTION_URL = ".lambda-url."
_DEFAULT_STAGE = "$default"
_IN_A_PATH = "/:@!$&'()*+,;=-._~"
_TEXT = ("application/json", "text/")
_NOT_HTTP = "not an HTTP event"


class Head(NamedTuple):
    """The head of a request: `path` percent-encoded, `query` without "?", header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    path_was_decoded: bool


def is_http(event: Mapping[str, Any]) -> bool:
    """Return whether the event is an HTTP request (of a function URL or an API Gateway)."""
    about = event.get("requestContext")
    return isinstance(about, dict) and ("http" in about or "httpMethod" in event)


def head_of(event: Mapping[str, Any]) -> Head:
    """Return the head of an HTTP event. Raises ValueError for a malformed event."""
    try:
        return _format_2(event) if "http" in event["requestContext"] else _format_1(event)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{_NOT_HTTP}: {type(error).__name__}") from None


def _format_2(event: Mapping[str, Any]) -> Head:
    about = event["requestContext"]
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    path = str(event.get("rawPath") or about["http"]["path"])
    stage = about.get("stage", _DEFAULT_STAGE)
    if stage != _DEFAULT_STAGE:
        path = path.removeprefix(f"/{stage}")
    decoded = _FUNCTION_URL not in str(about.get("domainName", _FUNCTION_URL))
    return Head(
        str(about["http"]["method"]), _encoded(path) if decoded else path, str(event.get("rawQueryString") or ""),
        headers, decoded,
    )  # fmt: skip


def _format_1(event: Mapping[str, Any]) -> Head:
    about = event["requestContext"]
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    for name, values in (event.get("multiValueHeaders") or {}).items():
        headers[str(name).lower()] = ", ".join(map(str, values or ()))
    path = str(event["path"])
    decoded = event.get("version") == "1.0"
    stage = about.get("stage", _DEFAULT_STAGE)
    if decoded and stage != _DEFAULT_STAGE:
        path = path.removeprefix(f"/{stage}")
    query = event.get("multiValueQueryStringParameters")
    if query is None:
        query = {name: [value] for name, value in (event.get("queryStringParameters") or {}).items()}
    return Head(
        str(event["httpMethod"]), _encoded(path) if decoded else path, _query(query, encoded="elb" in about), headers,
        decoded,
    )  # fmt: skip


def _encoded(path: str) -> str:
    from urllib.parse import quote

    return quote(path, safe=_IN_A_PATH)


def _query(parameters: Mapping[str, Any], *, encoded: bool) -> str:
    pairs = [(str(name), str(value)) for name, values in parameters.items() for value in values or ()]
    if encoded:
        return "&".join(f"{name}={value}" for name, value in pairs)
    from urllib.parse import urlencode

    return urlencode(pairs)


def body_of(event: Mapping[str, Any]) -> bytes:
    """Return the body of an HTTP event, empty when there is none. Raises ValueError for a malformed event."""
    body = event.get("body") or ""
    if not isinstance(body, str):
        raise ValueError(f"{_NOT_HTTP}: its body is not a string")  # noqa: TRY004 - as for any other wrong event
    return base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode("utf-8", "replace")


def answer_to(event: Mapping[str, Any], status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the response to an HTTP event in the format of its source: text as it is, anything else in base64."""
    plain = headers.get("content-type", "").startswith(_TEXT) and "content-encoding" not in headers
    answer: dict[str, Any] = {
        "statusCode": status,
        "headers": dict(headers),
        "body": body.decode("utf-8") if plain else base64.b64encode(body).decode("ascii"),
        "isBase64Encoded": not plain,
    }
    if "elb" in (event.get("requestContext") or {}):
        from http.client import responses

        answer["statusDescription"] = f"{status} {responses.get(status, 'Unknown')}"
        if "multiValueHeaders" in event:  # a target group with multi-value headers ignores plain ones
            answer["multiValueHeaders"] = {name: [value] for name, value in answer.pop("headers").items()}
    return answer
