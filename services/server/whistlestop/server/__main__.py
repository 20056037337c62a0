"""`python -m whistlestop.server` is the command `whistlestop`."""

from __future__ import annotations

from whistlestop.server.cli import main

if __name__ == "__main__":
    main()
