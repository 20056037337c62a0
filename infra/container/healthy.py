"""Check whether the server in this container is healthy: exit code 0 or 1.

WHISTLESTOP_HEALTH_URL is the URL to check, by default that of the HTTP endpoint.
"""

from __future__ import annotations

import os
import sys
import urllib.request

URL = "http://127.0.0.1:7243/healthz"


def main() -> int:
    """Check the HTTP endpoint (in a container of history or matching, the internal one)."""
    try:
        url = os.environ.get("WHISTLESTOP_HEALTH_URL", URL)
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - of the operator
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
