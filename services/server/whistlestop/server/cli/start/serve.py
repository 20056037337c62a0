"""Run a server until it is asked to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from typing import TYPE_CHECKING

from whistlestop.common.dynamic_config import InvalidDynamicConfig
from whistlestop.frontend.auth.keys import BadKeys
from whistlestop.net.listen_address import host_port, is_loopback
from whistlestop.server.cli.errors import CommandError
from whistlestop.server.config import BadConfig, bind_address, callers
from whistlestop.server.release import VERSION
from whistlestop.storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from whistlestop.server.process import Server

log = logging.getLogger(__name__)


def serve(server: Server, title: str, advice: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; then drain. Return the exit code. Raise CommandError if it cannot start."""
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        return runner.run(_serve(server, title, advice))
    except (BadConfig, BadKeys, InvalidDynamicConfig, StorageError) as error:
        raise CommandError(str(error)) from error
    finally:
        _close(runner)


def _close(runner: asyncio.Runner) -> None:
    """Close the event loop of a server that has drained.

    uvloop refuses to (EBUSY) while a transport is left open, as happened to a process that was stopped on a busy
    machine. The process ends now and takes the transport along, so that is no failure.
    """
    try:
        runner.close()
    except OSError as error:
        log.debug("the event loop was not closed: %s", error)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not available on every platform
        return None
    return uvloop.new_event_loop


async def _serve(server: Server, title: str, advice: Sequence[str]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with server:
        _announce(server, title, advice)
        await server.started()
        # Objects made at the start are permanent: exempt them from the garbage collector, which was off meanwhile.
        gc.freeze()
        gc.enable()
        await stop.wait()
        # A second signal ends the process at once.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
    return 0


def _announce(server: Server, title: str, advice: Sequence[str]) -> None:
    config = server.config
    ip = config.ip
    scheme = "https" if config.tls else "http"
    lines = [f"{title} {VERSION}", ""]
    if server.port:
        lines.append(f"gRPC:    {host_port(ip, server.port)}")
    if server.http_port:
        lines.append(f"HTTP:    {scheme}://{host_port(ip, server.http_port)}")
    if server.internal_port:
        lines.append(f"Internal: http://{host_port(config.internal_ip or ip, server.internal_port)}")
    if server.metrics_port:
        metrics_ip = config.metrics_address()
        said = "" if is_loopback(bind_address(metrics_ip)) else " (open to anybody who reaches this address)"
        lines.append(f"Metrics: http://{host_port(metrics_ip, server.metrics_port)}/metrics{said}")
    if asked := callers(config, bind_address(ip)):
        lines.append(f"Callers: {asked}")
    lines.append(f"State:   {config.store.describe()}")
    if not config.store.in_memory:
        lines += [f"         applied migration {name}" for name in server.applied_migrations]
    lines += ["", *advice] if advice else []
    try:
        print("\n".join(lines), flush=True)
    except OSError:  # nobody reads standard output; go on serving
        sys.stdout = sys.stderr
