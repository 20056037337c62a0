"""What needs environments of its own (LocalStack's, SAM's, bundles) runs by `make test-infra`, not by `make test`."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("WHISTLESTOP_BUNDLE_CACHE", str(Path(__file__).resolve().parents[2] / "build" / "bundle"))
# Not skipped but not there: `make test-infra` sets this, and builds whatever is missing.
collect_ignore = [] if os.environ.get("WHISTLESTOP_TEST_INFRA") else [
    "test_bundle.py", "test_deploy.py", "test_localstack.py", "test_process.py", "test_template.py",
]  # fmt: skip
