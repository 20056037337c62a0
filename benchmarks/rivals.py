"""Measure our own code against libraries that could do the same, part by part.

    pip install --group rivals --editable .
    python -m benchmarks.rivals                  # every part
    python -m benchmarks.rivals filter hpack     # some of them

Each figure is CPU time of this process alone, three times, the lowest first. Peers on loopback (a bare HTTP server)
run in processes of their own. docs/decisions/ has the figures. `python -m benchmarks.grpc_endpoint` measures gRPC
servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.connection import Connection

REPEATS = 3
BODY = b'{"MessageId": "0190f7a2-7b1e-7cc3-98c4-dc0c0c07398f"}'


def _report(what: str, figures: list[float], unit: str) -> None:
    each = ", ".join(f"{figure:.1f}" for figure in figures)
    print(f"  {what:44} {min(figures):8.1f} {unit}   ({each})")


def _calls(what: str, call: Callable[[], object], times: int) -> None:
    """Report microseconds of CPU per call."""
    call()
    figures = []
    for _ in range(REPEATS):
        before = time.process_time()
        for _ in range(times):
            call()
        figures.append((time.process_time() - before) / times * 1e6)
    _report(what, figures, "us")


async def _async_calls(what: str, call: Callable[[], Awaitable[object]], times: int) -> None:
    """Report microseconds of CPU per call, one call at a time."""
    await call()
    figures = []
    for _ in range(REPEATS):
        before = time.process_time()
        for _ in range(times):
            await call()
        figures.append((time.process_time() - before) / times * 1e6)
    _report(what, figures, "us")


def _import(what: str, code: str, before: str = "import asyncio, json, logging, ssl") -> None:
    """Report milliseconds of CPU that `code` takes in a new interpreter in which `before` has run."""
    program = f"import time\n{before}\nbegun = time.process_time()\n{code}\nprint(time.process_time() - begun)"
    figures = []
    for _ in range(REPEATS + 1):
        done = subprocess.run(  # noqa: S603 - our own interpreter and programs
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **_AWS}
        )
        figures.append(float(done.stdout) * 1000)
    # The first one may have compiled the modules.
    _report(f"import: {what}", figures[1:], "ms")


_AWS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


# A peer that answers every request at once.


async def _answer_all(pipe: Connection, body: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
                await reader.readexactly(int(length or 0))
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _serve(pipe: Connection, body: bytes) -> None:
    asyncio.run(_answer_all(pipe, body))


def _with_peer(work: Callable[[int], None], body: bytes = BODY) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, body), daemon=True)
    process.start()
    try:
        work(here.recv())
    finally:
        process.kill()
        process.join()


# The parts.


def http_client() -> None:
    """Measure a POST of 54 bytes over a kept connection."""
    _import("whistlestop.net.http.client", "import whistlestop.net.http.client")
    _import("http.client", "import http.client")
    _import("httpx", "import httpx; httpx.AsyncClient()")
    _import("aiohttp", "import aiohttp")
    _with_peer(lambda port: asyncio.run(_http_clients(port)))


async def _http_clients(port: int) -> None:
    import http.client

    import aiohttp
    import httpx

    from whistlestop.net.http.client import Http1Client

    url, headers = f"http://127.0.0.1:{port}", {"content-type": "application/json"}
    ours = Http1Client(url)
    await _async_calls("whistlestop.net.http.client", lambda: ours.post("/x", headers, BODY), 2000)
    ours.close()
    kept = http.client.HTTPConnection("127.0.0.1", port)

    def blocking() -> bytes:
        kept.request("POST", "/x", BODY, headers)
        return kept.getresponse().read()

    await _async_calls("http.client, in a thread", lambda: asyncio.to_thread(blocking), 1000)
    kept.close()
    async with aiohttp.ClientSession() as session:

        async def by_aiohttp() -> bytes:
            async with session.post(f"{url}/x", data=BODY, headers=headers) as answer:
                return bytes(await answer.read())

        await _async_calls("aiohttp", by_aiohttp, 1000)
    async with httpx.AsyncClient() as client:
        await _async_calls("httpx", lambda: client.post(f"{url}/x", content=BODY, headers=headers), 500)


def grpc_imports() -> None:
    """Measure the import of each gRPC server; ours beside Temporal's messages, which import grpcio."""
    base = "import asyncio, json, logging, ssl, google.protobuf.message"
    messages = "temporalio.api.workflowservice.v1.request_response_pb2"
    _import("whistlestop.net.grpc.server", "import whistlestop.net.grpc.server", f"{base}, {messages}")
    for name in ("grpc.aio", "grpclib.server", "h2.connection"):
        _import(name, f"import {name}", base)


