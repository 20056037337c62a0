"""`whistlestop bridge`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from whistlestop.common.log_text import LineFormatter
from whistlestop.net.listen_address import ListenAddress, parse_listen
from whistlestop.server.cli.auth_flags import AllowAnonymous  # noqa: TC001 - typer reads the annotation
from whistlestop.server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from whistlestop.bridge import BridgeConfig

log = logging.getLogger(__name__)

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def bridge(
    *,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="URL",
            envvar="WHISTLESTOP_TARGET",
            help="URL of the frontend: a Function URL, an API Gateway, a server's HTTP endpoint.",
        ),
    ],
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="[HOST:]PORT", help="Address for SDKs and the CLI; port 0: a free one."),
    ] = "127.0.0.1:7233",
    api_key: Annotated[
        str,
        typer.Option(
            "--api-key", envvar="WHISTLESTOP_API_KEY", help="Sent as a bearer token for callers that send none."
        ),
    ] = "",
    sigv4: Annotated[
        bool, typer.Option("--sigv4", help="Sign with AWS credentials (environment, profile, instance, …).")
    ] = False,
    region: Annotated[
        str, typer.Option("--region", help="For --sigv4, if the URL does not contain it.", envvar="AWS_REGION")
    ] = "",
    signed_service: Annotated[
        str, typer.Option("--signed-service", help="For --sigv4: lambda or execute-api.", show_default="by the URL")
    ] = "",
    tls_ca: Annotated[str, typer.Option("--tls-ca", help="PEM file of CAs for the target.")] = "",
    tls_cert: Annotated[str, typer.Option("--tls-cert", help="PEM file of the bridge's own certificate (mTLS).")] = "",
    tls_key: Annotated[str, typer.Option("--tls-key", help="PEM file of the key of --tls-cert.")] = "",
    most_idle_s: Annotated[
        float, typer.Option("--most-idle", min=0.05, help="Longest interval of checks for tasks, in s.")
    ] = 30.0,
    notification_queue: Annotated[
        str,
        typer.Option(
            "--notification-queue",
            metavar="auto|URL",
            envvar="WHISTLESTOP_NOTIFICATION_QUEUE",
            help="SQS queue for notifications of tasks: `auto` creates one, or its URL. By default none.",
            show_default=False,
        ),
    ] = "",
    wake_queue: Annotated[str, typer.Option("--wake-queue", envvar="WHISTLESTOP_WAKE_QUEUE", hidden=True)] = "",
    allow_anonymous: AllowAnonymous = False,
    log_every_s: Annotated[
        float, typer.Option("--log-every", min=0, help="Seconds between log lines with counts of calls; 0: never.")
    ] = 60.0,
) -> None:
    """Serve gRPC next to a worker and forward its calls over HTTP; long polls wait here instead of at the target."""
    address = _listen_address(listen, allow_anonymous=allow_anonymous)
    # Temporal's API modules import grpcio if available, for stubs that a bridge does not use: this saves 9 MB.
    sys.modules.setdefault("grpc", None)  # type: ignore[arg-type]  # None makes the import fail
    from whistlestop.bridge import BridgeConfig

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    config = BridgeConfig(
        target, str(address), api_key=api_key, sigv4=sigv4, region=region, signed_service=signed_service, tls_ca=tls_ca,
        tls_cert=tls_cert, tls_key=tls_key, most_idle_s=most_idle_s, log_every_s=log_every_s,
        notification_queue=_notification_queue(notification_queue, wake_queue),
    )  # fmt: skip
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(config))
    except ValueError as error:
        raise CommandError(str(error), 2) from error
    except OSError as error:
        raise CommandError(str(error)) from error


def _notification_queue(queue: str, old: str) -> str:
    """Return the queue, given by its option or by the one of release 0.1.0, which is warned of."""
    if old:
        log.warning(
            "--wake-queue (WHISTLESTOP_WAKE_QUEUE) is called --notification-queue (WHISTLESTOP_NOTIFICATION_QUEUE) "
            "now: the next release does not take the old name"
        )
    return queue or old


def _listen_address(text: str, *, allow_anonymous: bool) -> ListenAddress:
    """Return the address to listen on. Raises CommandError.

    Whoever can reach the bridge can call the target with its credentials, so that other addresses than loopback have
    to be allowed explicitly.
    """
    try:
        address = parse_listen(text)
    except ValueError as error:
        raise CommandError(f"--listen {error}", 2) from error
    if not address.is_loopback and not allow_anonymous:
        raise CommandError(
            f"{text} is not a loopback address, and whoever reaches the bridge can use its credentials: listen on "
            "127.0.0.1, or give --allow-anonymous",
            2,
        )
    return address


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not available on every platform
        return None
    return uvloop.new_event_loop


async def _serve(config: BridgeConfig) -> None:
    from whistlestop.bridge import RunningBridge

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with RunningBridge(config) as running:
        print(f"Whistlestop bridge {version('whistlestop')}\n\ngRPC:    {running.address}", flush=True)
        if not parse_listen(config.listen).is_loopback:
            print("Callers: anybody who reaches this address, with the bridge's credentials", flush=True)
        print(f"Target:  {config.target}", flush=True)
        await stop.wait()
