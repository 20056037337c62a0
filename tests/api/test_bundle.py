"""What the frontend's function must not need. What it costs to import is measured in `tests/layout/test_import_time.py`."""

from __future__ import annotations

import json
import subprocess
import sys

_PROBE = """
import json, sys
import temporalio.api.common.v1  # the package around it is the SDK's, which a bundle does not hold
before = set(sys.modules)
import whistlestop.frontend.lambda_function
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""
_UNWANTED = {
    "grpc",
    "boto3",
    "botocore",
    "pydantic",
    "uvicorn",
    "aws_lambda_powertools",
    "psycopg",
    "prometheus_client",
}


def test_import_brings_nothing_heavy() -> None:
    output = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=True, text=True).stdout
    assert _UNWANTED & set(json.loads(output)) == set()
