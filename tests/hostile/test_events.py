"""Events of functions by callers without a credential, and ones that AWS would not send."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.test_auth import DOCUMENT, SECRETS
from tests.api.test_lambda_function import _Context, _event, history
from whistlestop.common.clock import SystemClock
from whistlestop.frontend import lambda_function
from whistlestop.functions import bootstrap, http_events

if TYPE_CHECKING:
    from tests.api.fixtures import Remembering

__all__ = ["history"]

SERVICE = "/temporal.api.workflowservice.v1.WorkflowService"
BOMB = gzip.compress(bytes(128 * 1024 * 1024), 9, mtime=0)
EMPTY = gzip.compress(b"{}", mtime=0)
PATHS = [
    f"{SERVICE}/StartWorkflowExecution", f"{SERVICE}/GetSystemInfo", "/api/v1/namespaces/default/workflows/w", "/nexus/callback",
    "/namespaces/default/task-queues/q/nexus-services/s/o", "/nexus/endpoints/e/services/s/o", "/no/such/path",
]  # fmt: skip


def event(path: str, body: bytes, **headers: str) -> dict[str, Any]:
    made = _event("function_url_connect")
    made["rawPath"] = made["requestContext"]["http"]["path"] = path
    made["requestContext"]["http"]["method"] = "POST"
    made["headers"] = {
        "content-type": "application/json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    made["body"], made["isBase64Encoded"] = base64.b64encode(body).decode(), True
    return made


@pytest.fixture
def asked(history: Remembering, monkeypatch: pytest.MonkeyPatch) -> Remembering:
    """The function, which asks for keys."""
    monkeypatch.setenv("WHISTLESTOP_AUTH_MODE", "NONE")
    monkeypatch.setenv("WHISTLESTOP_API_KEYS", DOCUMENT)
    return history


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much each decompression gave."""
    sizes: list[int] = []
    made = zlib.decompressobj

    class Decompressor:
        def __init__(self, wbits: int) -> None:
            self._inner = made(wbits)

        def decompress(self, data: bytes, most: int) -> bytes:
            plain = self._inner.decompress(data, most)
            sizes.append(len(plain))
            return plain

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    monkeypatch.setattr("whistlestop.frontend.endpoints.connect.zlib.decompressobj", Decompressor)
    return sizes


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("credential", ["", "Bearer wsk_unknown"])
def test_a_gzip_bomb_of_an_unauthenticated_caller_is_not_decompressed(
    inflated: list[int], monkeypatch: pytest.MonkeyPatch, path: str, credential: str
) -> None:
    """Nor decoded, but for what the one method for everybody takes."""
    decoded: list[bytes] = []
    body_of = http_events.body_of

    def watched(event: dict[str, Any]) -> bytes:
        decoded.append(body_of(event))
        return decoded[-1]

    monkeypatch.setattr(http_events, "body_of", watched)
    answer = lambda_function.handler(event(path, BOMB, content_encoding="gzip", authorization=credential), _Context())
    assert answer["statusCode"] in {403, 404, 429}
    assert inflated == []
    assert bool(decoded) == path.endswith("GetSystemInfo")


@pytest.mark.usefixtures("asked")
def test_a_bomb_of_a_caller_is_unpacked_up_to_a_messages_size(inflated: list[int]) -> None:
    key = f"Bearer {SECRETS['writer']}"
    answer = lambda_function.handler(event(PATHS[0], BOMB, content_encoding="gzip", authorization=key), _Context())
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (429, "resource_exhausted")
    assert f"({128 * 1024 * 1024} vs. {4 * 1024 * 1024})" in answer["body"]
    assert inflated == [4 * 1024 * 1024 + 1]


@pytest.mark.parametrize("zipped", [BOMB[:1000], EMPTY[:-9], EMPTY + b"x", EMPTY * 2, b"\x1f\x8b", b"x"], ids=range(6))
def test_incomplete_and_concatenated_gzip_is_refused(history: Remembering, zipped: bytes) -> None:
    answer = lambda_function.handler(event(PATHS[0], zipped, content_encoding="gzip"), _Context())
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (400, "invalid_argument")
    assert history.calls == []


@pytest.mark.parametrize(
    "body",
    [b"[" * 200_000, b'{"input":' * 50_000, b'{"a":1' + b"0" * 10_000 + b"}", b'{"input":[1e999999]}', b"\xff", b"NaN"],
    ids=range(6),
)
@pytest.mark.parametrize("path", PATHS[:3])
def test_json_that_hurts_parsers_is_a_bad_request(
    history: Remembering, path: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing for the log."""
    answer = lambda_function.handler(event(path, body), _Context())
    assert answer["statusCode"] in {200, 400, 404, 429}
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("header", ["connect-timeout-ms", "grpc-timeout"])
@pytest.mark.parametrize("value", ["9" * 5_000, "9" * 5_000 + "S", "\u0661\u0661S", "-1S", "S", "1e3S", ""])
def test_an_invalid_deadline_is_a_bad_request(
    history: Remembering, header: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = event(f"{SERVICE}/GetSystemInfo", b"{}", **{header: value})
    assert lambda_function.handler(asked, _Context())["statusCode"] == (400 if value else 200)
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    "wrong",
    [
        {"body": "*", "isBase64Encoded": True}, {"body": 5}, {"body": ["a"]}, {"headers": "a"}, {"headers": {"content-type": None}},
        {"rawPath": 5}, {"requestContext": {"http": {}}}, {"requestContext": {"http": {"method": None}}}, {"requestContext": {"http": 5}},
        {"requestContext": {"http": {"method": "POST"}, "stage": 5}}, {"rawQueryString": 5}, {"rawQueryString": "%ff&=&&a=%"},
    ],
)  # fmt: skip
def test_an_event_that_aws_does_not_send_is_a_bad_request(wrong: dict[str, Any]) -> None:
    answer = lambda_function.handler(event(f"{SERVICE}/GetSystemInfo", b"{}") | wrong, _Context())
    assert answer["statusCode"] in {200, 400, 404, 405, 415}


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        '{"method":' * 50_000,
        "5",
        "[]",
        "",
        "{}",
        '{"method":"X","request":"","context":{"timeout_ms":Infinity}}',
    ],
)
def test_an_invalid_envelope_gets_an_answer(history: Remembering, body: str) -> None:
    """By the functions that only functions of ours may call."""
    made = event("/", b"") | {"body": body, "isBase64Encoded": False}
    answer = bootstrap.run(bootstrap.serve_event(history, made, SystemClock()))
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"])["error"]["code"] in {3, 12}
    assert history.calls == []