def hpack() -> None:
    """Measure decoding the header block of a gRPC call, as sent by grpc.aio and the SDK."""
    import hpack as library

    from whistlestop.net.grpc.hpack import Decoder

    fields = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"127.0.0.1:7233"),
        (b":path", b"/temporal.api.workflowservice.v1.WorkflowService/RespondWorkflowTaskCompleted"),
        (b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"user-agent", b"tonic/0.14.2"),
        (b"client-name", b"temporal-python"), (b"client-version", b"1.35.0"), (b"grpc-timeout", b"9999932u"),
        (b"temporal-namespace", b"default"),
    ]  # fmt: skip
    encoder = library.Encoder()
    first = encoder.encode(fields)
    again = encoder.encode(fields)

    def by_ours(*blocks: bytes) -> None:
        decoder = Decoder()
        for block in blocks:
            decoder.decode(block, 1 << 16)

    def by_library(*blocks: bytes) -> None:
        decoder = library.Decoder()
        for block in blocks:
            decoder.decode(block, raw=True)

    both = f"these, and {len(again)} that refer to them"
    for name, blocks in ((f"{len(first)} bytes", (first,)), (both, (first, again))):
        _calls(f"whistlestop: {name}", partial(by_ours, *blocks), 2000)
        _calls(f"hpack: {name}", partial(by_library, *blocks), 2000)
    _import("whistlestop.net.grpc.hpack", "import whistlestop.net.grpc.hpack")
    _import("hpack", "import hpack")


_SELECT = "SELECT * FROM t WHERE "
FILTERS = (
    "WorkflowType = 'Order'",
    "WorkflowType = 'Order' AND ExecutionStatus IN ('Running', 'Failed') AND StartTime > '2026-01-01T00:00:00Z'",
)


def list_filter() -> None:
    """Measure parsing list filters: into our typed query, and into sqlglot's untyped tree."""
    import sqlglot

    from whistlestop.storage.visibility import query

    for text in FILTERS:
        _calls(f"whistlestop: {len(text)} characters", partial(query.parse, text, {}), 500)
        _calls(f"sqlglot: {len(text)} characters", partial(sqlglot.parse_one, f"{_SELECT}{text}", read="mysql"), 500)
    base = "import asyncio, json, logging, ssl, temporalio.api.workflowservice.v1.request_response_pb2"
    _import("whistlestop.storage.visibility.query", "import whistlestop.storage.visibility.query", base)
    _import("sqlglot", "import sqlglot, sqlglot.dialects.mysql", base)


def aws() -> None:
    """Measure sending an SQS message to a bare peer over a kept connection."""
    _import("whistlestop.net.aws, a client", "from whistlestop.net import aws; aws.client('sqs')")
    _import("boto3, a client", "import boto3; boto3.client('sqs')")
    _with_peer(_aws_calls)


def _aws_calls(port: int) -> None:
    os.environ |= _AWS
    import boto3  # type: ignore[import-untyped]  # carries no types

    from whistlestop.net import aws as ours

    os.environ["AWS_ENDPOINT_URL"] = url = f"http://127.0.0.1:{port}"
    message = {"QueueUrl": f"{url}/1/q", "MessageBody": json.dumps({"wake": "orders"}), "DelaySeconds": 3}
    mine, theirs = ours.client("sqs"), boto3.client("sqs")
    _calls("whistlestop.net.aws: SendMessage", lambda: mine.send_message(**message), 500)
    _calls("boto3: SendMessage", lambda: theirs.send_message(**message), 300)


def connect() -> None:
    """Measure a unary call in this process through ASGI, without sockets."""
    base = "import asyncio, json, logging, ssl, google.protobuf.message, whistlestop.frontend.registry"
    _import("connectrpc.server", "import connectrpc.server", base)
    _import("whistlestop.frontend.endpoints.connect", "import whistlestop.frontend.endpoints.connect", base)
    asyncio.run(_connect_calls())


async def _connect_calls() -> None:
    from connectrpc.method import IdempotencyLevel, MethodInfo
    from connectrpc.server import ConnectASGIApplication, Endpoint
    from temporalio.api.workflowservice.v1 import GetSystemInfoRequest, GetSystemInfoResponse

    from whistlestop.common.clock import SystemClock
    from whistlestop.frontend.endpoints import connect as ours
    from whistlestop.net.http.answer import HttpRequest

    path = "/temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo"
    answer = GetSystemInfoResponse(server_version="1.32.0")
    data = GetSystemInfoRequest().SerializeToString()

    class Echo:
        async def call(self, method: object, request: object, context: object) -> GetSystemInfoResponse:
            return answer

    async def handler(request: object, context: object) -> GetSystemInfoResponse:
        return answer

    service_name, _, name = path[1:].partition("/")
    method: Any = MethodInfo(
        name=name, service_name=service_name, input=GetSystemInfoRequest, output=GetSystemInfoResponse,
        idempotency_level=IdempotencyLevel.UNKNOWN,
    )  # fmt: skip

    # As its generator of code does: a class that knows where the service is mounted.
    kind: Any = type("Application", (ConnectASGIApplication,), {"path": f"/{service_name}"})
    application = kind(service=Echo(), endpoints=lambda _: {path: Endpoint.unary(method, handler)})
    headers = {"content-type": "application/proto", "connect-protocol-version": "1", "host": "127.0.0.1:7243"}
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(key.encode(), value.encode()) for key, value in headers.items()], "http_version": "1.1",
        "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 7243), "extensions": {},
    }  # fmt: skip

    async def through_library() -> bytes:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await application({**scope}, receive, send)
        assert sent[0]["status"] == 200, sent
        return b"".join(each.get("body", b"") for each in sent)

    frontend: Any = Echo()
    clock = SystemClock()

    async def through_ours() -> bytes:
        request = HttpRequest("POST", path, "", headers, data)
        assert ours.refusal(request) is None
        return (await ours.serve(frontend, clock, request, 1 << 22, can_long_poll=True)).body

    assert await through_ours() == await through_library() == answer.SerializeToString()
    await _async_calls("whistlestop.frontend.endpoints.connect", through_ours, 2000)
    await _async_calls("connectrpc", through_library, 2000)


