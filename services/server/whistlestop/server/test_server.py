"""The command `whistlestop-test-server PORT`: an in-memory server that skips time, started by SDKs like Temporal's.

Time skipping is locked at the start, unless `--enable-time-skipping` is given; clients unlock it while they wait.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Never

from whistlestop.server.cli.errors import CommandError
from whistlestop.server.cli.start.message_imports import import_messages_alone
from whistlestop.server.config import ServerConfig, development_outbound

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> Never:
    """Serve until asked to stop, then exit the process. Without arguments, those of the process are parsed."""
    parsed = _parser().parse_args(arguments)
    import_messages_alone()
    from whistlestop.server.cli.start.serve import serve
    from whistlestop.server.logs import LogFormat, configure
    from whistlestop.server.time_skipping import TimeSkippingServer

    configure(parsed.log_level, LogFormat.PRETTY)
    config = ServerConfig(
        ip=parsed.ip, port=parsed.port, http_port=None, metrics_port=None, drain_s=1.0,
        allow_outbound=development_outbound(parsed.ip),
    )  # fmt: skip
    server = TimeSkippingServer(config, locked=not parsed.enable_time_skipping)
    try:
        sys.exit(serve(server, "Whistlestop test server", ["Time is skipped while TestService is unlocked."]))
    except CommandError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(error.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("whistlestop-test-server", description="An in-memory server that skips time.")
    parser.add_argument("port", type=int, help="gRPC port; 0: a free one")
    parser.add_argument("--enable-time-skipping", action="store_true", help="start with time skipping unlocked")
    parser.add_argument("--ip", default="127.0.0.1", help="address to bind (127.0.0.1)")
    parser.add_argument("--log-level", default="warn", choices=("debug", "info", "warn", "error", "never"))
    return parser


if __name__ == "__main__":
    main()
