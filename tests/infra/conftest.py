"""What needs environments of its own (LocalStack's, SAM's, bundles) runs by `make test-infra`, not by `make test`."""

from __future__ import annotations

import os

# Not skipped but not there: `make test-infra` sets this, and builds whatever is missing.
collect_ignore = [] if os.environ.get("WHISTLESTOP_TEST_INFRA") else [
    "test_bundle.py", "test_localstack.py", "test_process.py", "test_template.py",
]  # fmt: skip
