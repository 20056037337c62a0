"""Run LocalStack by hand: `python -m infra.localstack setup | start | stop`."""

from __future__ import annotations

import argparse
import sys

from infra.localstack import server
from infra.localstack.environment import HOME, NAMES, ensure

PORT = 4566


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.localstack", description=__doc__)
    parser.add_argument("what", choices=("setup", "start", "stop"))
    parser.add_argument("--port", type=int, default=PORT, help="on 127.0.0.1 (%(default)s)")
    given = parser.parse_args()
    noted = HOME / f"localstack-{given.port}.pid"
    if given.what == "setup":
        for name in NAMES:
            print(ensure(name))
    elif given.what == "start":
        started = server.start(given.port, HOME / f"run-{given.port}")
        noted.write_text(str(started.process.pid), "ascii")
        print("\n".join(f"export {name}={value}" for name, value in started.client_environ.items()))
    elif noted.is_file():
        server.stop(int(noted.read_text("ascii")))
        noted.unlink()
    return 0


sys.exit(main())
