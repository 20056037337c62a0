"""Starts the real dev server and ours, each as a process of its own on a free loopback port."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest, GetSystemInfoResponse

from tests.postgres import fresh_database
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Server(str):
    """The address of a server that is up, for gRPC; `http` is the one for HTTP."""

    __slots__ = ("http",)
    http: str

    @classmethod
    def at(cls, port: int, http_port: int) -> Server:
        """On loopback."""
        server = cls(f"127.0.0.1:{port}")
        server.http = f"http://127.0.0.1:{http_port}"
        return server


STORES = ("memory", "sqlite", "postgres")


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def cli() -> str:
    """The official command line."""
    return _beside_python("temporal")


# Search attributes are there as soon as they were added, and a worker that leaves ends its polls: switched on, as the
# SDKs' own test suites do, since ours has no switch for either. Skipping time and commands to workers are off by default
# on both.
_SETTINGS = (
    "system.forceSearchAttributesCacheRefreshOnRead=true",
    "frontend.enableCancelWorkerPollsOnShutdown=true",
    "frontend.WorkflowTimeSkippingEnabled=true",
    "system.enableCancelActivityWorkerCommand=true",
    "frontend.WorkerCommandsEnabled=true",
)


# The real server lets a namespace ask visibility ten times a second, and has standalone activities switched off.
_REAL_SETTINGS = (
    *_SETTINGS,
    "frontend.namespaceRPS.visibility=10000",
    "frontend.namespaceBurstRatio.visibility=2",
    "frontend.WorkflowPauseEnabled=true",
    "frontend.enableBatchOperationsForStandaloneActivities=true",
    "activity.enableStandalone=true",
    "nexusoperation.enableStandalone=true",
    "activity.enableCallbacks=true",
    "history.enableStandaloneActivityOperatorCommands=true",
    "frontend.workflowRulesAPIsEnabled=true",
)


# Worker versioning of before deployments, which has been off by default for long.
BUILD_IDS = ("frontend.workerVersioningDataAPIs=true", "frontend.workerVersioningRuleAPIs=true")


# Limits that a scenario reaches in no time; and what is off on the other servers, so that it needs none of its own.
LOW_LIMITS = (
    *BUILD_IDS,
    "limit.versionCompatibleSetLimitPerQueue=3",
    "limit.versionBuildIdLimitPerQueue=4",
    "limit.reachabilityTaskQueueScan=1",
    "limit.wv.AssignmentRuleLimitPerQueue=3",
    "limit.wv.RedirectRuleLimitPerQueue=4",
    "limit.wv.RedirectRuleMaxUpstreamBuildIDsPerQueue=2",
    "limit.numPendingActivities.error=3",
    "limit.numPendingChildExecutions.error=3",
    "limit.numPendingSignals.error=3",
    "limit.numPendingCancelRequests.error=3",
    "limit.blobSize.error=2500",
    "limit.blobSize.warn=100",
    "limit.memoSize.error=1000",
    "limit.memoSize.warn=100",
    "limit.historyCount.error=20",
    "limit.historyCount.warn=10",
    "limit.historyCount.suggestContinueAsNew=9",
    "limit.historySize.error=10000",
    "limit.historySize.warn=4000",
    "limit.historySize.suggestContinueAsNew=5000",
    "limit.maxIDLength=200",
    "history.maximumSignalsPerExecution=5",
    'history.longPollExpirationInterval="2s"',
    "history.enableWorkflowTaskCompletionPagination=true",
    "history.workflowTaskCompletionBufferSizeLimit=2000",
    "history.maxInFlightUpdates=2",
    "history.maxInFlightUpdatePayloads=1000",
    "history.maxTotalUpdates=2",
    "history.maxTotalUpdates.suggestContinueAsNewThreshold=0.6",
    "history.maximumBufferedEventsBatch=3",
    "frontend.searchAttributesNumberOfKeysLimit=2",
    "frontend.searchAttributesSizeOfValueLimit=100",
    "frontend.searchAttributesTotalSizeLimit=250",
    "matching.historyMaxPageSize=2",
    "system.enableCrossNamespaceCommands=true",
    "history.enableCHASMSignalBacklinks=true",
    'worker.protectedNamespaces=["parity-protected"]',
    'component.nexusoperations.disallowedHeaders=["X-Unwanted"]',
    'nexusoperation.disallowedHeaders=["X-Unwanted"]',
    'nexusoperation.retryPolicy={"InitialInterval": "40s", "MaxInterval": "50s"}',
    'component.nexusoperations.limit.scheduleToCloseTimeout="1h"',
    'nexusoperation.limit.scheduleToCloseTimeout="1h"',
    "nexusoperation.limit.reasonLength=5",
    'frontend.nexusRequestHeadersBlacklist=["x-secret*", "accept-encoding"]',
)


# Order is told of one partition, and fairness keys are off by default there.
ONE_FAIR_PARTITION = (
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
    "matching.enableFairness=true",
)


def _flags(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--dynamic-config-value", setting)]


@asynccontextmanager
async def real_server(more: tuple[str, ...] = (), *, plain: bool = False) -> AsyncIterator[Server]:
    """The real dev server, in memory. `plain`: with `more` for its only settings."""
    port, http_port = free_port(), free_port()
    arguments = [
        _beside_python("temporal"),
        "server",
        "start-dev",
        "--headless",
        "--ip",
        "127.0.0.1",
        "--port",
        str(port),
        "--http-port",
        str(http_port),
    ]
    async with _running(
        [*arguments, "--log-level", "error", *_flags(more if plain else (*_REAL_SETTINGS, *more))], port
    ):
        yield Server.at(port, http_port)


@asynccontextmanager
async def our_server(store: str, more: tuple[str, ...] = (), *, plain: bool = False) -> AsyncIterator[Server]:
    """Our server over one of the stores. `plain`: with `more` for its only settings."""
    port, http_port = free_port(), free_port()
    server = Server.at(port, http_port)
    ports = ["--port", str(port), "--http-port", str(http_port)]
    flags = ["--ip", "127.0.0.1", *ports, "--log-level", "error", *_flags(more if plain else (*_SETTINGS, *more))]
    ours = _beside_python("whistlestop")
    if store == "memory":
        async with _running([ours, "server", "start-dev", "--headless", *flags], port):
            yield server
    elif store == "sqlite":
        with tempfile.TemporaryDirectory(prefix="whistlestop-parity-") as folder:
            async with _running(
                [ours, "server", "start-dev", "--headless", *flags, "--db-filename", f"{folder}/w.db"], port
            ):
                yield server
    else:
        async with (
            fresh_database() as url,
            _running([ours, "server", "start", *flags, "--database-url", url], port),
        ):
            yield server


@contextmanager
def in_a_loop_of_its_own(serving: AbstractAsyncContextManager[Server]) -> Iterator[Server]:
    """Run a server for tests that have an event loop each: its own goes on between them."""
    with asyncio.Runner() as runner:
        address = runner.run(serving.__aenter__())
        try:
            yield address
        finally:
            runner.run(serving.__aexit__(None, None, None))


@asynccontextmanager
async def _running(arguments: list[str], port: int) -> AsyncIterator[str]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)  # noqa: ASYNC220
        try:
            address = f"127.0.0.1:{port}"
            if not await _ready(address, process):
                log.seek(0)
                raise RuntimeError(f"{arguments[0]} did not come up:\n{log.read().decode(errors='replace')[-4000:]}")
            yield address
        finally:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _ready(address: str, process: subprocess.Popen[bytes]) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/temporal.api.workflowservice.v1.WorkflowService/GetSystemInfo",
            request_serializer=GetSystemInfoRequest.SerializeToString,
            response_deserializer=GetSystemInfoResponse.FromString,
        )
        for _ in range(3000):
            if process.poll() is not None:
                return False
            with suppress(grpc.aio.AioRpcError):
                await call(GetSystemInfoRequest(), timeout=2, wait_for_ready=True)
                return True
            await asyncio.sleep(0.1)
    return False
