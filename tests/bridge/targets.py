"""What bridges are tested against: the three functions behind a small HTTP front, as a Function URL is one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvicorn

from tests.functions import instance
from tests.functions.client import _FUNCTION_URL, Cloud

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Front:
    """Turns HTTP requests into invocations of the frontend's function, and counts them."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.paths.append(scope["path"].rpartition("/")[2])
        self.headers.append(headers)
        event = copy.deepcopy(_FUNCTION_URL)
        event["rawPath"] = event["requestContext"]["http"]["path"] = scope["path"]
        event["headers"] = headers
        event["body"] = base64.b64encode(body).decode()
        outcome = await asyncio.to_thread(instance.call, self._cloud.folder, "frontend", event, self._cloud.env)
        if "error" in outcome:
            status, sent, data = 502, {}, b'{"Message":"Internal Server Error"}'
        else:
            answer = outcome["answer"]
            status, sent = answer["statusCode"], answer["headers"]
            data = base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"].encode()
        shown = [(name.encode(), value.encode()) for name, value in sent.items()]
        await send({
            "type": "http.response.start", "status": status,
            "headers": [*shown, (b"content-length", str(len(data)).encode())],
        })  # fmt: skip
        await send({"type": "http.response.body", "body": data})


@asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncIterator[str]:
    """The URL of an ASGI application."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, lifespan="off", log_config=None, access_log=False, ws="none"
    )  # fmt: skip
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
