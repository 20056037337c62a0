"""Needs the registries of four languages: runs by `make test-releases`, not by `make test`."""

from __future__ import annotations

import os

# `make test-releases` sets this.
collect_ignore = [] if os.environ.get("WHISTLESTOP_TEST_RELEASES") else ["test_releases.py"]
