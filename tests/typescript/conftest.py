"""Needs npm and its registry (262 MB): runs by `make test-typescript`, not by `make test`."""

from __future__ import annotations

import os

# Not skipped but not there: `make test-typescript` sets this.
collect_ignore = [] if os.environ.get("WHISTLESTOP_TEST_TYPESCRIPT") else ["test_typescript.py"]
