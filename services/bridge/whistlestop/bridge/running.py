"""A running bridge: its settings, its target, its gRPC server, and the log line with its counters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from dataclasses import field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from whistlestop.bridge.auth import ApiKey, InOrder, NoAuth, SigV4, region_of
from whistlestop.bridge.counters import Counters
from whistlestop.bridge.grpc_server import BridgeServer
from whistlestop.bridge.probe_schedule import AdaptiveSchedule, NotifiedSchedule
from whistlestop.bridge.service import Bridge
from whistlestop.bridge.target import ConnectTarget
from whistlestop.common.clock import SystemClock
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.private_files import warn_if_open
from whistlestop.net.listen_address import host_port, parse_listen

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from whistlestop.bridge.auth import Auth
    from whistlestop.bridge.probe_schedule import ProbeSchedule
    from whistlestop.bridge.sqs import SqsNotificationQueue

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """Settings of a bridge. Durations are in seconds (`*_s`)."""

    target: str
    """http(s) URL of a frontend: a Function URL, an API Gateway, a server's HTTP endpoint."""
    listen: str = "127.0.0.1:0"
    """Address for SDKs: `HOST:PORT`, or `PORT` on 127.0.0.1. Callers are not authenticated: keep it on loopback."""
    api_key: str = field(default="", repr=False)
    """Sent for callers that send none; beside a signature, in `X-Whistlestop-Authorization`."""
    sigv4: bool = False
    region: str = ""
    """For SigV4, if the URL does not contain it."""
    signed_service: str = ""
    """For SigV4: lambda or execute-api, if it does not follow from the URL."""
    tls_ca: str = ""
    """PEM file of CAs that may sign the target's certificate, instead of the system's."""
    tls_cert: str = ""
    """PEM files of the bridge's own certificate and key, for a target that requires one (mTLS)."""
    tls_key: str = ""
    most_idle_s: float = 30.0
    """The longest interval of checks for tasks, if the target cannot hold them."""
    wake_queue: str = ""
    """The name of `notification_queue` in release 0.1.0."""
    log_every_s: float = 60.0
    """Interval of log lines with the counters; 0: never."""
    notification_queue: str = ""
    """SQS queue for notifications of tasks: `auto` creates one, or its URL; empty: none."""

    def __post_init__(self) -> None:
        if self.wake_queue:
            warnings.warn("wake_queue is called notification_queue now", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "notification_queue", self.notification_queue or self.wake_queue)


class RunningBridge:
    """An async context manager that listens while entered. Raises OSError, and ValueError for bad settings."""

    def __init__(self, config: BridgeConfig) -> None:
        self.config = config
        self._address = parse_listen(config.listen)
        if not self._address.is_loopback:
            logger.warning("%s: whoever can reach this address can use the bridge's credentials", self._address)
        self.counters = Counters()
        self._clock = SystemClock()
        self._target = ConnectTarget(config.target, _auth(config), self.counters, _tls(config))
        self._notification_queue = _notification_queue(config, self.counters)
        self.bridge = Bridge(self._target, self._clock, self.counters, self._make_schedule)
        self._server = BridgeServer(self.bridge, self._clock)
        self._reporter: asyncio.Task[None] | None = None
        self.port = 0

    def _make_schedule(self) -> ProbeSchedule:
        if self._notification_queue is not None:
            return NotifiedSchedule(self._clock, self._notification_queue, self.config.most_idle_s)
        return AdaptiveSchedule(self._clock, most_s=self.config.most_idle_s)

    @property
    def address(self) -> str:
        """`host:port` for SDKs."""
        return host_port(self._address.ip, self.port)

    async def __aenter__(self) -> Self:
        self.port = await self._server.start(self._address)
        if self._notification_queue is not None:
            self._notification_queue.start()
        if self.config.log_every_s:
            self._reporter = asyncio.create_task(self._report(), name="bridge counters")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._reporter is not None:
            self._reporter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reporter
        await self.bridge.close()
        await self._server.stop()
        if self._notification_queue is not None:
            await self._notification_queue.close()
        self._target.close()
        logger.info("bridge calls in all: %s", self.counters.line())

    async def _report(self) -> None:
        before = self.counters.copy()
        while True:
            await self._clock.sleep(self.config.log_every_s)
            if self.counters.total != before.total:
                logger.info(
                    "bridge calls in %g s: %s waiting_polls=%d",
                    self.config.log_every_s, self.counters.line(before), self.bridge.waiting,
                )  # fmt: skip
            before = self.counters.copy()


def _notification_queue(config: BridgeConfig, counters: Counters) -> SqsNotificationQueue | None:
    if not config.notification_queue:
        return None
    from whistlestop.bridge.sqs import AUTO, SqsNotificationQueue

    if config.notification_queue != AUTO and not urlsplit(config.notification_queue).scheme.startswith("http"):
        raise ValueError(
            f"the notification queue must be `{AUTO}` or the URL of a queue, not {config.notification_queue!r}"
        )
    return SqsNotificationQueue(
        config.notification_queue, counters=counters, region=config.region or region_of(config.target)
    )


def _auth(config: BridgeConfig) -> Auth:
    key = ApiKey(config.api_key) if config.api_key else NoAuth()
    return InOrder(key, SigV4(config.target, config.region, config.signed_service)) if config.sigv4 else key


def _tls(config: BridgeConfig) -> ssl.SSLContext | None:
    if bool(config.tls_cert) != bool(config.tls_key):
        raise ValueError("mTLS needs a certificate and its key")
    if urlsplit(config.target).scheme != "https":
        if config.tls_ca or config.tls_cert:
            raise ValueError("TLS settings need an https target")
        return None
    import ssl

    from whistlestop.net.tls import ReloadedContext

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=config.tls_ca or None)
        context.set_alpn_protocols(["http/1.1"])
        if config.tls_cert:
            context.load_cert_chain(config.tls_cert, config.tls_key)
        return context

    if config.tls_key:
        warn_if_open("the key of TLS", config.tls_key)
    return ReloadedContext(make, (config.tls_ca, config.tls_cert, config.tls_key))
