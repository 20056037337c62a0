"""Run the command `whistlestop` by `python -m whistlestop.server`."""

from __future__ import annotations

from whistlestop.server.cli import main

if __name__ == "__main__":
    main()
