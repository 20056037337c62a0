"""The bridge between official SDKs, which need gRPC and long polls, and functions, which speak HTTP and bill waiting.

A worker (or a client) speaks gRPC to a bridge next to it, or within its own process:

    async with whistlestop.bridge.connect("https://….lambda-url.eu-central-1.on.aws", sigv4=True) as client:
        async with Worker(client, task_queue="orders", workflows=[Order], activities=[charge]):
            ...
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from whistlestop.bridge.running import BridgeConfig, RunningBridge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from temporalio.client import Client

__all__ = ["BridgeConfig", "RunningBridge", "connect"]


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    api_key: str = "",
    sigv4: bool = False,
    region: str = "",
    tls_ca: str = "",
    tls_cert: str = "",
    tls_key: str = "",
    notification_queue: str = "",
    wake_queue: str = "",
    config: BridgeConfig | None = None,
    **client_options: Any,
) -> AsyncIterator[Client]:
    """Yield a temporalio Client of the target at `url`, through a bridge in this process.

    `client_options` are those of `Client.connect` (`namespace=`, `data_converter=`, `interceptors=`, …). `config`
    sets all options of the bridge at once, instead of those here. Raises RuntimeError when the target cannot be
    reached. `wake_queue` is the name of `notification_queue` in release 0.1.0.
    """
    from temporalio.client import Client

    config = config or BridgeConfig(
        target=url,
        api_key=api_key,
        sigv4=sigv4,
        region=region,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        notification_queue=notification_queue,
        wake_queue=wake_queue,
    )
    async with RunningBridge(config) as running:
        yield await Client.connect(running.address, **client_options)