def settings() -> None:
    """Measure reading the frontend's settings in a new interpreter, imports included."""
    from dataclasses import fields

    from whistlestop.functions.settings import FrontendSettings

    names = [each.name for each in fields(FrontendSettings)]
    base = (
        "import asyncio, dataclasses, json, logging, os, ssl; os.environ |= {'WHISTLESTOP_DATABASE_URL': "
        "'postgresql://localhost/x', 'WHISTLESTOP_HISTORY_FUNCTION': 'h', 'WHISTLESTOP_MATCHING_FUNCTION': 'm'}"
    )
    ours = "from whistlestop.functions import settings; settings.read(settings.FrontendSettings)"
    _import(f"whistlestop, {len(names)} variables", ours, base)
    theirs = ["from pydantic_settings import BaseSettings", "class Settings(BaseSettings, env_prefix='WHISTLESTOP_'):"]
    theirs += [*(f"    {name}: str = ''" for name in names), "Settings()"]
    _import(f"pydantic-settings, {len(names)} strings", "\n".join(theirs), base)


def jwt_keys() -> None:
    """Measure checking a token that is signed with RS256, with a cached key."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa
    from jwt.algorithms import RSAAlgorithm

    private = rsa.generate_private_key(65537, 2048)
    public = {**RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": "1", "use": "sig", "alg": "RS256"}
    claims = {"sub": "ci", "permissions": ["orders:write"], "exp": int(time.time()) + 3600}
    token = jwt.encode(claims, private, "RS256", headers={"kid": "1"})
    _with_peer(lambda port: asyncio.run(_jwt(port, token)), json.dumps({"keys": [public]}).encode())


async def _jwt(port: int, token: str) -> None:
    import jwt

    from whistlestop.common.clock import SystemClock
    from whistlestop.frontend.auth.config import JwtConfig
    from whistlestop.frontend.auth.tokens import TokenVerifier

    url, clock = f"http://127.0.0.1:{port}/jwks", SystemClock()
    library, ours = jwt.PyJWKClient(url, lifespan=3600), TokenVerifier(JwtConfig(jwks_url=url), clock)

    def by_library() -> object:
        return jwt.decode(token, library.get_signing_key_from_jwt(token).key, algorithms=["RS256"])

    assert await ours.verify(token, "hash")
    _calls("PyJWT's decode with its PyJWKClient", by_library, 1000)
    await _async_calls("whistlestop, verified", lambda: ours.verify(token, "hash"), 1000)
    _calls("whistlestop, verified lately", lambda: ours.peek("hash", clock.now_ns()), 10_000)


def migrations() -> None:
    """Measure finding out that a SQLite file is up to date (four migrations), imports included."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder, "migrations")
        where.mkdir()
        for number in range(1, 5):
            Path(where, f"{number:04}_t.sql").write_text(f"CREATE TABLE t{number} (a INTEGER)", "utf-8")
        base = "import asyncio, json, logging, sqlite3, ssl"
        # The first run of each applies the migrations and is not counted.
        _import("yoyo", (
            f"import yoyo; b = yoyo.get_backend('sqlite:///{folder}/y.db'); m = yoyo.read_migrations({str(where)!r})\n"
            "with b.lock():\n    b.apply_migrations(b.to_apply(m))"
        ), base)  # fmt: skip
        _import("whistlestop.storage.sqlite.schema", (
            "from whistlestop.storage.sqlite import schema\n"
            f"schema.migrate(sqlite3.connect('{folder}/w.db', isolation_level=None), '')"
        ), base)  # fmt: skip
        _import("alembic: its imports alone", "import alembic.command, alembic.config", base)


PARTS: dict[str, Callable[[], None]] = {
    "aws": aws, "connect": connect, "filter": list_filter, "grpc": grpc_imports, "hpack": hpack, "http": http_client,
    "jwt": jwt_keys, "migrations": migrations, "settings": settings,
}  # fmt: skip


def main() -> None:
    """Measure the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all of them when none is named")
    for name in parser.parse_args().parts or PARTS:
        print(f"{name}: {PARTS[name].__doc__}")
        PARTS[name]()


if __name__ == "__main__":
    main()
